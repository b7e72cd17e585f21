"""The engine's view of the supervisor: launch or adopt it, and drive containers through it."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from runtime import errors
from runtime.oci import ContainerState, Launch
from runtime.supervisor import bundle, wire
from runtime.supervisor.ids import IdMap
from runtime.supervisor.restart import RestartPolicy

Pids = list[int]  # the class below has a method named list
Names = list[str]
_FRAME = struct.Struct(">BI")
_RECONNECT_TRIES, _RECONNECT_PAUSE_S = 200, 0.05
_LAUNCH_TIMEOUT_S = 20
_TRIES = 3


class Attachment:
    """Live output and input of one container; iterate for (stream, bytes)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        while True:
            try:
                stream, length = _FRAME.unpack(await self._reader.readexactly(_FRAME.size))
                data = await self._reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            yield "stderr" if stream == 2 else "stdout", data

    async def write(self, data: bytes) -> None:
        """Send input to the container's stdin."""
        self._writer.write(_FRAME.pack(0, len(data)) + data)
        await self._writer.drain()

    async def close_stdin(self) -> None:
        """Close the container's stdin once all input is written."""
        self._writer.write(_FRAME.pack(1, 0))
        await self._writer.drain()

    async def close(self) -> None:
        """Detach; the container goes on."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class ExecProcess:
    """A process started in a running container; `master_fd` is -1 without a terminal."""

    def __init__(self, pid: int, pidfd: int, master_fd: int, ended: asyncio.Future[int]) -> None:
        self.pid, self.pidfd, self.master_fd = pid, pidfd, master_fd
        self._ended = ended

    async def wait(self) -> int:
        """Return the exit code; raises SupervisorGone when it can no longer be known."""
        return await asyncio.shield(self._ended)

    async def resize(self, rows: int, cols: int) -> None:
        """Set the terminal's size."""
        if self.master_fd < 0:
            raise errors.BadStatus("without a terminal", "started with one")
        termios.tcsetwinsize(self.master_fd, (rows, cols))

    def signal(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Close the descriptors; the process goes on."""
        wire.close_all([self.pidfd, self.master_fd])
        self.pidfd = self.master_fd = -1


class Supervisor:
    """A connection to the machine's supervisor; it reconnects when the fork server restarts."""

    def __init__(self, sock: socket.socket, run_dir: Path, launch: Callable[[], None]) -> None:
        """Wrap a connection; `launch` starts a supervisor when there is none any more; blocking."""
        self._sock, self._run_dir, self._launch = sock, run_dir, launch
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._pending: dict[int, asyncio.Future[tuple[Any, list[int]]]] = {}
        self._parts: dict[int, list[Any]] = {}
        self._states: dict[str, ContainerState] = {}
        self._waiters: dict[str, list[asyncio.Future[ContainerState]]] = {}
        self._execs: dict[int, asyncio.Future[int]] = {}
        self._early_exits: dict[int, int] = {}
        self._queues: list[asyncio.Queue[ContainerState]] = []
        self._profiles: dict[int, tuple[dict[str, Any], str]] = {}
        self._sent: set[str] = set()
        self._connected, self._disconnected = asyncio.Event(), asyncio.Event()
        self._closing = False
        self._reconnecting: asyncio.Task[None] | None = None
        self._send_lock = asyncio.Lock()
        self._watch()

    # ---- connection ------------------------------------------------------------------------

    @classmethod
    async def connect(
        cls, state_dir: Path, run_dir: Path, cgroup_parent: str, starter: Sequence[str] = ()
    ) -> Supervisor:
        """Adopt the running supervisor of these directories or launch one, detached.

        Its program is replaced, without touching containers, when it is of another version.
        `starter` is a command that has the service manager run the words behind it as a service
        of Type=notify, and returns once that is ready (systemd-run(1)); without one the
        supervisor becomes a child of ours with a session of its own.
        """
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        program = await asyncio.to_thread(bundle.build, state_dir)
        words = (program, state_dir, run_dir, cgroup_parent)
        launch = partial(_have_launched, starter, *words) if starter else partial(_launch, *words)
        sock = _dial(run_dir)
        launched = sock is None
        if sock is None:
            await asyncio.to_thread(launch)
            sock = _dial(run_dir)
            if sock is None:
                raise errors.SupervisorGone(f"the supervisor does not listen in {run_dir}")
        self = cls(sock, run_dir, launch)
        if not launched:
            hello = await self._ask("hello")
            if hello["program"] != str(program):
                await self._ask("program", path=str(program))
        await self._refresh()
        return self

    def _watch(self) -> None:
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self._connected.set()
        self._disconnected.clear()

    def _readable(self) -> None:
        for _ in range(64):
            try:
                message, fds = wire.receive(self._sock)
            except BlockingIOError:
                return
            except OSError:
                message, fds = None, []
            if message is None:
                self._lost()
                return
            self._dispatch(message, fds)

    def _lost(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self._connected.clear()
        self._disconnected.set()
        gone = errors.SupervisorGone("the supervisor restarted: the outcome is unknown")
        for future in self._pending.values():
            _abandon(future, gone)
        for ended in self._execs.values():
            _abandon(ended, gone)
        self._pending.clear()
        self._execs.clear()
        self._parts.clear()
        self._sent.clear()
        if not self._closing:
            self._reconnecting = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        for _ in range(_RECONNECT_TRIES):
            sock = _dial(self._run_dir)
            if sock is not None:
                self._sock = sock
                self._watch()
                with contextlib.suppress(errors.SupervisorGone):
                    await self._refresh()
                return
            # nobody listens: the holder is gone, and with it every container of its own
            with contextlib.suppress(errors.SupervisorGone):
                await asyncio.to_thread(self._launch)
            await asyncio.sleep(_RECONNECT_PAUSE_S)
        gone = errors.SupervisorGone(f"no supervisor answers in {self._run_dir}")
        for waiters in self._waiters.values():
            for future in waiters:
                if not future.done():
                    future.set_exception(gone)

    async def _refresh(self) -> None:
        known = {state.container_id: state for state in await self.list()}
        for container_id in [c for c in self._states if c not in known]:
            self._states.pop(container_id)
        for state in known.values():
            if self._states.get(state.container_id) != state:
                self._changed(state)

    def _dispatch(self, message: dict[str, Any], fds: list[int]) -> None:
        event = message.get("ev")
        if event == "state":
            self._changed(_state(message["state"]))
        elif event == "exec":
            future = self._execs.pop(message["pid"], None)
            if future is None:
                self._early_exits[message["pid"]] = message["code"]
            elif not future.done():
                future.set_result(message["code"])
        elif "part" in message:
            self._parts.setdefault(message["id"], []).append(message["part"])
        else:
            pending = self._pending.pop(message["id"], None)
            if pending is None or pending.done():
                wire.close_all(fds)
            elif "err" in message:
                pending.set_exception(_failure(message["err"]))
            else:
                pending.set_result((message["ok"], fds))

    def _changed(self, state: ContainerState) -> None:
        self._states[state.container_id] = state
        for queue in self._queues:
            queue.put_nowait(state)
        if state.status == "stopped":
            for future in self._waiters.pop(state.container_id, []):
                if not future.done():
                    future.set_result(state)

    async def _call(
        self, op: str, fds: list[int] | None = None, **fields: Any
    ) -> tuple[Any, list[int], list[Any]]:
        await asyncio.wait_for(self._connected.wait(), _LAUNCH_TIMEOUT_S)
        self._next += 1
        number = self._next
        future: asyncio.Future[tuple[Any, list[int]]] = self._loop.create_future()
        self._pending[number] = future
        raw = json.dumps({"id": number, "op": op, **fields}, separators=(",", ":")).encode()
        if len(raw) > wire.MAX_MESSAGE // 2:
            self._pending.pop(number)
            raise errors.Unsupported(f"{op} of {len(raw)} bytes is too large for the supervisor")
        async with self._send_lock:
            await self._send(raw, fds or [])
        try:
            value, out = await future
        finally:
            self._pending.pop(number, None)
        return value, out, self._parts.pop(number, [])

    async def _send(self, raw: bytes, fds: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while True:
            try:
                self._sock.sendmsg([raw], rights)
                return
            except BlockingIOError:
                room = self._loop.create_future()
                fd = self._sock.fileno()
                self._loop.add_writer(fd, room.set_result, None)
                try:
                    await room
                finally:
                    self._loop.remove_writer(fd)
            except OSError as error:
                raise errors.SupervisorGone("the supervisor is not connected") from error

    async def _ask(self, op: str, **fields: Any) -> Any:
        value, fds, _ = await self._call(op, **fields)
        wire.close_all(fds)
        return value

    async def _insist(self, op: str, **fields: Any) -> tuple[Any, list[int], list[Any]]:
        """Call what may be done twice, again when the fork server dies over it."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(errors.SupervisorGone):
                return await self._call(op, **fields)
        return await self._call(op, **fields)

    # ---- containers ------------------------------------------------------------------------

    async def start(self, launch: Launch, *, netns_fd: int | None = None) -> ContainerState:
        """Start a container and return once its program runs.

        Raises StartFailed in runc's words, ContainerExists, Unsupported, or SysError.
        """
        if (launch.netns == "fd") != (netns_fd is not None):
            raise errors.Unsupported("netns fd and netns_fd belong together")
        if launch.log.driver not in ("json-file", "none"):
            raise errors.Unsupported(f"log driver {launch.log.driver} is not json-file or none")
        config, key = await self._seccomp(launch.config)
        value = await self._call(
            "start",
            [] if netns_fd is None else [netns_fd],
            container=launch.container_id,
            config=config,
            seccomp=key,
            overlay=None if launch.overlay is None else asdict(launch.overlay),
            log=asdict(launch.log),
            stdin_open=launch.stdin_open,
            netns=launch.netns,
            init=launch.init,
            restart=asdict(launch.restart),
            health=None if launch.health is None else asdict(launch.health),
        )
        state = _state(value[0])
        self._states.setdefault(state.container_id, state)
        return state

    async def new_netns(self, ids: IdMap, joined_pid: int = 0) -> int:
        """Return a network namespace in a new user namespace with these ids; the caller closes it.

        With `joined_pid` in the user namespace that process is in. Raises StartFailed or SysError.
        """
        joined = f"/proc/{joined_pid}/ns/net" if joined_pid else ""
        _, fds, _ = await self._call("netns", linux=ids.to_oci(), joined=joined)
        return fds[0]

    async def _seccomp(self, config: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Send a profile once per connection; the config then goes without it."""
        linux = config.get("linux") or {}
        profile = linux.get("seccomp")
        if not profile:
            return config, ""
        found = self._profiles.get(id(profile))
        if found is None or found[0] is not profile:
            raw = json.dumps(profile, sort_keys=True).encode()
            if len(self._profiles) >= 256:
                self._profiles.clear()
            found = self._profiles[id(profile)] = (profile, hashlib.sha256(raw).hexdigest())
        key = found[1]
        if key not in self._sent:
            await self._ask("seccomp", key=key, profile=profile)
            self._sent.add(key)
        slim = {name: value for name, value in linux.items() if name != "seccomp"}
        return {**config, "linux": slim}, key

    async def exec(
        self, container_id: str, process: dict[str, Any], stdio: tuple[int, int, int] | None
    ) -> ExecProcess:
        """Start an OCI process in a running container on these descriptors.

        With `terminal` the descriptors are ignored and `master_fd` of the result is the terminal.
        """
        value, fds, _ = await self._call(
            "exec", list(stdio or ()), container=container_id, process=process
        )
        pid = value["pid"]
        ended: asyncio.Future[int] = self._loop.create_future()
        if pid in self._early_exits:
            ended.set_result(self._early_exits.pop(pid))
        else:
            self._execs[pid] = ended
        master = fds[1] if len(fds) > 1 else -1
        return ExecProcess(pid, fds[0], master, ended)

    async def kill(
        self, container_id: str, signal: int, *, everyone: bool = False, final: bool = False
    ) -> None:
        """Signal the first process, or every process of the container.

        With `final` its restart policy has no say any more, also when it waits for a restart.
        """
        await self._insist(
            "kill", container=container_id, signal=int(signal), everyone=everyone, final=final
        )

    async def set_restart(self, container_id: str, restart: RestartPolicy) -> None:
        """Give a running container another restart policy."""
        await self._insist("policy", container=container_id, restart=asdict(restart))

    async def pause(self, container_id: str) -> None:
        """Freeze all processes."""
        await self._ask("pause", container=container_id)

    async def resume(self, container_id: str) -> None:
        """Let frozen processes go on."""
        await self._ask("resume", container=container_id)

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Change limits: OCI `linux.resources`, only the given ones."""
        await self._insist("update", container=container_id, resources=resources)

    async def wait(self, container_id: str) -> ContainerState:
        """Return the state once the container is stopped and its log is written."""
        state = self._states.get(container_id) or await self.state(container_id)
        if state.status == "stopped":
            return state
        future: asyncio.Future[ContainerState] = self._loop.create_future()
        self._waiters.setdefault(container_id, []).append(future)
        return await future

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        """Forget a stopped container; `force` kills it first."""
        if force and (await self.state(container_id)).status != "stopped":
            with contextlib.suppress(errors.BadStatus):
                await self.kill(container_id, 9, everyone=True, final=True)
            await self.wait(container_id)
        await self._insist("delete", container=container_id)
        self._states.pop(container_id, None)

    async def state(self, container_id: str) -> ContainerState:
        """Return the present state; raises NoSuchContainer."""
        for state in await self.list():
            if state.container_id == container_id:
                return state
        raise errors.NoSuchContainer(container_id)

    async def list(self) -> list[ContainerState]:
        """Return the states of all known containers, stopped ones included."""
        _, _, parts = await self._insist("list")
        return [_state(part) for part in parts]

    async def strangers(self, *, end: bool) -> Names:
        """Return the cgroups that belong to no container; with `end`, end what is in them."""
        names: Names = (await self._insist("strangers", end=end))[0]
        return names

    async def resize(self, container_id: str, rows: int, cols: int) -> None:
        """Set the size of the container's terminal."""
        await self._ask("resize", container=container_id, rows=rows, cols=cols)

    async def attach(self, container_id: str) -> Attachment:
        """Attach to live output and stdin; before a start, nothing of it is missed."""
        _, fds, _ = await self._insist("attach", container=container_id)
        reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fds[0]))
        return Attachment(reader, writer)

    async def stats(self, container_id: str) -> dict[str, Any]:
        """Return cpu, memory, pids and blkio counters (`runtime.supervisor.counters.collect`)."""
        value: dict[str, Any] = await self._ask("stats", container=container_id)
        return value

    async def processes(self, container_id: str) -> Pids:
        """Return the host pids of all processes."""
        value: Pids = await self._ask("processes", container=container_id)
        return value

    def subscribe(self) -> asyncio.Queue[ContainerState]:
        """Return a queue that receives every change of status from now on."""
        queue: asyncio.Queue[ContainerState] = asyncio.Queue()
        self._queues.append(queue)
        return queue

    async def shutdown(self, *, force: bool = False) -> None:
        """End the supervisor; raises BadStatus while containers run, unless forced."""
        self._closing = True  # before its end can be noticed, which starts another one
        try:
            await self._ask("shutdown", force=force)
        except errors.BadStatus:
            self._closing = False
            raise
        await self._disconnected.wait()
        await asyncio.to_thread(_await_unlock, self._run_dir)

    async def close(self) -> None:
        """Disconnect; supervisor and containers go on."""
        self._closing = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._connected.is_set():
            self._lost()


def _abandon(future: asyncio.Future[Any], gone: errors.SupervisorGone) -> None:
    if not future.done():
        future.set_exception(gone)
        future.exception()  # a future nobody awaits must not warn


def _dial(run_dir: Path) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(str(run_dir / "supervisor.sock"))
    except OSError:
        sock.close()
        return None
    return wire.tune(sock)


def _holder(
    program: Path, state_dir: Path, run_dir: Path, cgroup_parent: str, ready_fd: int
) -> list[str]:
    command = [bundle.interpreter(), "-I", "-S", "-E", str(program), "holder"]
    return [*command, str(state_dir), str(run_dir), cgroup_parent, str(ready_fd)]


def _have_launched(
    starter: Sequence[str], program: Path, state_dir: Path, run_dir: Path, cgroup_parent: str
) -> None:
    command = [*starter, *_holder(program, state_dir, run_dir, cgroup_parent, -1)]
    environment = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"}  # ours alone
    done = subprocess.run(
        command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.strip() or f"see journalctl ({command[0]}: {done.returncode})"
        raise errors.SupervisorGone(f"the supervisor did not start: {said}")


def _launch(program: Path, state_dir: Path, run_dir: Path, cgroup_parent: str) -> None:
    reader, writer = os.pipe()
    command = _holder(program, state_dir, run_dir, cgroup_parent, writer)
    with open(state_dir / "supervisor.err", "ab") as log:
        child = subprocess.Popen(
            command, pass_fds=[writer], start_new_session=True, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
    os.close(writer)
    try:
        ready = os.read(reader, 1)
    finally:
        os.close(reader)
    if not ready:
        child.wait()
        text = (state_dir / "supervisor.err").read_text(errors="replace").strip().splitlines()
        reason = text[-1] if text else f"exit status {child.returncode}"
        raise errors.SupervisorGone(f"the supervisor did not start: {reason}")
    child.returncode = 0  # it outlives us on purpose


def _await_unlock(run_dir: Path) -> None:
    """Block until the holder has let go of its lock beside the socket."""
    with open(run_dir / "supervisor.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def _state(fields: dict[str, Any]) -> ContainerState:
    return ContainerState(**{**fields, "warnings": tuple(fields["warnings"])})


def _failure(error: dict[str, Any]) -> errors.RuntimeFailure:
    kind = getattr(errors, error["kind"], errors.RuntimeFailure)
    fields = error["fields"]
    if kind in (errors.ContainerExists, errors.NoSuchContainer):
        return kind(fields["container_id"])
    if kind is errors.BadStatus:
        return errors.BadStatus(fields["have"], fields["need"])
    if kind is errors.SysError:
        return errors.SysError(fields["call"], fields["errno"], fields["path"])
    if isinstance(kind, type) and issubclass(kind, errors.RuntimeFailure):
        return kind(error["text"])
    return errors.RuntimeFailure(error["text"])
