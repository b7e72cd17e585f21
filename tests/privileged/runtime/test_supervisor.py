"""Containers on a real kernel: how they run, end, log, and survive their supervisors."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from runtime.client import Supervisor
from runtime.errors import (
    BadStatus,
    ContainerExists,
    NoSuchContainer,
    StartFailed,
    Unsupported,
)
from runtime.oci import Overlay, default_config
from tests.privileged.runtime.bench import Bench, kill_fork_server, read_until, run, until


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 0", 0), ("exit 42", 42), ("kill -9 $$; sleep 9", 0), ("exit 255", 255)],
)
def test_exit_code_is_reported(command: str, code: int) -> None:
    async def story(bench: Bench) -> None:
        # pid 1 is immune to its own SIGKILL: that case ends through the limit below
        script = command if "kill" not in command else "kill -9 $$; exit 0"
        state = await bench.run("c", "sh", "-c", script)
        assert (state.status, state.exit_code, state.oom_killed) == ("stopped", code, False)

    run(story)


def test_signal_from_outside_gives_128_plus_number() -> None:
    async def story(bench: Bench) -> None:
        await bench.supervisor.start(bench.launch("c", "sleep", "60"))
        await bench.supervisor.kill("c", signal.SIGKILL)
        state = await bench.supervisor.wait("c")
        assert state.exit_code == 128 + signal.SIGKILL
        with pytest.raises(BadStatus):
            await bench.supervisor.kill("c", signal.SIGTERM)

    run(story)


@pytest.mark.parametrize("ignored", [(), (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)])
def test_no_signal_is_blocked_or_ignored_at_the_start(ignored: tuple[signal.Signals, ...]) -> None:
    """Also not where the daemon was started by nohup or as a shell's background job."""

    async def story(bench: Bench) -> None:
        await bench.run("c", "grep", "Sig", "/proc/self/status")
        assert set(bench.output("c").split()) >= {"SigBlk:", "SigIgn:"}
        assert bench.output("c").count("0000000000000000") == 4

    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        run(story)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_kill_of_everyone_reaches_children() -> None:
    async def story(bench: Bench) -> None:
        script = "sleep 60 & sleep 60 & sleep 60"
        await bench.supervisor.start(bench.launch("c", "sh", "-c", script))
        pids: list[int] = []
        while len(pids) < 3:
            pids = await bench.supervisor.processes("c")
        await bench.supervisor.kill("c", signal.SIGKILL, everyone=True)
        await bench.supervisor.wait("c")
        assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []

    run(story)


def test_memory_limit_kills_and_is_told_by_the_counter() -> None:
    async def story(bench: Bench) -> None:
        limit = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
        state = await bench.run("c", "sh", "-c", "tail /dev/zero", resources=limit)
        assert state.oom_killed
        assert state.exit_code == 137

    run(story)


def test_pids_limit_refuses_a_fork() -> None:
    async def story(bench: Bench) -> None:
        script = "for i in 1 2 3 4 5 6 7 8; do sleep 30 & done; exit 0"
        await bench.run("c", "sh", "-c", script, resources={"pids": {"limit": 4}})
        assert "can't fork" in bench.output("c")

    run(story)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nope"], 'exec: "nope": executable file not found in $PATH'),
        (["/nope"], 'exec: "/nope": stat /nope: no such file or directory'),
        (["/etc"], 'exec: "/etc": permission denied'),
    ],
)
def test_start_errors_speak_as_runc_does(args: list[str], words: str) -> None:
    async def story(bench: Bench) -> None:
        (bench.rootfs / "etc").mkdir()
        with pytest.raises(StartFailed) as caught:
            await bench.supervisor.start(bench.launch("c", *args))
        assert str(caught.value) == words
        with pytest.raises(NoSuchContainer):
            await bench.supervisor.state("c")
        # the name is free again at once
        assert (await bench.run("c", "true")).exit_code == 0

    run(story)


def test_a_name_is_taken_until_deleted() -> None:
    async def story(bench: Bench) -> None:
        await bench.run("c", "true")
        with pytest.raises(ContainerExists):
            await bench.supervisor.start(bench.launch("c", "true"))
        await bench.supervisor.delete("c")
        assert await bench.supervisor.list() == []

    run(story)


def test_log_keeps_every_line_of_a_fast_writer_and_both_streams() -> None:
    async def story(bench: Bench) -> None:
        await bench.run("c", "sh", "-c", "seq 1 60000; echo bad >&2; echo -n tail")
        entries = bench.log("c")
        out = "".join(e["log"] for e in entries if e["stream"] == "stdout")
        assert out == "".join(f"{i}\n" for i in range(1, 60001)) + "tail"
        assert [e["log"] for e in entries if e["stream"] == "stderr"] == ["bad\n"]
        assert all(e["time"].endswith("Z") and len(e["time"]) == 30 for e in entries)

    run(story)


def test_log_rotates_by_size() -> None:
    async def story(bench: Bench) -> None:
        log = {"max_bytes": 20000, "max_files": 3}
        await bench.run("c", "seq", "1", "2000", log=log)
        names = sorted(p.name for p in bench.base.glob("c.log*"))
        assert names == ["c.log", "c.log.1", "c.log.2"]
        assert all((bench.base / n).stat().st_size <= 20000 for n in names)
        assert bench.log("c")[-1]["log"] == "2000\n"

    run(story)


def test_attach_before_start_misses_nothing_and_stdin_closes() -> None:
    async def story(bench: Bench) -> None:
        attachment = await bench.supervisor.attach("c")
        await bench.supervisor.start(bench.launch("c", "cat", stdin=True))
        await attachment.write(b"hello ")
        await attachment.write(b"world")
        await attachment.close_stdin()
        seen = b"".join([data async for _, data in attachment])
        assert seen == b"hello world"
        assert (await bench.supervisor.wait("c")).exit_code == 0
        await attachment.close()

    run(story)


def test_attached_reader_gets_all_of_a_flood() -> None:
    async def story(bench: Bench) -> None:
        attachment = await bench.supervisor.attach("c")
        await bench.supervisor.start(bench.launch("c", "sh", "-c", "seq 1 400000"))
        seen = b"".join([data async for _, data in attachment])
        assert seen == b"".join(b"%d\n" % i for i in range(1, 400001))
        await attachment.close()

    run(story)


def test_terminal_has_size_console_and_signals() -> None:
    async def story(bench: Bench) -> None:
        attachment = await bench.supervisor.attach("c")
        script = "tty; test -c /dev/console && echo console; read x; stty size; read y"
        await bench.supervisor.start(bench.launch("c", "sh", "-c", script, terminal=True))
        assert b"/dev/pts/0" in await read_until(attachment, b"console\r\n")
        await bench.supervisor.resize("c", 33, 101)
        await attachment.write(b"go\n")
        assert b"33 101" in await read_until(attachment, b"101\r\n")
        await attachment.write(b"\x03")
        assert (await bench.supervisor.wait("c")).exit_code == 130
        await attachment.close()

    run(story)


def test_exec_shares_the_container_and_reports_its_code() -> None:
    async def story(bench: Bench) -> None:
        await bench.supervisor.start(bench.launch("c", "sleep", "60", hostname="inside"))
        process = default_config(["sh", "-c", "hostname; exit 9"], ["PATH=/bin"])["process"]
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        execution = await bench.supervisor.exec("c", process, (null, writer, writer))
        os.close(writer)
        os.close(null)
        assert await execution.wait() == 9
        assert os.read(reader, 100) == b"inside\n"
        os.close(reader)
        execution.close()
        with pytest.raises(StartFailed, match="not found in"):
            await bench.supervisor.exec("c", {**process, "args": ["nope"]}, None)
        terminal = {**process, "args": ["tty"], "terminal": True}
        execution = await bench.supervisor.exec("c", terminal, None)
        assert await execution.wait() == 0
        assert os.read(execution.master_fd, 100) == b"/dev/pts/0\r\n"
        execution.close()

    run(story)


def test_pause_stops_and_a_paused_container_can_be_killed() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        await bench.supervisor.start(bench.launch("c", "sleep", "60"))
        await bench.supervisor.pause("c")
        assert (await bench.supervisor.state("c")).status == "paused"
        await bench.supervisor.resume("c")
        await bench.supervisor.pause("c")
        await bench.supervisor.kill("c", signal.SIGKILL)
        await bench.supervisor.wait("c")
        seen = [queue.get_nowait().status for _ in range(queue.qsize())]
        assert seen == ["running", "paused", "running", "paused", "stopped"]

    run(story)


def test_survives_death_of_the_client_and_of_the_fork_server() -> None:
    async def story(bench: Bench) -> None:
        script = "trap 'echo bye; exit 42' TERM; echo up; while :; do sleep 0.01; done"
        await bench.supervisor.start(bench.launch("c", "sh", "-c", script))
        await bench.supervisor.close()
        bench.supervisor = await bench.connect()
        (state,) = await bench.supervisor.list()
        assert state.status == "running"
        await kill_fork_server(bench)
        await bench.supervisor.kill("c", signal.SIGTERM)
        assert (await bench.supervisor.wait("c")).exit_code == 42
        assert bench.output("c") == "up\nbye\n"

    run(story)


def test_limits_change_and_counters_move() -> None:
    async def story(bench: Bench) -> None:
        limit = {"memory": {"limit": 32 << 20}, "pids": {"limit": 9}}
        await bench.supervisor.start(bench.launch("c", "sleep", "60", resources=limit))
        stats = await bench.supervisor.stats("c")
        assert stats["memory"]["limit_bytes"] == 32 << 20
        assert stats["pids"] == {"current": 1, "limit": 9}
        await bench.supervisor.update("c", {"memory": {"limit": 64 << 20}})
        assert (await bench.supervisor.stats("c"))["memory"]["limit_bytes"] == 64 << 20

    run(story)


def test_isolation_of_devices_mounts_and_capabilities() -> None:
    async def story(bench: Bench) -> None:
        source = bench.base / "volume"
        source.mkdir()
        (source / "file").write_text("shared")
        (bench.rootfs / "tmp").mkdir()
        (bench.rootfs / "trap").symlink_to("/tmp")
        bind = {"destination": "/trap/vol", "type": "bind", "source": str(source)}
        script = (
            "cat /trap/vol/file; echo no > /trap/vol/file; mknod /tmp/d b 254 0; "
            "grep CapEff /proc/self/status; cat /proc/kcore | head -c 1; "
            "echo 1 > /proc/sys/kernel/domainname; cat /sys/class/net/lo/operstate; "
            "dd if=/tmp/d of=/dev/null count=1"
        )
        mounts = [{**bind, "options": ["rbind", "ro"]}]
        (bench.rootfs / "bin" / "mknod").symlink_to("busybox")
        await bench.run("c", "sh", "-c", script, mounts=mounts, cap_drop=["CHOWN"])
        text = bench.output("c")
        assert "shared" in text
        assert text.count("Read-only file system") == 2
        assert "00000000a80425fa" in text
        assert "Operation not permitted" in text
        assert (source / "file").read_text() == "shared"
        assert not Path("/tmp/vol").exists()

    run(story)


def test_overlay_keeps_writes_in_upper() -> None:
    async def story(bench: Bench) -> None:
        # overlayfs takes no upper directory on some file systems: use a place of our own
        places = [bench.base / name for name in ("upper", "work", "merged")]
        for place in places:
            place.mkdir()
        overlay = Overlay((str(bench.rootfs),), *map(str, places))
        state = await bench.run("c", "sh", "-c", "echo x > /new", overlay=overlay)
        assert state.exit_code == 0
        assert (places[0] / "new").read_text() == "x\n"
        assert not (bench.rootfs / "new").exists()

    run(story)


def test_user_and_working_directory() -> None:
    async def story(bench: Bench) -> None:
        await bench.run(
            "c", "sh", "-c", "id; pwd; echo ok > /dev/stderr", uid=1000, gid=50, cwd="/made/here"
        )
        assert "uid=1000 gid=50" in bench.output("c")
        assert "/made/here\n" in bench.output("c")
        assert bench.output("c").count("ok") == 1

    run(story)


def test_what_is_not_supported_is_refused_by_name() -> None:
    async def story(bench: Bench) -> None:
        launch = bench.launch("c", "true")
        launch.config["linux"]["namespaces"].append({"type": "user"})
        with pytest.raises(Unsupported, match="user namespace"):
            await bench.supervisor.start(launch)
        launch = bench.launch("c", "true")
        launch.config["linux"]["cgroupsPath"] = "/elsewhere"
        with pytest.raises(Unsupported, match="cgroupsPath"):
            await bench.supervisor.start(launch)
        assert await bench.supervisor.list() == []

    run(story)


def test_shutdown_refuses_while_a_container_runs() -> None:
    async def story(bench: Bench) -> None:
        await bench.supervisor.start(bench.launch("c", "sleep", "60"))
        with pytest.raises(BadStatus):
            await bench.supervisor.shutdown()
        with contextlib.suppress(NoSuchContainer):
            await bench.supervisor.delete("c", force=True)
        assert await bench.supervisor.list() == []

    run(story)


def test_absolute_cgroup_parent_host_network_and_a_passed_namespace() -> None:
    async def story(bench: Bench) -> None:
        await bench.supervisor.shutdown()
        bench.supervisor = await Supervisor.connect(
            bench.base / "state", bench.base / "run", f"/{bench.parent}"
        )
        for netns in ("new", "host"):
            launch = bench.launch(netns, "sh", "-c", "ls -l /proc/self/ns/net; exit 3")
            await bench.supervisor.start(dataclasses.replace(launch, netns=netns))
            assert (await bench.supervisor.wait(netns)).exit_code == 3
        host = os.readlink("/proc/self/ns/net")
        assert host in bench.output("host")
        assert host not in bench.output("new")
        state = await bench.supervisor.start(bench.launch("owner", "sleep", "60"))
        theirs = os.readlink(f"/proc/{state.pid}/ns/net")
        fd = os.open(f"/proc/{state.pid}/ns/net", os.O_RDONLY)
        launch = dataclasses.replace(
            bench.launch("fd", "ls", "-l", "/proc/self/ns/net"), netns="fd"
        )
        await bench.supervisor.start(launch, netns_fd=fd)
        os.close(fd)
        await bench.supervisor.wait("fd")
        assert theirs in bench.output("fd")

    run(story)


def test_adoption_of_a_container_that_ended_while_nobody_served() -> None:
    async def story(bench: Bench) -> None:
        started = await bench.supervisor.start(bench.launch("c", "sh", "-c", "read x; exit 5"))
        assert started.exit_code is None
        await bench.supervisor.start(bench.launch("d", "sleep", "60"))
        hello = await bench.supervisor._ask("hello")
        os.kill(hello["pid"], signal.SIGSTOP)
        state = next(s for s in bench.supervisor._states.values() if s.container_id == "d")
        os.kill(state.pid, signal.SIGKILL)
        await until(lambda: not os.path.exists(f"/proc/{state.pid}"))
        os.kill(hello["pid"], signal.SIGKILL)
        ended = await bench.supervisor.wait("d")
        assert ended.exit_code == 137

    run(story)


def test_no_words_of_a_client_end_the_fork_server() -> None:
    async def story(bench: Bench) -> None:
        hello = await bench.supervisor._ask("hello")
        launch = bench.launch("c", "true")
        sound: dict[str, Any] = {
            "id": 1, "op": "start", "container": "c", "config": launch.config, "seccomp": "",
            "overlay": None, "log": dataclasses.asdict(launch.log), "stdin_open": False,
            "netns": "new", "init": False, "health": None,
            "restart": {"name": "no", "max_retries": 0},
        }  # fmt: skip
        broken = [
            b"{", b"\xff", b"7", b"[]", b"[" * 100_000, b"null", b'{"id": 1}', b'{"op": "start"}',
            b'{"id": [], "op": "__class__"}', b'{"id": 1, "op": {}}', b'{"id": 1, "op": "kill"}',
            b'{"id": 1, "op": "seccomp", "key": 5, "profile": 0}',
        ]  # fmt: skip
        wrong: list[dict[str, Any]] = [
            {"container": "../c"}, {"container": None}, {"config": {"process": {"args": 7}}},
            {"config": {**launch.config, "linux": {"cgroupsPath": "/x"}}}, {"log": {"driver": 1}},
            {"restart": {"name": 1}}, {"health": {"process": {}}}, {"netns": "fd"},
            {"config": {**launch.config, "linux": {"namespaces": [{"type": 5}]}}},
        ]  # fmt: skip
        broken += [json.dumps(sound | change).encode() for change in wrong]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(bench.base / "run" / "supervisor.sock"))
            sock.settimeout(5)
            for message in broken:
                sock.send(message)
                assert "err" in json.loads(sock.recv(1 << 20)), message
        assert await bench.supervisor._ask("hello") == hello
        assert await bench.supervisor.list() == []
        assert await bench.supervisor.strangers(end=False) == []
        assert (await bench.run("c", "true")).exit_code == 0

    run(story)
