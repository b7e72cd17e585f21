"""The lab keeps its promises: namespaces, power cuts, partitions, coexistence, clean-up."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LAB = Path(__file__).parents[3] / "deploy" / "lab" / "lab"
STANDIN = Path(__file__).parent / "standin"
TIMEOUT_S = 60

Run = Callable[..., subprocess.CompletedProcess[str]]


def lab(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LAB), "--name", name, *words], capture_output=True, text=True, timeout=TIMEOUT_S
    )


def up(name: str, managers: int = 1, workers: int = 2) -> None:
    words = [
        "--bare",
        "--bin",
        str(STANDIN),
        "--managers",
        str(managers),
        "--workers",
        str(workers),
    ]
    done = lab(name, "up", *words)
    assert done.returncode == 0, done.stderr


def traces(name: str) -> list[str]:
    """Everything on the machine that carries the lab's name."""
    found = [str(path) for path in Path("/run/netns").glob(f"{name}-*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/swarm-lab/{name}")]
    found += [
        p for p in (f"/var/lib/swarm-lab/{name}", f"/run/swarm-lab/{name}") if os.path.exists(p)
    ]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [line for line in mounts if f"{name}-" in line or f"swarm-lab/{name}/" in line]
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SWARM_LAB={name}".encode() in words:
            found.append(str(process))
    return found


@pytest.fixture
def names() -> Iterator[list[str]]:
    """Names of labs a test may bring up; all are gone afterwards, whatever happened."""
    chosen = [f"t{os.getpid()}a", f"t{os.getpid()}b"]
    yield chosen
    for name in chosen:
        down = lab(name, "down")
        assert down.returncode == 0, down.stderr
        assert traces(name) == []


@pytest.fixture
def run(names: list[str]) -> Run:
    """Bring one small lab up and return its command line; a failure raises unless `ok=False`."""
    up(names[0])

    def call(*words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = lab(names[0], *words)
        assert not ok or done.returncode == 0, f"{words}: {done.stderr}"
        return done

    return call


def reaches(run: Run, source: str, target: str, timeout_s: float = 5.0) -> bool:
    """Tell whether a TCP connection from source reaches target: refused is an answer as well.

    Asks again until then: a search for the neighbour that began in a partition fails after it.
    """
    address = run("address", target).stdout.strip()
    probe = f"""
import socket, sys, time
end = time.monotonic() + {timeout_s}
while (left := end - time.monotonic()) > 0:
    with socket.socket() as s:
        s.settimeout(left)
        if s.connect_ex((sys.argv[1], 9)) in (0, 111):
            sys.exit(0)
sys.exit(1)
"""
    where = ["client"] if source == "client" else ["exec", source]
    return run(*where, "/usr/bin/python3", "-c", probe, address, ok=False).returncode == 0


def test_a_node_has_namespaces_cgroups_and_a_name_of_its_own(run: Run, names: list[str]) -> None:
    assert run("nodes").stdout.split() == ["m1", "w1", "w2"]
    for kind in ("net", "pid", "mnt", "uts", "ipc", "cgroup"):
        inside = run("exec", "w1", "readlink", f"/proc/self/ns/{kind}").stdout.strip()
        beside = run("exec", "w2", "readlink", f"/proc/self/ns/{kind}").stdout.strip()
        assert len({inside, beside, os.readlink(f"/proc/self/ns/{kind}")}) == 3
    assert run("exec", "w1", "hostname").stdout == "w1\n"
    assert run("exec", "w1", "ls", "/sys/class/net").stdout.split() == ["eth0", "lo"]
    assert run("exec", "w1", "sh", "-c", "ls /run/netns").stdout == ""
    own = run("exec", "w1", "cat", "/proc/self/cgroup").stdout.split()
    assert {line.split(":", 2)[2] for line in own} <= {"/", "/init"}


def test_a_cgroup_made_inside_lies_in_the_nodes_subtree(run: Run, names: list[str]) -> None:
    controller = Path("/sys/fs/cgroup/pids")
    inside = controller if controller.exists() else Path("/sys/fs/cgroup")
    run("exec", "m1", "mkdir", f"{inside}/mine")
    assert (inside / "swarm-lab" / names[0] / "m1" / "mine" / "cgroup.procs").exists()
    assert not (inside / "mine").exists()


def test_exec_passes_output_host_variable_and_exit_code_on(run: Run) -> None:
    script = 'echo "$SWARM_HOST"; echo complaint >&2; exit 7'
    done = run("exec", "m1", "sh", "-c", script, ok=False)
    assert done.returncode == 7
    assert done.stdout == "unix:///run/swarm/swarmd.sock\n"
    assert done.stderr == "complaint\n"
    assert run("exec", "m1", "sh", "-c", "kill -9 $$", ok=False).returncode == 137
    assert run("exec", "m1", "no-such-program", ok=False).returncode == 127
    missing = run("exec", "w9", "true", ok=False)
    assert missing.returncode == 1
    assert "has no node w9" in missing.stderr


def test_state_is_private_and_the_disk_survives_a_power_cut(run: Run) -> None:
    run("exec", "w1", "sh", "-c", "echo kept > /var/lib/swarm/file; echo lost > /run/swarm/file")
    assert run("exec", "w2", "test", "-e", "/var/lib/swarm/file", ok=False).returncode == 1
    run("exec", "w1", "ip", "link", "add", "forgotten", "type", "bridge")
    run("kill", "w1")
    dead = run("exec", "w1", "true", ok=False)
    assert dead.returncode == 1
    assert "is off" in dead.stderr
    run("start", "w1")
    assert run("exec", "w1", "cat", "/var/lib/swarm/file").stdout == "kept\n"
    assert run("exec", "w1", "test", "-e", "/run/swarm/file", ok=False).returncode == 1
    assert "forgotten" not in run("exec", "w1", "ls", "/sys/class/net").stdout
    assert reaches(run, "w1", "m1")


def test_a_power_cut_ends_every_process_without_a_goodbye(run: Run, names: list[str]) -> None:
    detach = "setsid sh -c 'trap \"\" TERM HUP; exec sleep 9999' >/dev/null 2>&1 &"
    run("exec", "w1", "sh", "-c", detach)
    run("kill", "w1")
    assert not list(Path("/sys/fs/cgroup").glob(f"**/swarm-lab/{names[0]}/w1"))
    assert not Path("/run/netns", f"{names[0]}-w1").exists()
    again = run("kill", "w1", ok=False)
    assert "is off" in again.stderr


def test_a_frozen_process_dies_in_a_power_cut(run: Run) -> None:
    freezer = Path("/sys/fs/cgroup/freezer")
    inside = freezer if freezer.exists() else Path("/sys/fs/cgroup")
    switch = ("freezer.state", "FROZEN") if freezer.exists() else ("cgroup.freeze", "1")
    ice = f"{inside}/ice"
    script = (
        f"mkdir {ice}; sh -c 'echo $$ > {ice}/cgroup.procs; exec sleep 9999' >/dev/null 2>&1 & "
        f"until grep -q . {ice}/cgroup.procs; do :; done; echo {switch[1]} > {ice}/{switch[0]}"
    )
    run("exec", "w1", "sh", "-c", script)
    run("kill", "w1")


def test_restart_replaces_daemons_and_leaves_the_rest(run: Run) -> None:
    detach = "setsid sleep 9999 >/dev/null 2>&1 & echo $!"
    stays = run("exec", "m1", "sh", "-c", detach).stdout.strip()
    before = run("exec", "m1", "cat", "/var/lib/swarm/boots").stdout.split()
    managers = run("exec", "m1", "pgrep", "-f", "signal.pause.*swarm-manager").stdout.split()
    run("restart", "m1")
    after = run("exec", "m1", "cat", "/var/lib/swarm/boots").stdout.split()
    assert len(before) == 1
    assert len(after) == 2
    run("exec", "m1", "kill", "-0", stays)
    for gone in (before[0], managers[0]):
        assert run("exec", "m1", "kill", "-0", gone, ok=False).returncode == 1


def test_a_daemon_that_dies_is_started_again(run: Run, names: list[str]) -> None:
    (first,) = run("exec", "w1", "cat", "/var/lib/swarm/boots").stdout.split()
    run("exec", "w1", "kill", "-9", first)
    run("exec", "w1", "sh", "-c", "until [ $(wc -l < /var/lib/swarm/boots) = 2 ]; do :; done")
    assert "ended with -9" in run("logs", "w1").stdout


def test_pause_stops_the_daemons_and_resume_lets_them_go_on(run: Run) -> None:
    state = (
        "for p in $(pgrep -f 'standin/swarmd|signal.pause'); do grep State /proc/$p/status; done"
    )
    run("pause", "m1")
    stopped = run("exec", "m1", "sh", "-c", f"{state} | grep -c stopped").stdout.strip()
    assert stopped == "2"
    run("resume", "m1")
    still = run("exec", "m1", "sh", "-c", f"{state} | grep -c stopped", ok=False).stdout.strip()
    assert still == "0"


def test_partition_cuts_groups_apart_and_heal_joins_them(run: Run) -> None:
    assert reaches(run, "client", "w1")
    run("partition", "m1", "w1")
    assert reaches(run, "m1", "w1")
    assert not reaches(run, "m1", "w2", timeout_s=0.3)
    assert not reaches(run, "client", "w1", timeout_s=0.3)
    assert reaches(run, "client", "w2")
    run("kill", "w1")
    run("start", "w1")
    assert not reaches(run, "client", "w1", timeout_s=0.3), "a reboot must not leave the partition"
    run("heal")
    assert reaches(run, "client", "w1")
    assert reaches(run, "m1", "w2")


def test_labs_of_different_names_coexist(run: Run, names: list[str]) -> None:
    up(names[1], workers=0)
    first, second = (lab(name, "address", "m1").stdout for name in names)
    assert first != second
    assert lab(names[1], "down").returncode == 0
    assert traces(names[1]) == []
    assert reaches(run, "w1", "m1")


def test_the_end_of_one_lab_leaves_the_mounts_of_another(run: Run, names: list[str]) -> None:
    up(names[1], workers=0)
    assert lab(names[1], "down").returncode == 0
    mounts = run("exec", "m1", "cat", "/proc/self/mounts").stdout
    for directory in ("/var/lib/swarm", "/run/swarm", "/etc/swarm"):
        assert f" {directory} " in mounts


def test_the_same_name_twice_is_refused_and_keeps_the_first(run: Run, names: list[str]) -> None:
    again = lab(names[0], "up", "--bare", "--bin", str(STANDIN))
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert reaches(run, "w1", "m1")


def test_a_lab_whose_daemon_cannot_start_leaves_nothing(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "swarmd").write_text("no program")
    done = lab(names[0], "up", "--bare", "--bin", str(tmp_path / "missing"))
    assert done.returncode == 1
    assert "swarmd is not there" in done.stderr
    assert traces(names[0]) == []


def test_down_mends_what_an_interrupted_up_left(names: list[str]) -> None:
    Path("/var/lib/swarm-lab", names[0]).mkdir(parents=True)
    assert lab(names[0], "down").returncode == 0
    assert traces(names[0]) == []
    up(names[0], workers=0)


def test_the_root_network_namespace_is_left_alone(names: list[str]) -> None:
    def links() -> set[str]:
        return set(os.listdir("/sys/class/net"))

    before = links()
    up(names[0])
    assert links() == before
    assert lab(names[0], "down").returncode == 0
    assert links() == before
