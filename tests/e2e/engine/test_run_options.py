"""Flags of `run`, one row each, through docker and through swarmctl: what the container sees."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine.clients import Client, install_users
from tests.e2e.engine.machine import Machine, install_box

V1 = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
CAPS = "grep CapEff /proc/self/status"
MEMORY = "/sys/fs/cgroup/memory/memory."
CPU = "/sys/fs/cgroup/cpu/cpu."

# flags, command in the container, what it prints
SEEN = [
    ("", CAPS, "CapEff:\t00000000a80425fb\n"),
    ("--cap-add NET_ADMIN --cap-drop CHOWN", CAPS, "CapEff:\t00000000a80435fa\n"),
    ("--cap-drop ALL", CAPS, "CapEff:\t0000000000000000\n"),
    ("--privileged", CAPS, "CapEff:\t000001f.*\n"),
    ("--privileged", "ls /dev/kmsg", "/dev/kmsg\n"),
    ("--security-opt no-new-privileges", "grep NoNew /proc/self/status", "NoNewPrivs:\t1\n"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", "Seccomp:\t0\n"),
    ("", "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"),
    ("--device /dev/null:/dev/hole:rw", "sh -c 'echo x > /dev/hole; echo $?'", "0\n"),
    ("--device-cgroup-rule 'c 10:* rwm'", "sh -c 'mknod /tmp/f c 10 1; echo $?'", "0\n"),
    ("--oom-score-adj 300", "cat /proc/self/oom_score_adj", "300\n"),
    ("--shm-size 32m", "sh -c 'df -k /dev/shm | tail -1'", r"shm +32768 .*\n"),
    ("--ulimit nofile=100:200", "sh -c 'ulimit -n; ulimit -Hn'", "100\n200\n"),
    ("--sysctl net.ipv4.ip_forward=1", "cat /proc/sys/net/ipv4/ip_forward", "1\n"),
    ("--sysctl kernel.msgmax=1000", "cat /proc/sys/kernel/msgmax", "1000\n"),
    ("--read-only", "sh -c 'touch /x; echo $?'", "1\n"),
    ("--read-only", "sh -c 'touch /etc/hosts; echo $?'", "1\n"),
    ("--read-only --tmpfs /tmp", "sh -c 'touch /tmp/x; echo $?'", "0\n"),
    ("--entrypoint /bin/echo", "a b", "a b\n"),
    ("-w /new/dir", "sh -c pwd", "/new/dir\n"),
    ("-u bob", "id", r"uid=1000\(bob\) gid=1001\(bobs\) groups=10\(wheel\),1001\(bobs\)\n"),
    ("-u bob:wheel", "id", r"uid=1000\(bob\) gid=10\(wheel\) groups=10\(wheel\)\n"),
    ("-u 7:8 --group-add wheel --group-add 99", "id", r"uid=7 gid=8 groups=8,10\(wheel\),99\n"),
    ("-h foo.bar", "cat /etc/hostname", "foo.bar\n"),
    ("-e X=1 --env-file {root}/envs", "sh -c 'echo $X $FROM_FILE'", "1 yes\n"),
    ("--pid host", "sh -c 'ls -d /proc/[0-9]* | wc -l'", r"\d{{2,}}\n"),
    ("--uts host", "hostname", ".*\n"),
    ("--ipc none", "sh -c 'mount | grep -c shm'", "0\n"),
    ("--ipc host", "sh -c 'mount | grep -c shm'", "1\n"),
    ("--cgroupns host", "grep -c {cgroup} /proc/self/cgroup", r"[1-9]\d*\n"),
    ("--cgroupns private", "grep -c {cgroup} /proc/self/cgroup", "0\n"),
    ("--userns host", "echo same", "same\n"),
    ("--runtime runc", "echo ran", "ran\n"),
    ("--init --pid host", "echo hosted", "hosted\n"),
    ("--log-driver none", "echo shown", "shown\n"),
    ("--stop-signal USR1 --stop-timeout 3", "echo said", "said\n"),
    ("--platform linux/amd64", "echo here", "here\n"),
    (
        "--dns 10.0.0.53 --dns-search a.org --dns-opt ndots:3",
        "cat /etc/resolv.conf",
        "nameserver 10.0.0.53\nsearch a.org\noptions ndots:3\n",
    ),
    (
        "--add-host db:10.1.2.3",
        "grep 10.1.2.3 /etc/hosts",
        "10.1.2.3\tdb\n",
    ),
    ("-v {root}:/b:ro", "sh -c 'cat /b/envs | wc -l; touch /b/x; echo $?'", "2\n1\n"),
    ("-v seen:/v", "sh -c 'touch /v/x; echo $?'", "0\n"),
    ("--network bridge", "sh -c 'ip -o -4 addr | wc -l'", "2\n"),
    ("--label-file {root}/envs --annotation k=v", "echo labelled", "labelled\n"),
    ("--restart on-failure:2 --label x", "echo once", "once\n"),
]
SEEN_ON_V1 = [
    ("--cpu-shares 512", f"cat {CPU}shares", "512\n"),
    ("--cpu-period 50000 --cpu-quota 20000", f"cat {CPU}cfs_quota_us", "20000\n"),
    ("--cpus 0.5", f"cat {CPU}cfs_quota_us", "50000\n"),
    ("--cpuset-cpus 0", "grep Cpus_allowed_list /proc/self/status", "Cpus_allowed_list:\t0\n"),
    ("-m 64m", f"cat {MEMORY}limit_in_bytes", f"{64 << 20}\n"),
    ("-m 64m --memory-swap 96m", f"cat {MEMORY}memsw.limit_in_bytes", f"{96 << 20}\n"),
    ("--memory-reservation 32m", f"cat {MEMORY}soft_limit_in_bytes", f"{32 << 20}\n"),
    ("--memory-swappiness 10", f"cat {MEMORY}swappiness", "10\n"),
    ("-m 64m --oom-kill-disable", f"grep disable {MEMORY}oom_control", "oom_kill_disable 1\n"),
    ("--blkio-weight 300", "cat /sys/fs/cgroup/blkio/blkio.bfq.weight", "300\n"),
    (
        "--device-read-bps /dev/loop0:1mb",
        "cat /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device",
        f"7:0 {1 << 20}\n",
    ),
    (
        "--device-write-iops /dev/loop0:50",
        "cat /sys/fs/cgroup/blkio/blkio.throttle.write_iops_device",
        "7:0 50\n",
    ),
    ("--pids-limit 20", "cat /sys/fs/cgroup/pids/pids.max", "20\n"),
]
# flags, words of the refusal
REFUSED = [
    ("--cap-add BOGUS", "unknown capability"),
    ("--security-opt apparmor=mine", "apparmor=mine"),
    ("--security-opt label=type:mine", "label=type:mine"),
    ("--security-opt seccomp=/nosuch", "opening seccomp profile"),
    ("--device /dev/nosuch", "error gathering device information"),
    ("-m 1m", "Minimum memory limit allowed is 6MB"),
    ("-m 64m --memory-swap 32m", "larger than memory limit"),
    ("-m 64m --memory-reservation 65m", "less than memory reservation"),
    ("--cpus 1000", "range of CPUs is from"),
    ("--cpuset-cpus 999", "Requested CPUs are not available"),
    ("--oom-score-adj 2000", "oom score adj"),
    ("--net host --sysctl net.ipv4.ip_forward=1", "not allowed in host network namespace"),
    ("--stop-signal BOGUS", "Invalid signal: BOGUS"),
    ("--log-driver syslog", "syslog"),
    ("--log-opt compress=true", "compress"),
    ("--log-opt tag={{{{.Bogus}}}}", "only"),
    ("-u nosuch", "unable to find user nosuch"),
    ("--group-add nosuch", "unable to find group nosuch"),
    ("-w relative", "needs to be an absolute path"),
    ("--gpus all", "DeviceRequests"),
    ("--cgroup-parent /x/../y", "must not hold"),
    ("--runtime bogus", "unknown or invalid runtime name: bogus"),
    ("--blkio-weight 5", "Range of blkio weight is from 10 to 1000"),
    ("--device-read-bps /dev/null:1mb", "not a block device"),
    ("--ipc container:nosuch", "No such container: nosuch"),
    ("--pid container:nosuch", "No such container: nosuch"),
    ("--uts host -h x", "conflicting options: hostname"),
    ("--storage-opt size=1g", "size needs storage driver btrfs, not overlay2"),
    ("--cpu-rt-runtime 1", "(?i)cpu-?r(t|ealtime)"),
    ("--isolation hyperv", "(?i)isolation"),
    ("--network name=bridge,link-local-ip=169.254.1.1", "(?i)link-?local"),
    ("--volume-driver nfs -v x:/x", "(?i)volume.?driver"),
    ("-p 7:7/sctp", "sctp"),
    ("--storage-opt bogus=1", "storage option 'bogus' is not supported"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine for all rows."""
    machine = Machine(tmp_path_factory.mktemp("options"))
    try:
        machine.start()
        install_box(machine)
        install_users(machine)
        (machine.root / "envs").write_text("# a comment\nFROM_FILE=yes\n")
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="module", params=["docker", "swarmctl"])
def client(shared: Machine, request: pytest.FixtureRequest) -> Client:
    """Each of the two clients."""
    return Client(request.param, shared)


def words_of(text: str, machine: Machine) -> list[str]:
    return shlex.split(text.replace("{root}", str(machine.root)).replace("{cgroup}", machine.cgroup)
                       .replace("{{{{", "{{").replace("}}}}", "}}"))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "command", "out"),
    [*SEEN, *(SEEN_ON_V1 if V1 else [])],
    ids=lambda value: value or "none",
)
def test_a_flag_is_seen_in_the_container(
    client: Client, options: str, command: str, out: str
) -> None:
    flags = words_of(options, client.machine)
    keep = [] if "--restart" in flags else ["--rm"]
    ended = client.run("run", *keep, *flags, "users:1", *words_of(command, client.machine))
    assert re.fullmatch(out.replace("{{", "{").replace("}}", "}"), ended.out), ended


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_is_refused_by_name(client: Client, options: str, words: str) -> None:
    flags = words_of(options, client.machine)
    ended = client.run("run", "--rm", *flags, "users:1", "true")
    assert ended.code in (125, 127), ended
    assert re.search(words, ended.err), ended


def test_a_cidfile_is_written_once(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    client.good("run", "--rm", "--cidfile", str(file), "users:1", "true")
    assert re.fullmatch("[0-9a-f]{64}", file.read_text())
    again = client.run("run", "--rm", "--cidfile", str(file), "users:1", "true")
    assert again.code == 125
    assert "ID file found" in again.err


def test_ipc_of_another_container_is_shared_where_that_one_lets_it(shared: Machine) -> None:
    script = "echo shared > /dev/shm/file; sleep 1000"
    donor = ("run", "-d", "--ipc", "shareable", "--name", "donor", "box:1")
    shared.docker(*donor, "sh", "-c", script)
    ask = "busybox readlink /proc/self/ns/ipc"
    whole = shared.out("exec", "donor", "sh", "-c", ask)
    read = f"until cat /dev/shm/file; do sleep 0.05; done && {ask} && touch /dev/shm/back"
    told = shared.out("run", "--rm", "--ipc", "container:donor", "box:1", "sh", "-c", read)
    assert told.splitlines()[-2:] == ["shared", whole]
    shared.docker("exec", "donor", "ls", "/dev/shm/back")
    shared.docker("run", "-d", "--name", "closed", "box:1", "sleep", "1000")
    words = ["run", "--rm", "--ipc", "container:closed", "box:1", "true"]
    assert "non-shareable IPC" in shared.refused(*words, code=125)
    for name in ("donor", "closed"):
        shared.docker("rm", "-f", name)


def test_a_container_below_a_cgroup_of_its_own(shared: Machine) -> None:
    parent = f"{shared.cgroup}p"
    words = ("run", "-d", "--name", "low", "-m", "64m", "--cgroup-parent", f"{parent}/low")
    try:
        shared.docker(*words, "box:1", "sleep", "1000")
        seen = shared.inspect("inspect", "low")
        assert seen["HostConfig"]["CgroupParent"] == f"{parent}/low"
        places = Path(f"/proc/{seen['State']['Pid']}/cgroup").read_text()
        assert f"/{parent}/low/{seen['Id']}\n" in places
        assert shared.out("stats", "--no-stream", "--format", "{{.PIDs}}", "low") == "1"
        shared.docker("restart", "-t", "0", "low")
        shared.docker("rm", "-f", "low")
        left = [*Path("/sys/fs/cgroup").glob(f"*/{parent}/low/*")]
        assert not any(path.is_dir() for path in left)
    finally:
        for group in (*Path("/sys/fs/cgroup").glob(f"*/{parent}/low"),):
            group.rmdir()
            group.parent.rmdir()
