"""The machine goes down: the holder is told to end, and ends its containers in good order."""

import asyncio
import os
import select
import signal
from functools import partial
from pathlib import Path

from runtime.errors import SupervisorGone
from runtime.oci import STOP_SIGNAL, ContainerState
from runtime.supervisor.restart import RestartPolicy
from tests.privileged.runtime.bench import Bench, run, until

_LAST_WORDS = "trap 'echo told; echo goodbye; exit 0' {}; echo up; while :; do sleep 0.02; done"


async def _shut_down(bench: Bench) -> None:
    """Tell the holder, the fork server's parent, to end; return when it has."""
    hello = await bench.supervisor._ask("hello")
    status = Path(f"/proc/{hello['pid']}/status").read_text()
    pidfd = os.pidfd_open(int(status.split("PPid:")[1].split()[0]))
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        await until(lambda: bool(select.select([pidfd], [], [], 0)[0]))
    finally:
        os.close(pidfd)


def _is_up(bench: Bench, name: str) -> bool:
    return "up" in bench.output(name)


async def _containers(bench: Bench) -> list[ContainerState]:
    """Return what the next supervisor knows, once our client has launched and found it."""
    while True:
        try:
            return await bench.supervisor.list()
        except SupervisorGone:
            await asyncio.sleep(0.01)


def test_each_container_ends_by_its_own_signal_and_its_last_words_are_kept() -> None:
    async def story(bench: Bench) -> None:
        for name, number in (("plain", 0), ("own", int(signal.SIGUSR1))):
            script = _LAST_WORDS.format("USR1" if number else "TERM")
            launch = bench.launch(name, "sh", "-c", script)
            if number:
                launch.config["annotations"] = {STOP_SIGNAL: str(number)}
            await bench.supervisor.start(launch)
            await until(partial(_is_up, bench, name))
        await _shut_down(bench)
        assert bench.output("plain").split() == ["up", "told", "goodbye"]
        assert bench.output("own").split() == ["up", "told", "goodbye"]
        assert {one.exit_code for one in await _containers(bench)} == {None}

    run(story)


def test_a_container_that_went_down_with_the_machine_was_not_stopped_by_anyone() -> None:
    async def story(bench: Bench) -> None:
        script = _LAST_WORDS.format("TERM")
        await bench.supervisor.start(
            bench.launch("c", "sh", "-c", script, restart=RestartPolicy("always"))
        )
        await until(lambda: bench.output("c").split() == ["up"])
        await _shut_down(bench)
        states = {one.container_id: one for one in await _containers(bench)}
        # as after a power cut, so that its restart policy is asked
        assert states["c"].status == "stopped"
        assert states["c"].exit_code is None
        assert not states["c"].stop_asked

    run(story)
