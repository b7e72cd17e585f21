"""What the supervisor does on its own: restarts and health checks, whoever is away."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import BadStatus, SupervisorGone
from runtime.oci import ContainerState, default_config
from runtime.supervisor import kernel
from runtime.supervisor.health import HealthCheck
from runtime.supervisor.restart import RestartPolicy
from tests.privileged.runtime.bench import Bench, kill_fork_server, run, until

_ONCE = "echo run; test -e /mark && exec sleep 60; echo > /mark; exit 3"
"""Fails the first time it runs."""


async def _seen(
    queue: asyncio.Queue[ContainerState], wanted: Callable[[ContainerState], bool]
) -> ContainerState:
    while True:
        state = await queue.get()
        if wanted(state):
            return state


def _check(script: str, **settings: Any) -> HealthCheck:
    process = default_config(["sh", "-c", script], ["PATH=/bin"])["process"]
    return HealthCheck(process, **{"interval_s": 0.02, "retries": 2, **settings})


def test_a_policy_restarts_after_its_delay_and_gives_up() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        policy = RestartPolicy("on-failure", 2)
        launch = bench.launch("c", "sh", "-c", "echo run; exit 7", restart=policy)
        await bench.supervisor.start(launch)
        state = await bench.supervisor.wait("c")
        assert (state.exit_code, state.restart_count) == (7, 2)
        assert bench.output("c") == "run\n" * 3
        seen = [queue.get_nowait() for _ in range(queue.qsize())]
        pauses = [s for s in seen if s.status == "restarting"]
        assert [s.exit_code for s in pauses] == [7, 7]
        starts = [s.started_ns for s in seen if s.status == "running"]
        waits = [b - p.finished_ns for p, b in zip(pauses, starts[1:], strict=True)]
        assert waits[0] >= 100_000_000
        assert waits[1] >= 200_000_000

    run(story)


def test_restarts_go_on_without_client_and_fork_server_in_the_same_namespace() -> None:
    async def story(bench: Bench) -> None:
        own = os.open("/proc/self/ns/net", os.O_RDONLY)
        netns = kernel.new_netns(own)
        inode = os.fstat(netns).st_ino
        launch = bench.launch(
            "c", "sh", "-c", _ONCE, netns="fd", restart=RestartPolicy("on-failure")
        )
        await bench.supervisor.start(launch, netns_fd=netns)
        os.close(own)
        os.close(netns)
        hello = await bench.supervisor._ask("hello")
        os.kill(hello["pid"], signal.SIGKILL)
        await bench.supervisor.close()
        bench.supervisor = await bench.connect()
        queue = bench.supervisor.subscribe()
        (state,) = await bench.supervisor.list()
        if state.restart_count == 0:
            state = await _seen(queue, lambda s: s.restart_count == 1 and s.status == "running")
        assert os.stat(f"/proc/{state.pid}/ns/net").st_ino == inode
        await until(lambda: bench.output("c") == "run\nrun\n")

    run(story)


def test_a_waiting_restart_survives_the_fork_server() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        launch = bench.launch("c", "sh", "-c", _ONCE, restart=RestartPolicy("always"))
        await bench.supervisor.start(launch)
        await _seen(queue, lambda s: s.status == "restarting")
        await kill_fork_server(bench)
        state = await bench.supervisor.state("c")
        if state.restart_count == 0:
            await _seen(queue, lambda s: s.restart_count == 1 and s.status == "running")
        await until(lambda: bench.output("c") == "run\nrun\n")

    run(story)


def test_who_is_asked_to_stop_is_not_started_again() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        always = RestartPolicy("always")
        await bench.supervisor.start(bench.launch("runs", "sleep", "60", restart=always))
        await bench.supervisor.kill("runs", signal.SIGKILL, final=True)
        state = await bench.supervisor.wait("runs")
        assert (state.exit_code, state.stop_asked, state.restart_count) == (137, True, 0)
        await bench.supervisor.start(bench.launch("waits", "sh", "-c", "exit 1", restart=always))
        await _seen(queue, lambda s: s.status == "restarting")
        with pytest.raises(BadStatus):
            await bench.supervisor.kill("waits", signal.SIGTERM)
        await bench.supervisor.kill("waits", signal.SIGTERM, final=True)
        assert (await bench.supervisor.wait("waits")).exit_code == 1

    run(story)


def test_a_policy_and_limits_can_change_while_it_runs() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        await bench.supervisor.start(bench.launch("c", "sleep", "60"))
        await bench.supervisor.set_restart("c", RestartPolicy("always"))
        await bench.supervisor.update("c", {"pids": {"limit": 17}})
        await bench.supervisor.kill("c", signal.SIGKILL)
        await _seen(queue, lambda s: s.restart_count == 1 and s.status == "running")
        assert (await bench.supervisor.stats("c"))["pids"]["limit"] == 17

    run(story)


def test_a_restart_that_fails_is_an_end_like_any_other() -> None:
    async def story(bench: Bench) -> None:
        policy = RestartPolicy("on-failure", 2)
        script = "rm /bin/sh; exit 1"
        (bench.rootfs / "bin/rm").symlink_to("busybox")
        await bench.supervisor.start(bench.launch("c", "/bin/sh", "-c", script, restart=policy))
        state = await bench.supervisor.wait("c")
        assert (state.exit_code, state.restart_count) == (127, 2)
        assert "/bin/sh: no such file" in state.error

    run(story)


def test_health_follows_the_probes() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        check = _check("echo asked; test -e /ok")
        (bench.rootfs / "ok").touch()
        await bench.supervisor.start(bench.launch("c", "sleep", "60", health=check))
        statuses = []
        for wanted in ("healthy", "unhealthy", "healthy"):
            state = await _seen(queue, lambda s: bool(s.health and s.health["log"]))
            while state.health is None or state.health["status"] != wanted:
                state = await queue.get()
            statuses.append(state.health)
            (bench.rootfs / "ok").unlink() if wanted == "healthy" else (bench.rootfs / "ok").touch()
        assert statuses[1]["failing_streak"] == 2
        entry = statuses[1]["log"][-1]
        assert (entry["exit_code"], entry["output"]) == (1, "asked\n")
        assert entry["end_ns"] > entry["start_ns"]
        await kill_fork_server(bench)
        state = await _seen(queue, lambda s: s.health is not None and s.status == "running")
        assert state.health is not None
        last = state.health["log"][-1]["start_ns"]
        await _seen(queue, lambda s: bool(s.health and s.health["log"][-1]["start_ns"] > last))

    run(story)


def test_a_probe_that_hangs_is_killed_with_its_children() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        check = _check("echo first; sleep 60; true", timeout_s=0.5, interval_s=0.05)
        started = await bench.supervisor.start(bench.launch("c", "sleep", "60", health=check))
        state = await _seen(queue, lambda s: bool(s.health and s.health["log"]))
        assert state.health is not None
        (entry,) = state.health["log"]
        assert entry["exit_code"] == -1
        assert entry["output"] == "Health check exceeded timeout (0.5s): first\n"
        while await bench.supervisor.processes("c") != [started.pid]:  # noqa: ASYNC110 - the kernel
            await asyncio.sleep(0.005)  # between two probes nothing of the killed one is left

    run(story)


def test_a_probe_that_cannot_run_is_a_failure_with_its_reason() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        check = _check("true")
        check.process["args"] = ["nowhere"]
        await bench.supervisor.start(bench.launch("c", "sleep", "60", health=check))
        state = await _seen(queue, lambda s: bool(s.health and s.health["status"] == "unhealthy"))
        assert state.health is not None
        assert "executable file not found" in state.health["log"][0]["output"]

    run(story)


def test_a_paused_container_is_not_probed() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        count = bench.rootfs / "count"
        check = _check("echo >> /count")
        await bench.supervisor.start(bench.launch("c", "sleep", "60", health=check))
        await _seen(queue, lambda s: bool(s.health and s.health["log"]))
        await bench.supervisor.pause("c")
        await _seen(queue, lambda s: s.status == "paused")
        before = _lines(count)
        other = bench.launch("other", "sleep", "0.2")
        await bench.supervisor.start(other)
        await bench.supervisor.wait("other")
        assert _lines(count) == before
        await bench.supervisor.resume("c")
        await _seen(queue, lambda s: s.status == "running" and _lines(count) > before)

    run(story)


def _lines(path: Path) -> int:
    return path.read_text().count("\n")


def test_a_killed_holder_is_replaced_and_its_containers_are_ended_as_lost() -> None:
    async def story(bench: Bench) -> None:
        queue = bench.supervisor.subscribe()
        state = await bench.supervisor.start(bench.launch("c", "sleep", "60"))
        os.kill(_parent(state.pid), signal.SIGKILL)
        lost = await _seen(queue, lambda s: s.status == "stopped")
        assert (lost.container_id, lost.exit_code) == ("c", None)
        await until(lambda: not _lives(state.pid))
        await bench.supervisor.delete("c")
        assert (await bench.run("c", "true")).exit_code == 0

    run(story)


def _lives(pid: int) -> bool:
    """Tell whether it is there and no zombie: it is init's to reap now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_cgroups_below_a_parent_of_their_own_are_known_to_the_next_fork_server() -> None:
    async def story(bench: Bench) -> None:
        parent = f"{bench.parent}-own"
        ask = {"linux": {"cgroupsPath": f"/{parent}/ghost"}}

        def places(name: str) -> list[str]:
            return glob.glob(f"/sys/fs/cgroup/**/{parent}/{name}", recursive=True)

        launch = bench.launch("c", "sleep", "60")
        launch.config["linux"]["cgroupsPath"] = f"/{parent}/c"
        try:
            state = await bench.supervisor.start(launch)
            assert f"/{parent}/c\n" in Path(f"/proc/{state.pid}/cgroup").read_text()
            for place in places("c"):  # what a crash between clone and journal leaves
                os.mkdir(place.removesuffix("c") + "ghost")
            request = {"container": "ghost", "config": ask}
            (bench.base / "state" / "launches" / "ghost").write_text(json.dumps(request))
            await kill_fork_server(bench)
            await until(lambda: not places("ghost"))
            assert await bench.supervisor.processes("c") == [state.pid]
            await bench.supervisor.kill("c", signal.SIGKILL, final=True)
            assert (await bench.supervisor.wait("c")).exit_code == 137
            await until(lambda: not places("c"))
        finally:
            for place in glob.glob(f"/sys/fs/cgroup/**/{parent}", recursive=True):
                os.rmdir(place)


@pytest.mark.parametrize("broken", ["raise SystemExit(3)", None])
def test_a_program_that_does_not_come_up_is_not_kept(broken: str | None) -> None:
    async def story(bench: Bench) -> None:
        await bench.supervisor.start(bench.launch("c", "sleep", "60"))
        before = await bench.supervisor._ask("hello")
        program = bench.base / "newer.pyz"
        if broken is not None:
            with zipfile.ZipFile(program, "w") as archive:
                archive.writestr("__main__.py", broken)
        await bench.supervisor._ask("program", path=str(program))
        while True:
            with contextlib.suppress(SupervisorGone):
                after = await bench.supervisor._ask("hello")
                break
        assert after["program"] == before["program"]
        assert after["pid"] != before["pid"]
        (state,) = await bench.supervisor.list()
        assert state.status == "running"

    run(story)


def test_a_newer_program_takes_over_and_stays() -> None:
    async def story(bench: Bench) -> None:
        await bench.supervisor.start(bench.launch("c", "sleep", "60"))
        before = await bench.supervisor._ask("hello")
        program = bench.base / "newer.pyz"
        shutil.copy(before["program"], program)
        await bench.supervisor._ask("program", path=str(program))
        await bench.supervisor.close()
        bench.supervisor = await bench.connect()  # asks for the program of its own again
        await kill_fork_server(bench)
        assert (await bench.supervisor._ask("hello"))["program"] == before["program"]
        assert (await bench.supervisor.state("c")).status == "running"

    run(story)
