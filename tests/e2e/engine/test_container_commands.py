"""Docker's container commands, one row each, through docker and through swarmctl."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine.clients import Client, install_users
from tests.e2e.engine.machine import Machine, install_box
from tests.e2e.lab import wait_until

ID = r"[0-9a-f]{64}\n"
SHORT = r"[0-9a-f]{12}\n"
SLEEP = ("users:1", "sleep", "1000")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine for all rows."""
    machine = Machine(tmp_path_factory.mktemp("containers"))
    try:
        machine.start()
        install_box(machine)
        install_users(machine)
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="module", params=["docker", "swarmctl"])
def client(shared: Machine, request: pytest.FixtureRequest) -> Client:
    """A client, with a running container NAME-main and an ended one NAME-done."""
    made = Client(request.param, shared)
    made.good("run", "-d", "--name", f"{made.name}-main", "-p", "80", "--label", "x=y", *SLEEP)
    script = "echo out; echo err >&2; exit 3"
    made.run("run", "--name", f"{made.name}-done", "users:1", "sh", "-c", script)
    return made


ROWS = [
    # command, expected stdout, expected stderr, exit code
    ("ps -q --no-trunc --filter name={c}-main", ID, "", 0),
    ("ps -a --filter name={c}-done --format {{{{.Status}}}}", r"Exited \(3\) .* ago\n", "", 0),
    ("ps -n 1 -q", SHORT, "", 0),
    ("ps -l -q", SHORT, "", 0),
    ("ps -s --filter name={c}-main --format {{{{.Size}}}}", r".*B \(virtual .*MB\)\n", "", 0),
    ("ps -aq --filter exited=3 --filter name={c}", SHORT, "", 0),
    ("ps -q --filter label=x=y --filter status=running --filter name={c}", SHORT, "", 0),
    ("ps -q --filter ancestor=users:1 --filter name={c}-main", SHORT, "", 0),
    ("ps -aq --filter since={c}-main --filter name={c}-done", SHORT, "", 0),
    ("ps -aq --filter before={c}-main --filter name={c}-done", "", "", 0),
    ("ps -q --filter network=bridge --filter name={c}-main", SHORT, "", 0),
    ("ps -q --filter expose=80 --filter name={c}-main", SHORT, "", 0),
    ("ps -q --filter health=none --filter name={c}-main", SHORT, "", 0),
    ("ps --filter bogus=1", "", "invalid filter 'bogus'", 1),
    ("top {c}-main", r"UID +PID(.|\n)*sleep 1000\n", "", 0),
    ("top {c}-main -o pid,comm", r"PID +COMMAND\n\d+ +sleep\n", "", 0),
    ("top {c}-done", "", "is not running", 1),
    ("stats --no-stream --format {{{{.Name}}}}:{{{{.PIDs}}}} {c}-main", "{c}-main:1\n", "", 0),
    ("port {c}-main", r"80/tcp -> 0.0.0.0:\d+\n(80/tcp -> \[::\]:\d+\n)?", "", 0),
    ("port {c}-main 80", r"0.0.0.0:\d+\n(.*\n)?", "", 0),
    ("port {c}-main 81", "", "No public port '81(/tcp)?' published for {c}-main", 1),
    ("logs {c}-done", "out\n", "err\n", 0),
    ("logs -t --tail 1 {c}-done", r"(2\S+Z out\n)?", r"(2\S+Z err\n)?", 0),
    ("logs --since 1h --until 0s {c}-done", "out\n", "err\n", 0),
    ("logs --until 1h {c}-done", "", "", 0),
    ("logs --details {c}-done", " out\n", " err\n", 0),
    ("logs nosuch", "", "No such container: nosuch", 1),
    ("wait {c}-done", "3\n", "", 0),
    ("inspect -f {{{{.State.ExitCode}}}} {c}-done", "3\n", "", 0),
    ("inspect --type container --size -f {{{{.SizeRw}}}} {c}-main", r"\d+\n", "", 0),
    ("inspect --type image {c}-main", r"\[\]\n", "No such image: {c}-main", 1),
    ("container inspect nosuch", r"\[\]\n", "No such container: nosuch", 1),
    ("exec {c}-main sh -c 'echo o; echo e >&2; exit 5'", "o\n", "e\n", 5),
    ("exec -e A=1 -w /tmp -u bob {c}-main sh -c 'echo $A $(id -u)'", "1 1000\n", "", 0),
    ("exec --privileged {c}-main grep CapEff /proc/self/status", ".*1ff.*\n", "", 0),
    ("exec {c}-main nosuch", "OCI runtime exec failed.*executable file not found.*\n", "", 127),
    ("exec {c}-main /etc", "OCI runtime exec failed.*permission denied\n", "", 126),
    ("exec -d {c}-main touch /tmp/made", "", "", 0),
    ("exec {c}-done true", "", "is not running", 1),
    ("exec -u nosuch {c}-main true", "unable to find user nosuch.*\n", "", 126),
    ("kill -s CONT {c}-main", "{c}-main\n", "", 0),
    ("kill -s BOGUS {c}-main", "", "Invalid signal: BOGUS", 1),
    ("kill {c}-done", "", "is not running", 1),
    ("rm {c}-main", "", "container is running: stop the container", 1),
    ("rm nosuch", "", "No such container: nosuch", 1),
    ("rm -f nosuch", "", "No such container: nosuch|^$", (0, 1)),
    ("pause {c}-done", "", "is not running", 1),
    ("unpause {c}-main", "", "is not paused", 1),
    ("rename {c}-main {c}-done", "", 'name "/{c}-done" is already in use by container "', 1),
    ("rename {c}-main {c}-main", "", "same name as its current name", 1),
    ("rename {c}-main x/y", "", r"Invalid container name \(x/y\)", 1),
    ("run --name {c}-main users:1", "", 'name "/{c}-main" is already in use', 125),
    ("run --name a@b users:1", "", r"Invalid container name \(a@b\)", 125),
    ("run --rm users:1 nosuch", "", "executable file not found in", 127),
    ("run --rm users:1 /etc", "", "permission denied", 126),
    ("run --rm users:1 sh -c 'exit 9'", "", "", 9),
    ("run --rm -w relative users:1 true", "", "needs to be an absolute path", 125),
    ("run --rm -d -a stdout users:1 true", "", "(?i)conflicting options.*attach", (1, 125)),
    ("run --rm -a stderr users:1 sh -c 'echo o; echo e >&2'", "", "e\n", 0),
    ("diff {c}-main", r"(A /tmp/made\n|C /tmp\n)*", "", 0),
    ("diff nosuch", "", "No such container: nosuch", 1),
    ("cp {c}-main:/nosuch -", "", "Could not find the file /nosuch in container {c}-main", 1),
    ("cp /etc/hosts {c}-main:/none/x", "", "Could not find the file /none", 1),
    ("cp nosuch:/x -", "", "No such container: nosuch", 1),
    ("export nosuch", "", "No such container: nosuch", 1),
    ("update -m 1m {c}-main", "", "Minimum memory limit allowed is 6MB", 1),
    ("attach {c}-done", "", "cannot attach to a stopped container, start it first", 1),
    ("system df", r"TYPE +TOTAL(.|\n)*Images +\d(.|\n)*Local Volumes(.|\n)*", "", 0),
    ("system df -v", r"Images space usage:(.|\n)*users(.|\n)*{c}-main(.|\n)*", "", 0),
    ("info --format {{{{.OSType}}}}", "linux\n", "", 0),
    ("version --format {{{{.Server.Version}}}}", r"\d+\.\d+\.\d+\n", "", 0),
    ("container prune -f --filter until=24h", "Total reclaimed space: 0B\n", "", 0),
    ("container prune -f --filter bogus=1", "", "invalid filter 'bogus'", 1),
]


def words_of(text: str, name: str) -> list[str]:
    """Split a row as a shell would."""
    import shlex

    return shlex.split(text.format(c=name))


@pytest.mark.parametrize(("command", "out", "err", "code"), ROWS, ids=[row[0] for row in ROWS])
def test_row(client: Client, command: str, out: str, err: str, code: int | tuple[int]) -> None:
    ended = client.run(*words_of(command, client.name))
    shown = f"{ended.out!r} {ended.err!r} {ended.code}"
    assert ended.code in (code if isinstance(code, tuple) else (code,)), shown
    assert re.fullmatch(out.replace("{c}", client.name), ended.out), shown
    if err:
        assert re.search(err.replace("{c}", client.name), ended.err), shown


@pytest.fixture
def name(client: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a container a test may make; removed at the end."""
    chosen = f"{client.name}-own"
    yield chosen
    client.run("rm", "-f", "-v", chosen)


def test_life(client: Client, name: str) -> None:
    assert re.fullmatch(ID, client.good("create", "--name", name, *SLEEP))
    assert client.good("start", name) == f"{name}\n"
    assert client.good("pause", name) == f"{name}\n"
    refused = client.run("exec", name, "true")
    assert (refused.code, "is paused, unpause" in refused.err) == (1, True)
    assert client.good("unpause", name) == f"{name}\n"
    assert client.good("stop", "-t", "1", "-s", "KILL", name) == f"{name}\n"
    assert client.good("inspect", "-f", "{{.State.ExitCode}}", name) == "137\n"
    assert client.good("restart", "-t", "0", name) == f"{name}\n"
    with client.open("wait", name) as waiting:
        assert client.good("kill", "-s", "9", name) == f"{name}\n"
        assert waiting.communicate(timeout=20)[0] == "137\n"
    client.good("rename", name, f"{name}2")
    assert client.good("rm", "-v", f"{name}2") == f"{name}2\n"


def test_a_killed_container_can_be_removed_at_once(client: Client, name: str) -> None:
    for _ in range(3):
        client.good("run", "-d", "--name", name, *SLEEP)
        client.good("kill", name)
        client.good("rm", name)


def test_update_changes_the_kernels_limits(client: Client, name: str) -> None:
    client.good("run", "-d", "--name", name, "--restart", "always", *SLEEP)
    words = ["-m", "64m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "50"]
    words += ["--cpu-shares", "300"]
    assert client.good("update", *words, name) == f"{name}\n"
    files = "/sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max"
    assert client.good("exec", name, "sh", "-c", f"cat {files} 2>/dev/null || true") == "50\n"
    template = "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}"
    assert client.good("inspect", "-f", template, name) == f"{64 << 20} always\n"
    assert client.good("inspect", "-f", "{{.HostConfig.CpuShares}}", name) == "300\n"
    client.good("update", "--restart", "no", name)
    assert client.good("inspect", "-f", template, name) == f"{64 << 20} no\n"


def test_copies_into_and_out_of_a_running_and_a_stopped_one(
    client: Client, name: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_text("A")
    (source / "sub/b").write_text("B")
    (source / "link").symlink_to("a")
    (source / "a").chmod(0o640)
    client.good("create", "--name", name, "-v", f"{name}-vol:/data", *SLEEP)
    for running in (False, True):
        if running:
            client.good("start", name)
        client.good("cp", str(source), f"{name}:/tmp")
        client.good("cp", f"{source}/.", f"{name}:/data")
        client.good("cp", f"{source}/a", f"{name}:/tmp/new")
        back = tmp_path / f"back{running}"
        back.mkdir()
        client.good("cp", f"{name}:/tmp/source", str(back))
        assert (back / "source/a").read_text() == "A"
        assert (back / "source/a").stat().st_mode & 0o777 == 0o640
        assert (back / "source/link").readlink() == Path("a")
        client.good("cp", f"{name}:/data/.", str(back))
        assert (back / "sub/b").read_text() == "B"
        client.good("cp", f"{name}:/tmp/new", str(back / "named"))
        assert (back / "named").read_text() == "A"
        client.good("cp", "-L", f"{name}:/tmp/source/link", str(back / "followed"))
        assert (back / "followed").read_text() == "A"
        whole = client.run("cp", str(source), f"{name}:/tmp/new")
        assert (whole.code, "cannot copy directory" in whole.err) == (1, True)
    listed = client.good("exec", name, "sh", "-c", "cat /tmp/source/sub/b /data/a /tmp/new")
    assert listed == "BAA"
    client.good("cp", "-a", f"{source}/a", f"{name}:/tmp/owned")


def test_tar_streams_of_cp(client: Client, name: str, tmp_path: Path) -> None:
    client.good("run", "-d", "--name", name, *SLEEP)
    client.good("exec", name, "sh", "-c", "echo hi > /tmp/f; ln -s /etc /tmp/out")
    with client.open("cp", f"{name}:/tmp/f", "-") as source:
        target = [*client.argv, "cp", "-", f"{name}:/tmp/out/"]
        subprocess.run(target, stdin=source.stdout, env=client.environment, check=True, timeout=30)
    assert client.good("exec", name, "cat", "/etc/f") == "hi\n"


def test_a_link_cannot_lead_a_copy_out_of_the_container(
    client: Client, name: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    client.good("run", "-d", "--name", name, *SLEEP)
    client.good("exec", name, "sh", "-c", f"ln -s {outside} /tmp/o; ln -s {'../' * 9} /tmp/u")
    for path in ("/tmp/o/secret", f"/tmp/u{outside}/secret", "/tmp/o/"):
        assert client.run("cp", f"{name}:{path}", str(tmp_path / "got")).code == 1
    assert client.run("cp", "/etc/hosts", f"{name}:/tmp/o/").code == 1
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_read_only_places_refuse_a_copy(client: Client, name: str, tmp_path: Path) -> None:
    client.good("create", "--name", name, "--read-only", "-v", f"{tmp_path}:/ro:ro", *SLEEP)
    for target, words in (("/tmp", "rootfs is marked read-only"), ("/ro", "volume is marked")):
        refused = client.run("cp", "/etc/hosts", f"{name}:{target}")
        assert (refused.code, words in refused.err) == (1, True), refused.err


def test_diff_export_and_commit(client: Client, name: str, tmp_path: Path) -> None:
    script = "echo x > /tmp/new; rm /etc/group; sleep 1000"
    client.good("run", "-d", "--name", name, "users:1", "sh", "-c", script)
    expected = "C /etc\nD /etc/group\nC /tmp\nA /tmp/new\n"
    wait_until(lambda: client.good("diff", name) == expected, 10, "the script has run")
    client.good("export", "-o", str(tmp_path / "e.tar"), name)
    import tarfile

    with tarfile.open(tmp_path / "e.tar") as tar:
        names = {member.name for member in tar}
    assert {"tmp/new", "etc/passwd", "bin/busybox"} <= names
    assert "etc/group" not in names
    words = [
        "-a",
        "me",
        "-m",
        "why",
        "--pause=false",
        "-c",
        "ENV Z=9",
        "-c",
        'CMD ["cat", "/tmp/new"]',
    ]
    tag = f"made-{client.name}:1"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", client.good("commit", *words, name, tag))
    assert client.good("run", "--rm", tag) == "x\n"
    assert client.good("run", "--rm", tag, "sh", "-c", "echo $Z; ls /etc") == (
        "9\nhostname\nhosts\npasswd\nresolv.conf\n"
    )
    shown = json.loads(client.machine.docker("image", "inspect", tag).stdout)[0]
    assert (shown["Author"], shown["Comment"]) == ("me", "why")


def test_log_options_show_in_details(client: Client, name: str) -> None:
    words = ["--label", "team=a b", "-e", "STAGE=x", "--log-opt", "labels=team"]
    words += ["--log-opt", "env=STAGE", "--log-opt", "tag={{.Name}}"]
    client.good("run", "--name", name, *words, "users:1", "echo", "line")
    shown = client.good("logs", "--details", name)
    assert shown == f"STAGE=x,tag={name},team=a+b line\n"


def test_follow_ends_with_the_container(client: Client, name: str) -> None:
    script = "echo one; sleep 0.3; echo two"
    client.good("run", "-d", "--name", name, "users:1", "sh", "-c", script)
    assert client.good("logs", "-f", name) == "one\ntwo\n"


def test_start_attached_and_input(client: Client, name: str) -> None:
    client.good("create", "-i", "--name", name, "users:1", "cat")
    assert client.good("start", "-a", "-i", name, stdin="typed") == "typed"
    assert client.good("run", "--rm", "-i", "users:1", "wc", "-c", stdin="x" * 200_000).strip() == (
        "200000"
    )


def test_namespaces_of_others(client: Client, name: str) -> None:
    client.good("run", "-d", "--name", name, *SLEEP)
    count = "ls /proc | grep -c '^[0-9]'"
    assert int(client.good("run", "--rm", "--pid", f"container:{name}", "users:1", "sh", "-c",
                           count)) >= 3  # fmt: skip
    seen = client.good("run", "--rm", "--ipc", "none", "users:1", "sh", "-c", "mount; true")
    assert "/dev/shm" not in seen
    refused = client.run("run", "--rm", "--uts", "host", "-h", "x", "users:1", "true")
    assert (refused.code, "conflicting options: hostname" in refused.err) == (125, True)


def test_a_seccomp_profile_of_dockers_form_counts(client: Client, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    (tmp_path / "p.json").write_text(json.dumps(profile))
    words = ["--security-opt", f"seccomp={tmp_path}/p.json", "users:1", "mkdir", "/tmp/x"]
    assert "Operation not permitted" in client.run("run", "--rm", *words).err
    assert client.run("run", "--rm", "users:1", "mkdir", "/tmp/x").code == 0


def test_events_outlive_the_daemon(client: Client) -> None:
    name = f"{client.name}-told"
    client.good("run", "--rm", "--name", name, "users:1", "true")
    client.machine.stop()
    client.machine.start()
    words = ["--since", "10m", "--until", "0s", "--filter", f"container={name}"]
    shown = client.good("events", *words, "--format", "{{.Action}}").splitlines()
    assert shown == ["create", "attach", "start", "die", "destroy"]
