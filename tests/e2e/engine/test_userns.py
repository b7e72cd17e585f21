"""A daemon with `--userns-remap`: containers without a privilege outside, files with one owner."""

import io
import os
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.engine.machine import BUSYBOX, Machine, install_box

NET_RAW = 13
DOCKERFILE = b"""
FROM box:1
VOLUME /kept
RUN touch /kept/x && touch /f && chown 9:8 /f && cat /proc/self/uid_map
USER 9
RUN id -u && ! touch /denied
"""


@pytest.fixture(scope="module")
def remapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A daemon that gives containers the ids of nobody."""
    machine = Machine(tmp_path_factory.mktemp("userns"))
    try:
        config = machine.root / "swarmd.toml"
        config.write_text('userns-remap = "default"\n')
        machine.start("--config", str(config))
        install_box(machine)
        yield machine
    finally:
        machine.close()


def pid_of(machine: Machine, name: str) -> int:
    return int(machine.inspect("inspect", name)["State"]["Pid"])


def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline


def members(raw: bytes) -> dict[str, tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return {member.name: (member.uid, member.gid) for member in tar}


def test_root_of_a_container_is_nobody_on_the_host(remapped: Machine) -> None:
    assert "name=userns" in remapped.out("info", "--format", "{{.SecurityOptions}}")
    remapped.out("run", "-d", "--name", "plain", "-u", "3", "box:1", "sleep", "60")
    status = os.stat(f"/proc/{pid_of(remapped, 'plain')}")
    assert (status.st_uid, status.st_gid) == (100003, 100000)
    remapped.out("rm", "-f", "plain")
    shown = remapped.out("run", "--rm", "box:1", "cat", "/proc/self/uid_map")
    assert shown.split() == ["0", "100000", "65536"]
    alike = remapped.out("run", "--rm", "--userns", "host", "box:1", "cat", "/proc/self/uid_map")
    assert alike.split() == ["0", "0", "4294967295"]


def test_it_cannot_touch_what_is_the_hosts_roots(remapped: Machine) -> None:
    place = remapped.root / "host"
    place.mkdir()
    (place / "secret").write_text("s")
    (place / "secret").chmod(0o600)
    script = "cat /h/secret || chown 1 /h/secret || chmod 777 /h || touch /h/made || echo none"
    assert remapped.out("run", "--rm", "-v", f"{place}:/h", "box:1", "sh", "-c", script) == "none"
    place.chmod(0o777)
    remapped.out("run", "--rm", "-v", f"{place}:/h", "box:1", "touch", "/h/made")
    assert (place / "made").stat().st_uid == 100000


def test_a_volume_has_the_containers_ids_with_and_without(remapped: Machine) -> None:
    mount = ("-v", "data:/data")
    remapped.out("run", "--rm", *mount, "box:1", "sh", "-c", "touch /data/f && chown 5:6 /data/f")
    status = os.stat(Path(remapped.out("volume", "inspect", "-f", "{{.Mountpoint}}", "data"), "f"))
    assert (status.st_uid, status.st_gid) == (5, 6)
    stat = ("stat", "-c", "%u:%g", "/data/f")
    for more in ((), ("--userns", "host")):
        shown = remapped.out("run", "--rm", *more, *mount, "box:1", *stat)
        assert shown == "5:6"


def test_a_directory_of_the_host_keeps_the_hosts_ids(remapped: Machine) -> None:
    shown = remapped.root / "shown"
    shown.mkdir(mode=0o777)
    shown.chmod(0o777)
    options = ("-o", "type=none", "-o", "o=bind", "-o", f"device={shown}")
    remapped.out("volume", "create", *options, "shown")
    # filled with what the image has, for its owners in the container
    script = "touch /bin/made && chmod 4755 /bin/made && stat -c %u:%g /bin/sh"
    words = ("--rm", "-v", "shown:/bin", "box:1", "sh", "-c", script)
    assert remapped.out("run", *words) == "0:0"
    owners = {(os.lstat(shown / name).st_uid) for name in ("sh", "made")}
    assert owners == {100000}
    remapped.out("volume", "rm", "shown")
    made = remapped.root / "not" / "there"
    remapped.out("run", "--rm", "-v", f"{made}:/made", "box:1", "touch", "/made/f")
    assert made.parent.stat().st_uid == (made / "f").stat().st_uid == 100000


def test_nobody_here_reaches_what_is_roots_in_a_volume(remapped: Machine) -> None:
    remapped.out("volume", "create", "setuid")
    place = Path(remapped.out("volume", "inspect", "-f", "{{.Mountpoint}}", "setuid"))
    script = "cp /bin/busybox /v/sh && chmod 4755 /v/sh"
    remapped.out("run", "--rm", "-v", "setuid:/v", "box:1", "sh", "-c", script)
    assert (place / "sh").stat().st_mode & 0o4000
    above = [place, *place.parents]
    within = above[: above.index(remapped.data)]
    assert any(directory.stat().st_mode & 0o007 == 0 for directory in within)
    remapped.out("volume", "rm", "setuid")


def test_a_files_capabilities_hold_in_every_container(remapped: Machine) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("grep")
        member.size, member.mode = BUSYBOX.stat().st_size, 0o755
        value = struct.pack("<5I", 0x02000001, 1 << NET_RAW, 0, 0, 0)
        member.pax_headers = {"SCHILY.xattr.security.capability": value.decode("latin-1")}
        with BUSYBOX.open("rb") as program:
            archive.addfile(member, program)
    words = ("/grep", "CapEff", "/proc/self/status")
    want = f"CapEff:\t{1 << NET_RAW:016x}"
    remapped.out("run", "-d", "--name", "capable", "box:1", "sleep", "60")
    remapped.docker("cp", "-", "capable:/", stdin=tar.getvalue())
    assert remapped.out("exec", "-u", "5", "capable", *words) == want
    remapped.out("commit", "capable", "capable:1")
    for more in ((), ("--userns", "host")):
        assert remapped.out("run", "--rm", "-u", "5", *more, "capable:1", *words) == want
    remapped.out("rm", "-f", "capable")


def test_a_services_secrets_have_the_owners_asked_for(remapped: Machine) -> None:
    remapped.out("swarm", "init", "--advertise-addr", "127.0.0.1")
    remapped.docker("secret", "create", "word", "-", stdin=b"sesame")
    secret = ("--secret", "source=word,uid=5,gid=6,mode=0400", "--secret", "source=word,target=own")
    script = "cd /run/secrets; stat -c %n:%u:%g:%a *; cat own /proc/self/uid_map; sleep 60"
    service = ("service", "create", "-d", "--name", "safe", *secret, "box:1", "sh", "-c", script)
    remapped.out(*service)
    until(lambda: "65536" in remapped.out("service", "logs", "--raw", "safe"))
    first, second, last = remapped.out("service", "logs", "--raw", "safe").splitlines()
    assert (first, second) == ("own:0:0:444", "word:5:6:400")
    assert last.split() == ["sesame", "0", "100000", "65536"]
    remapped.out("swarm", "leave", "--force")


def test_files_go_in_and_out_with_the_containers_ids(remapped: Machine) -> None:
    words = ("sh", "-c", "mkdir /w; touch /w/f; chown 5:6 /w/f; exec sleep 60")
    remapped.out("run", "-d", "--name", "files", "-v", "/kept", "box:1", *words)
    listing = ("exec", "files", "ls", "-ln", "/")
    until(lambda: "w" in remapped.out(*listing).split())
    until(lambda: " 5 " in remapped.out("exec", "files", "ls", "-ln", "/w"))
    (remapped.root / "up").write_text("up")
    os.chown(remapped.root / "up", 11, 12)
    for target in ("/w/plain", "/kept/plain"):
        remapped.out("cp", str(remapped.root / "up"), f"files:{target}")
        remapped.out("cp", "-a", str(remapped.root / "up"), f"files:{target}.a")
    show = ("stat", "-c", "%n %u:%g")
    places = [f"{place}{end}" for place in ("/w/plain", "/kept/plain") for end in ("", ".a")]
    shown = remapped.out("exec", "files", *show, *places)
    running = members(remapped.docker("cp", "files:/w", "-").stdout)
    assert remapped.out("diff", "files").splitlines() == [
        "A /kept", "A /w", "A /w/f", "A /w/plain", "A /w/plain.a",
    ]  # fmt: skip
    remapped.out("kill", "files")
    stopped = members(remapped.docker("cp", "files:/w", "-").stdout)
    exported = members(remapped.docker("export", "files").stdout)
    assert running == stopped
    assert running["w/f"] == exported["w/f"] == (5, 6)
    assert shown.splitlines() == [
        "/w/plain 11:12", "/w/plain.a 0:0", "/kept/plain 11:12", "/kept/plain.a 0:0",
    ]  # fmt: skip
    assert running["w/plain"] == (11, 12)
    remapped.out("commit", "files", "files:1")
    for more in ((), ("--userns", "host")):
        shown = remapped.out("run", "--rm", *more, "files:1", "stat", "-c", "%u:%g", "/w/f")
        assert shown == "5:6"
    remapped.out("rm", "-v", "files")


def test_a_build_runs_in_one_and_its_layers_have_the_containers_ids(remapped: Machine) -> None:
    said = remapped.docker("build", "-t", "built:1", "-", stdin=DOCKERFILE).stdout.decode()
    assert "100000" in said
    stat = ("stat", "-c", "%u:%g", "/f")
    assert remapped.out("run", "--rm", "--userns", "host", "built:1", *stat) == "9:8"


def test_ports_networks_namespaces_and_checks(remapped: Machine) -> None:
    check = ("--health-cmd", "touch /w/checked", "--health-interval", "100ms")
    script = "mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w"
    remapped.out(
        "run", "-d", "--name", "web", "-p", "8097:80", "--ipc", "shareable", *check,
        "--sysctl", "net.ipv4.ip_default_ttl=63", "--restart", "on-failure", "box:1",
        "sh", "-c", script,
    )  # fmt: skip
    until(lambda: remapped.inspect("inspect", "web")["State"]["Health"]["Status"] == "healthy")
    fetch = remapped.inside("curl", "-s", "http://127.0.0.1:8097/")
    assert subprocess.run(fetch, capture_output=True, check=True).stdout == b"hello\n"
    share = ("run", "--rm")
    get = ("wget", "-qO-", "http://127.0.0.1/")
    assert remapped.out(*share, "--net", "container:web", "box:1", *get) == "hello"
    listed = remapped.out(*share, "--pid", "container:web", "box:1", "cat", "/proc/1/cmdline")
    assert "httpd" in listed
    remapped.out(*share, "--ipc", "container:web", "box:1", "true")
    ttl = ("cat", "/proc/sys/net/ipv4/ip_default_ttl")
    assert remapped.out("exec", "web", *ttl) == "63"
    # the fork server starts it again on its own, in the same namespaces
    first = pid_of(remapped, "web")
    owner = os.readlink(f"/proc/{first}/ns/user")
    os.kill(first, 9)
    until(lambda: pid_of(remapped, "web") not in (0, first))
    assert os.readlink(f"/proc/{pid_of(remapped, 'web')}/ns/user") == owner
    assert subprocess.run(fetch, capture_output=True, check=False).returncode in (0, 7, 56)
    plain = ("run", "-d", "--name", "unmapped", "--userns", "host", "box:1", "sleep", "60")
    remapped.out(*plain)
    refused = remapped.refused(*share, "--net", "container:unmapped", "box:1", "true", code=125)
    assert "it takes --userns host to share them" in refused
    assert remapped.out(*share, "--userns", "host", "--net", "container:web", "box:1", *get)
    remapped.out("rm", "-f", "web", "unmapped")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--privileged",), "privileged mode is incompatible with user namespaces"),
        (("--net", "host"), "cannot share the host's network namespace when user namespaces"),
        (("--pid", "host"), "cannot share the host PID namespace when user namespaces"),
        (("--ipc", "host"), "cannot share the host IPC namespace when user namespaces"),
        (("--cgroupns", "host"), "cannot share the host cgroup namespace when user namespaces"),
    ],
)
def test_what_needs_the_hosts_user_namespace_says_so(
    remapped: Machine, option: tuple[str, ...], words: str
) -> None:
    assert words in remapped.refused("run", "--rm", *option, "box:1", "true", code=125)
    remapped.out("run", "--rm", "--userns", "host", *option, "box:1", "true")


def test_the_option_changes_nothing_on_disk(remapped: Machine) -> None:
    words = ("sh", "-c", "stat -c %u:%g /made || touch /made; cat /proc/self/uid_map")
    remapped.out("create", "--name", "turned", "box:1", *words)
    assert "100000" in remapped.out("start", "-a", "turned")
    remapped.stop()
    remapped.start()
    lines = remapped.out("start", "-a", "turned").splitlines()
    assert lines[0] == "0:0"
    assert "100000" not in lines[1]
    assert "name=userns" not in remapped.out("info", "--format", "{{.SecurityOptions}}")
    remapped.stop()
    remapped.start("--userns-remap", "default")
    lines = remapped.out("start", "-a", "turned").splitlines()
    assert lines[0] == "0:0"
    assert "100000" in lines[1]
    remapped.out("rm", "turned")
