"""The first process of a container with `--init`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from runtime.errors import StartFailed, Unsupported
from tests.privileged.runtime.bench import Bench, read_until, run, until


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_the_exit_code_is_the_programs(script: str, code: int) -> None:
    async def story(bench: Bench) -> None:
        assert (await bench.run("c", "sh", "-c", script, init=True)).exit_code == code

    run(story)


def test_it_reaps_orphans_and_passes_signals_on() -> None:
    async def story(bench: Bench) -> None:
        orphan = "(sleep 0.01 & echo $! > /orphan)"
        script = f"trap 'echo hup' HUP; trap 'exit 5' TERM; {orphan}; echo up; "
        script += "while :; do sleep 0.01; done"
        state = await bench.supervisor.start(bench.launch("c", "sh", "-c", script, init=True))
        await until(lambda: bench.output("c") == "up\n")
        # were it not reaped, a zombie would keep its number
        orphan_pid = (bench.rootfs / "orphan").read_text().strip()
        inside = Path(f"/proc/{state.pid}/root/proc/{orphan_pid}")
        await until(lambda: not inside.exists())
        await bench.supervisor.kill("c", signal.SIGHUP)
        await until(lambda: bench.output("c") == "up\nhup\n")
        await bench.supervisor.kill("c", signal.SIGTERM)
        assert (await bench.supervisor.wait("c")).exit_code == 5

    run(story)


def test_it_is_small_sealed_and_shows_nothing_of_the_host() -> None:
    async def story(bench: Bench) -> None:
        state = await bench.supervisor.start(bench.launch("c", "sleep", "60", init=True))
        proc = Path(f"/proc/{state.pid}")
        assert proc.joinpath("cmdline").read_bytes() == b"/sbin/docker-init\0--\0sleep\x0060\0"
        assert proc.joinpath("environ").read_bytes() == b""
        pages = int(proc.joinpath("statm").read_text().split()[1])
        assert pages <= 8
        assert [path.name for path in proc.joinpath("fd").iterdir()] == ["0", "1", "2"]
        with pytest.raises(OSError, match=r"Operation not permitted|Text file busy"):
            proc.joinpath("exe").open("r+b")

    run(story)


def test_a_terminals_signals_reach_the_program_once() -> None:
    async def story(bench: Bench) -> None:
        attachment = await bench.supervisor.attach("c")
        script = "n=0; trap 'n=$((n+1)); echo got $n' INT; echo up; read a; read b; exit $n"
        launch = bench.launch("c", "sh", "-c", script, terminal=True, init=True)
        await bench.supervisor.start(launch)
        await read_until(attachment, b"up\r\n")
        await attachment.write(b"\x03")
        await read_until(attachment, b"got 1\r\n")
        await attachment.write(b"\n\n")
        state = await bench.supervisor.wait("c")
        assert state.exit_code == 1
        await attachment.close()

    run(story)


def test_a_program_that_is_not_there_fails_the_start_in_the_usual_words() -> None:
    async def story(bench: Bench) -> None:
        with pytest.raises(StartFailed, match='"nope": executable file not found'):
            await bench.supervisor.start(bench.launch("c", "nope", init=True))
        assert await bench.supervisor.list() == []

    run(story)


def test_without_a_pid_namespace_of_its_own_it_is_refused() -> None:
    async def story(bench: Bench) -> None:
        launch = bench.launch("c", "true", init=True, shared_namespaces={"pid": "host"})
        with pytest.raises(Unsupported, match="--init"):
            await bench.supervisor.start(launch)

    run(story)
