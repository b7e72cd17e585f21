"""Asking a task's container whether it is ready for connections (`swarm.ready.` labels)."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from runtime.errors import RuntimeFailure
from swarmapi.errors import SwarmError
from swarmapi.model.readiness import Readiness
from worker.engine.engine import Engine
from worker.engine.execs import Exec, ExecConfig
from worker.taskmachine import Standing

OUTPUT_BYTES = 200
FIRST_INTERVAL_S = 1.0
"""The longest pause before a first success: traffic waits for nothing else."""
Ask = Callable[[], Awaitable[str]]
Pause = Callable[[float], Awaitable[None]]


async def ask(engine: Engine, container_id: str, check: Readiness) -> str:
    """Run the check once; return why the container is not ready, empty when it is."""
    config = ExecConfig(cmd=list(check.command))
    probe = Exec("", container_id, config)
    output, starting = bytearray(), None
    try:
        record = engine.inspect(container_id).record
        if record.status == "paused":
            return "the container is paused"  # nothing that is started in it would answer
        process = await asyncio.to_thread(engine.exec_process, record, config)
        async with asyncio.timeout(check.timeout_s):
            starting = asyncio.ensure_future(probe.start(engine.supervisor, process))
            await asyncio.shield(starting)
            async with aclosing(probe.output()) as pieces:
                async for _, data in pieces:
                    output += data[: max(OUTPUT_BYTES - len(output), 0)]
    except TimeoutError:
        return f"no answer within {check.timeout_s:g}s"
    except (SwarmError, RuntimeFailure, OSError) as error:
        return error.message if isinstance(error, SwarmError) else str(error)
    finally:
        await _end(probe, starting)
    words = output.decode("utf-8", "replace").strip()
    return "" if probe.exit_code == 0 else words or f"exit code {probe.exit_code}"


async def _end(probe: Exec, starting: asyncio.Future[None] | None) -> None:
    """Leave no process behind: what was given up while it started is ended once it has."""
    if starting is not None and not starting.done():
        await asyncio.wait([starting])
    if probe.running:
        probe.kill()


async def until_ready(asks: Ask, check: Readiness, pause: Pause) -> None:
    """Return once the container is ready for the first time."""
    while await asks():
        await pause(min(check.interval_s, FIRST_INTERVAL_S))


async def follow(
    asks: Ask, check: Readiness, pause: Pause, tell: Callable[[Standing], None]
) -> None:
    """Tell whenever a container that was ready no longer is, and when it is again."""
    failures, known = 0, None
    while True:
        await pause(check.interval_s)
        error = await asks()
        failures = failures + 1 if error else 0
        if failures in range(1, check.retries):
            continue
        if known is not (not error):
            known = not error
            tell(Standing(ready=False, message=f"not ready: {error}") if error else Standing())
