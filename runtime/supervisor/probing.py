"""Running the health checks of containers: one process at a time in each, from the fork server."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runtime.errors import RuntimeFailure
from runtime.supervisor import kernel
from runtime.supervisor.container import Container
from runtime.supervisor.entering import Entrant
from runtime.supervisor.health import OUTPUT_BYTES, TIMED_OUT, Health, HealthCheck, output_of
from runtime.supervisor.loop import Loop

Execute = Callable[[Container, dict[str, Any], list[int], Callable[[Entrant], None]], None]
_READ_BYTES = 65536
_NOT_RUN = 127


@dataclass
class _Probe:
    """One probe that runs: `series` tells whether anyone still wants its result."""

    container: Container
    check: HealthCheck
    series: int
    began_ns: int
    reader: int
    output: bytearray = field(default_factory=bytearray)
    pidfd: int = -1
    timed_out: bool = False


class Prober:
    """Asks every container that has a check, again and again; `changed` is told each result."""

    def __init__(self, loop: Loop, execute: Execute, changed: Callable[[Container], None]) -> None:
        self._loop, self._execute, self._changed = loop, execute, changed
        self._null = kernel.open_null()
        self._running: dict[int, _Probe] = {}

    def begin(self, container: Container) -> None:
        """Probe a container from now on: it was started, resumed or taken over."""
        if container.check is not None:
            container.health = container.health or Health()
            self.stop(container)
            self._later(container, container.check, container.health)

    def stop(self, container: Container) -> None:
        """Probe a container no more; the result of a probe that runs is dropped."""
        container.probes += 1

    def exited(self, pid: int, code: int) -> bool:
        """Take the exit of a probe; false when the process was none."""
        probe = self._running.pop(pid, None)
        if probe is None:
            return False
        os.close(probe.pidfd)
        self._finished(probe, code)
        return True

    def _finished(self, probe: _Probe, code: int) -> None:
        while self._read(probe):
            continue
        if probe.reader >= 0:
            self._hang_up(probe)
        timeout_s = probe.check.timeout_s if probe.timed_out else None
        text = output_of(bytes(probe.output), timeout_s)
        code = TIMED_OUT if probe.timed_out else code
        self._result(probe.container, probe.check, probe.series, probe.began_ns, code, text)

    def _later(self, container: Container, check: HealthCheck, health: Health) -> None:
        pause_s = health.pause_s(check, _ran_s(container, time.time_ns()))
        self._loop.after(pause_s, partial(self._probe, container, check, container.probes))

    def _probe(self, container: Container, check: HealthCheck, series: int) -> None:
        if container.probes != series or container.status != "running":
            return
        began_ns = time.time_ns()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        probe = _Probe(container, check, series, began_ns, reader)
        try:
            given = [self._null, writer, writer]
            self._execute(container, check.process, given, partial(self._entered, probe))
        except (RuntimeFailure, OSError, ValueError, KeyError, TypeError) as error:
            os.close(reader)
            self._result(container, check, series, began_ns, TIMED_OUT, str(error))
            return
        finally:
            os.close(writer)
        self._loop.watch(reader, partial(self._readable, probe))

    def _readable(self, probe: _Probe) -> None:
        self._read(probe)

    def _read(self, probe: _Probe) -> bool:
        """Take a piece of output; false at its end."""
        if probe.reader < 0:
            return False
        try:
            data = os.read(probe.reader, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._hang_up(probe)
        elif len(probe.output) <= OUTPUT_BYTES:
            probe.output += data
        return bool(data)

    def _hang_up(self, probe: _Probe) -> None:
        self._loop.forget(probe.reader)
        os.close(probe.reader)
        probe.reader = -1

    def _entered(self, probe: _Probe, entrant: Entrant) -> None:
        if entrant.failure:
            probe.output += entrant.failure.encode()
            self._finished(probe, _NOT_RUN)
            return
        probe.pidfd = os.dup(entrant.pidfd)
        self._running[entrant.pid] = probe
        due = partial(self._kill, entrant.pid, probe.began_ns)
        self._loop.after(probe.check.timeout_s, due)

    def _kill(self, pid: int, began_ns: int) -> None:
        probe = self._running.get(pid)
        if probe is None or probe.began_ns != began_ns:
            return
        probe.timed_out = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(probe.pidfd, signal.SIGKILL)
            os.killpg(pid, signal.SIGKILL)  # its children: every exec leads a session

    def _result(
        self, container: Container, check: HealthCheck, series: int, began_ns: int,
        code: int, output: str,
    ) -> None:  # fmt: skip
        health = container.health
        if container.probes != series or health is None:
            return
        entry = {
            "start_ns": began_ns, "end_ns": time.time_ns(), "exit_code": code, "output": output,
        }  # fmt: skip
        health.probed(check, _ran_s(container, began_ns), entry)
        self._changed(container)
        self._later(container, check, health)


def _ran_s(container: Container, now_ns: int) -> float:
    return (now_ns - container.started_ns) / 1e9
