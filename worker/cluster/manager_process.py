"""The machine's `swarm-manager`: launched detached, adopted over its socket, watched, stopped.

It outlives `swarmd`. Who it is comes from the socket itself (SO_PEERCRED), so no stale pid file
can lead a signal to a stranger.
"""

import asyncio
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from swarmapi.errors import Internal, Unavailable
from swarmapi.identity import TLSMaterial
from worker.cluster import cgroup
from worker.cluster.keys import NodeKeys
from worker.cluster.requests import InitRequest

log = logging.getLogger(__name__)
SOCKET_NAME = "manager.sock"
_UCRED = struct.Struct("3i")
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.05
PROGRAM = (sys.executable, "-m", "manager.main")


async def manager_document() -> dict[str, Any]:
    """Return the OpenAPI document of the routes that a manager answers; none need run.

    Raises:
        Internal: when the program cannot tell.
    """
    document: dict[str, Any] = json.loads(await _run(PROGRAM, "openapi"))
    return document


async def _run(program: Sequence[str], command: str, *arguments: str, told: bytes = b"") -> bytes:
    """Run the manager's program to its end, tell it what it reads, return what it says."""
    process = await asyncio.create_subprocess_exec(
        *program,
        command,
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=_environment(),
    )
    said, complaint = await process.communicate(told)
    if process.returncode != 0:
        raise Internal(f"swarm-manager {command}: {_last_line(complaint) or process.returncode}")
    return said


class ManagerProcess:
    """One manager: its state directory, its socket, its command line."""

    def __init__(
        self,
        state_dir: Path,
        run_dir: Path,
        cgroup_name: str,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.state_dir = state_dir
        self.socket_path = run_dir / SOCKET_NAME
        self._run_dir = run_dir
        self._cgroup = cgroup_name
        self._program = tuple(program)
        self.keys = NodeKeys(state_dir, self.socket_path)

    def pid(self) -> int:
        """Return the pid of the process that serves the socket; 0 when none does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(1.0)
            try:
                sock.connect(str(self.socket_path))
                raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            except OSError:
                return 0
        pid: int = _UCRED.unpack(raw)[0]
        return pid

    async def found(self, listen: str, advertise: str, request: InitRequest) -> TLSMaterial:
        """Run `swarm-manager init` and return the first manager's certificate.

        Raises:
            Internal: with the last line it complained.
        """
        arguments = [*self._directories()]
        arguments += ["--listen-addr", listen, "--advertise-addr", advertise]
        for pool in request.default_addr_pool or ():
            arguments += ["--default-addr-pool", pool]
        if request.subnet_size:
            arguments += ["--subnet-size", str(request.subnet_size)]
        await _run(self._program, "init", *arguments)
        return await self.keys.load_tls()

    async def recover(self, advertise: str) -> dict[str, Any]:
        """Make the stopped manager's state a cluster of it alone; return what is told of it.

        Raises:
            Locked, Internal: with the last line it complained.
        """
        return await self._rebuild("recover", advertise, await self.keys.unlock_key())

    async def restore(self, backup: Path, advertise: str, unlock_key: str) -> dict[str, Any]:
        """Make a first manager of a backup; return what is told of it. Raises Internal."""
        return await self._rebuild("restore", advertise, unlock_key, "--backup", str(backup))

    async def _rebuild(
        self, command: str, advertise: str, unlock_key: str, *more: str
    ) -> dict[str, Any]:
        arguments = [*self._directories(), "--advertise-addr", advertise, *more]
        if unlock_key:
            arguments.append("--unlock-key-stdin")
        told: dict[str, Any] = json.loads(
            await _run(self._program, command, *arguments, told=unlock_key.encode() + b"\n")
        )
        return told

    async def ensure(self, arguments: Sequence[str]) -> int:
        """Adopt the running manager or launch `swarm-manager run`; return its pid.

        Raises:
            Unavailable: when it ends at once or does not serve its socket in time.
            Locked: its keys need the unlock key, and nobody has told it.
        """
        pid = self.pid()
        if pid:
            log.info("manager %d adopted", pid)
            return pid
        unlock_key = await self.keys.unlock_key()
        command = [*self._program, "run", *self._directories(), *arguments]
        child = await asyncio.to_thread(self._launch, command, unlock_key)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not (pid := self.pid()):
                    if child.poll() is not None:
                        raise Unavailable(
                            f"swarm-manager ended at once with {child.returncode}: "
                            f"{self._complaint()}"
                        )
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            child.kill()
            await asyncio.to_thread(child.wait)
            raise Unavailable(
                f"swarm-manager does not serve {self.socket_path}: {self._complaint()}"
            ) from None
        finally:
            if child.returncode is None:
                child.returncode = 0  # it outlives us on purpose
        log.info("manager %d launched", pid)
        return pid

    async def ended(self, pid: int) -> None:
        """Return when a process has ended; reaps it when it is our child."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.add_reader(fd, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        _reap(pid)

    async def stop(self) -> None:
        """End the manager: SIGTERM, and SIGKILL when that takes too long."""
        if pid := self.pid():
            await self._end(pid)
        cgroup.remove(self._cgroup)  # also that of one which ended by itself

    async def _end(self, pid: int) -> None:
        fd = os.pidfd_open(pid)
        try:
            # The socket may have changed hands between asking and opening.
            if self.pid() == pid:
                signal.pidfd_send_signal(fd, signal.SIGTERM)
                if not await asyncio.to_thread(_ends_within, fd, _STOP_TIMEOUT_S):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    await asyncio.to_thread(_ends_within, fd, _STOP_TIMEOUT_S)
        finally:
            os.close(fd)
        _reap(pid)

    def _directories(self) -> list[str]:
        return ["--state-dir", str(self.state_dir), "--run-dir", str(self._run_dir)]

    def _launch(self, command: list[str], unlock_key: str) -> subprocess.Popen[bytes]:
        """Start the program; the unlock key goes through a pipe, not where `ps` shows it."""
        if unlock_key:
            command = [*command, "--unlock-key-stdin"]
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self.state_dir / "manager.log", "ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if unlock_key else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env=_environment(),
            )
        cgroup.enter(child.pid, self._cgroup)
        if child.stdin is not None:
            with suppress(BrokenPipeError), child.stdin as pipe:
                pipe.write(unlock_key.encode() + b"\n")
        return child

    def _complaint(self) -> str:
        with suppress(OSError):
            return _last_line((self.state_dir / "manager.log").read_bytes())
        return ""


def _environment() -> dict[str, str]:
    """Return our environment with the import path of this very installation."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def _ends_within(pidfd: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def _reap(pid: int) -> None:
    """Take the exit status of an ended process if it is our child."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _last_line(raw: bytes) -> str:
    lines = raw.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
