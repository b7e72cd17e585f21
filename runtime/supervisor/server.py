"""The fork server: answers requests, starts children, follows them to their end."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from runtime import errors
from runtime.supervisor import counters, kernel, launch, process, seccomp, wire
from runtime.supervisor.cgroups import Group, Layout
from runtime.supervisor.container import Container
from runtime.supervisor.journal import Journal
from runtime.supervisor.plan import unpack_report

_REMOVE_RETRY_S = 0.05
_IDLE_S = 0.003
_LOST = "the supervisor ended while the container ran"
Answer = Callable[..., None]


class Server:
    """State of all containers of the machine and the loop over their events."""

    def __init__(
        self, holder: socket.socket, listener: socket.socket, pump: socket.socket, state_dir: str,
        layout: Layout,
    ) -> None:  # fmt: skip
        self.holder, self.listener, self.pump = holder, listener, pump
        self.state_dir, self.layout = state_dir, layout
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            self.boot_id = file.read().strip()
        self.launcher = launch.Launcher()
        self.journal = Journal(f"{state_dir}/supervisor.journal")
        self.containers: dict[str, Container] = {}
        self.by_pid: dict[int, str] = {}
        self.execs: dict[int, socket.socket | None] = {}
        self.statuses: dict[int, int] = {}  # exit statuses of execs that have not reported yet
        self.starting: dict[str, tuple[launch.Child, Answer]] = {}
        self.reported: dict[int, Callable[[], None]] = {}
        self.clients: dict[int, socket.socket] = {}
        self.bpf: dict[str, bytes] = {}
        self.ending: set[str] = set()
        self.failures: dict[str, tuple[socket.socket, dict[str, Any]]] = {}
        self.unremoved: set[str] = set()
        self.poll = select.epoll()
        self.quit = False
        os.makedirs(f"{state_dir}/seccomp", exist_ok=True)

    # ---- life ------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Take over what the holder kept and settle what did not survive."""
        exits: list[dict[str, Any]] = []
        known: set[str] = set()
        for key, record in self.journal.records.items():
            self.containers[key] = Container(**record)
        while True:
            message, fds = wire.receive(self.holder)
            if message is None or message["op"] == "go":
                break
            if message["op"] == "exit":
                exits.append(message)
                continue
            container = self.containers.get(message["id"])
            if container is None or container.status == "stopped":
                wire.close_all(fds)
                wire.send(self.holder, {"op": "drop", "id": message["id"]})
                continue
            known.add(container.id)
            self.by_pid[container.pid] = container.id
            for name, fd in zip(message["streams"], fds, strict=True):
                if name == "pidfd":
                    container.pidfd = fd
                elif name == "tty":
                    container.master = fd
                else:
                    os.close(fd)
        for container in self.containers.values():
            if container.status != "stopped" and container.id not in known:
                self._lost(container)
        self._sweep()
        for message in exits:
            self._exited(message)

    def _lost(self, container: Container) -> None:
        group = Group(self.layout, container.id)
        group.kill()
        self.unremoved.add(container.id)
        container.status, container.exit_code, container.error = "stopped", 255, _LOST
        container.finished_ns = time.time_ns()
        self.journal.put(container.id, container.record())

    def _sweep(self) -> None:
        """End what a crash left between clone and journal: cgroups nobody answers for."""
        base = self.layout.v2 or self.layout.v1.get("pids") or self.layout.v1.get("memory") or ""
        for entry in os.scandir(base):
            if entry.is_dir() and entry.name != "supervisor" and entry.name not in self.containers:
                Group(self.layout, entry.name).kill()
                self.unremoved.add(entry.name)

    def run(self) -> None:
        """Serve until told to quit or the holder is gone."""
        for sock in (self.holder, self.listener, self.pump):
            self.poll.register(sock.fileno(), select.EPOLLIN)
        while not self.quit:
            gone: set[int] = set()
            ready = self.poll.poll(self._patience_s())
            if not ready and self.launcher.pool_short():
                self.launcher.fill_pool()
            for fd, _ in ready:
                if fd in gone:
                    continue  # the number may already be another file's (epoll(7))
                if not self._event(fd, gone):
                    return
            for name in list(self.unremoved):
                if Group(self.layout, name).remove():
                    self.unremoved.discard(name)

    def _patience_s(self) -> float:
        if self.launcher.pool_short():
            return _IDLE_S
        return _REMOVE_RETRY_S if self.unremoved else -1

    def _event(self, fd: int, gone: set[int]) -> bool:
        """Handle one ready descriptor; false when the holder is gone."""
        if fd == self.listener.fileno():
            self._accept()
        elif fd == self.holder.fileno():
            message, fds = wire.receive(self.holder)
            wire.close_all(fds)
            if message is None:
                return False
            self._exited(message)
        elif fd == self.pump.fileno():
            self._pump_said()
        elif fd in self.reported:
            gone.add(fd)
            self.reported[fd]()
        elif fd in self.clients and not self._request(self.clients[fd]):
            gone.add(fd)
            self._forget_client(fd)
        return True

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        wire.tune(client)
        self.clients[client.fileno()] = client
        self.poll.register(client.fileno(), select.EPOLLIN)

    def _forget_client(self, fd: int) -> None:
        client = self.clients.pop(fd)
        for pid, owner in self.execs.items():
            if owner is client:
                self.execs[pid] = None
        self.poll.unregister(fd)
        client.close()

    def _tell(self, client: socket.socket, message: dict[str, Any], *fds: int) -> None:
        with contextlib.suppress(OSError):  # a client that left learns it on its own
            wire.send(client, message, [fd for fd in fds if fd >= 0])

    def _announce(self, container: Container) -> None:
        message = {"ev": "state", "state": container.state()}
        for client in self.clients.values():
            self._tell(client, message)

    # ---- requests --------------------------------------------------------------------------

    def _request(self, client: socket.socket) -> bool:
        try:
            message, fds = wire.receive(client)
        except OSError:
            return False
        if message is None:
            return False
        number = message["id"]

        def answer(value: Any = None, *out: int) -> None:
            self._tell(client, {"id": number, "ok": value}, *out)

        handler = getattr(self, "_do_" + message["op"], None)
        try:
            if handler is None:
                raise errors.Unsupported(f"the supervisor does not know {message['op']}")
            handler(message, fds, answer, client)
        except (errors.RuntimeFailure, OSError, ValueError, KeyError, TypeError) as error:
            self._tell(client, {"id": number, "err": _describe(error)})
        finally:
            wire.close_all(fds)
        return True

    def _get(self, message: dict[str, Any], *statuses: str) -> Container:
        container = self.containers.get(message["container"])
        if container is None:
            raise errors.NoSuchContainer(message["container"])
        if statuses and container.status not in statuses:
            raise errors.BadStatus(container.status, " or ".join(statuses))
        return container

    def _group(self, container: Container) -> Group:
        return Group(self.layout, container.id)

    def _do_hello(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        answer({"program": sys.argv[0], "pid": os.getpid()})

    def _do_seccomp(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        key = message["key"]
        if not key.isalnum():
            raise errors.Unsupported("seccomp key must be a hex digest")
        if not self._filter(key):
            self.bpf[key] = seccomp.compile_profile(message["profile"])
            temporary = f"{self.state_dir}/seccomp/{key}.new"
            with open(temporary, "wb") as file:
                file.write(self.bpf[key])
            os.replace(temporary, f"{self.state_dir}/seccomp/{key}")
        answer()

    def _filter(self, key: str) -> bytes:
        if key and key not in self.bpf:
            try:
                with open(f"{self.state_dir}/seccomp/{key}", "rb") as file:
                    self.bpf[key] = file.read()
            except FileNotFoundError:
                return b""
        return self.bpf.get(key, b"")

    def _do_start(
        self, message: dict[str, Any], fds: list[int], answer: Answer, client: socket.socket
    ) -> None:
        name = message["container"]
        if name in self.containers:
            raise errors.ContainerExists(name)
        if name == "supervisor" or "/" in name or name in ("", ".", ".."):
            raise errors.Unsupported(f"container id {name!r} is not a usable name")
        config, key = message["config"], message["seccomp"]
        bpf = self._filter(key)
        if key and not bpf:
            raise errors.StartFailed(f"seccomp profile {key} was not sent before")
        group = Group(self.layout, name)
        warnings: list[str] = []
        try:
            netns_fd = fds[0] if fds else -1
            child, tasks = self.launcher.start(message, group, bpf, netns_fd, warnings)
        except (errors.RuntimeFailure, OSError):
            self._remove_group(group)
            wire.send(self.pump, {"op": "finish", "id": name})
            raise
        settings = config["process"]
        container = Container(
            name, "created", child.pid, time.time_ns(), tasks, key,
            bool(settings.get("terminal")), self.boot_id,
            warnings=warnings, pidfd=child.pidfd, master=child.master, args=settings["args"],
        )  # fmt: skip
        log = message["log"]
        kept = {"op": "keep", "id": name, "streams": ["pidfd", *child.streams], "log": log}
        wire.send(self.holder, kept, [child.pidfd, *child.stream_fds])
        add = {"op": "add", "id": name, "streams": child.streams, "log": log}
        wire.send(self.pump, add, child.stream_fds)
        wire.close_all([fd for fd in child.stream_fds if fd != child.master])
        self.containers[name] = container
        self.by_pid[child.pid] = name
        self.starting[name] = (child, answer)
        self.journal.put(name, container.record() | {"status": "running"})

        def started() -> None:
            self._started(container, child, answer, client, message["id"])

        self._await_report(child.report_fd, started)

    def _await_report(self, fd: int, then: Callable[[], None]) -> None:
        self.reported[fd] = then
        self.poll.register(fd, select.EPOLLIN)

    def _take_report(self, fd: int) -> bytes:
        self.poll.unregister(fd)
        del self.reported[fd]
        report = os.read(fd, 8)
        os.close(fd)
        return report

    def _started(
        self, container: Container, child: launch.Child, answer: Answer, client: socket.socket,
        number: int,
    ) -> None:  # fmt: skip
        report = self._take_report(child.report_fd)
        self.starting.pop(container.id, None)
        if report:
            index, code = unpack_report(report)
            container.error = process.failure_words(child.labels[index], code, container.args)
            failure = _describe(errors.StartFailed(container.error))
            # told once the child's exit, which follows, has left nothing behind
            self.failures[container.id] = (client, {"id": number, "err": failure})
            return
        container.status = "running"
        answer(container.state())
        self._announce(container)

    # ---- ends ------------------------------------------------------------------------------

    def _exited(self, message: dict[str, Any]) -> None:
        pid, status = message["pid"], message["status"]
        name = self.by_pid.pop(pid, None)
        code = os.waitstatus_to_exitcode(status)
        code = 128 - code if code < 0 else code
        if name is None:
            if pid in self.execs:
                owner = self.execs.pop(pid)
                if owner is not None:
                    self._tell(owner, {"ev": "exec", "pid": pid, "code": code})
            wire.send(self.holder, {"op": "ack", "pid": pid})
            return
        if name in self.starting:
            child, _ = self.starting[name]
            self.reported[child.report_fd]()  # its report is there: the child is dead
        container = self.containers[name]
        group = self._group(container)
        container.exit_code, container.finished_ns = code, time.time_ns()
        container.oom_killed = group.oom_kills() > 0
        if container.pidfd >= 0:
            os.close(container.pidfd)
            container.pidfd = -1
        self.ending.add(name)
        wire.send(self.pump, {"op": "finish", "id": name})
        self._remove_group(group)

    def _remove_group(self, group: Group) -> None:
        if group.processes():
            group.kill()
        if not group.remove():
            self.unremoved.add(group.name)

    def _pump_said(self) -> None:
        message, fds = wire.receive(self.pump)
        wire.close_all(fds)
        if message is None:
            return
        name = message["id"]
        container = self.containers.get(name)
        if message["op"] == "stdin-closed":
            wire.send(self.holder, {"op": "drop-stdin", "id": name})
        elif message["op"] == "warn" and container is not None:
            container.warnings.append(message["text"])
        elif message["op"] == "finished" and container is not None and name in self.ending:
            self.ending.discard(name)
            pid, never_ran = container.pid, container.status == "created"
            container.status = "stopped"
            if container.master >= 0:
                os.close(container.master)
                container.master = -1
            self.journal.put(name, None if never_ran else container.record())
            wire.send(self.holder, {"op": "drop", "id": name})
            wire.send(self.holder, {"op": "ack", "pid": pid})
            if never_ran:
                del self.containers[name]
                self._tell(*self.failures.pop(name))
            else:
                self._announce(container)

    def _do_kill(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "running", "paused")
        number = message["signal"]
        group = self._group(container)
        if message["everyone"] and number == signal.SIGKILL:
            group.kill()
        elif message["everyone"]:
            for pid in group.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        elif container.status == "paused" and number == signal.SIGKILL:
            group.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(container.pidfd, number)
        answer()

    def _do_pause(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        self._freeze(self._get(message, "running"), True, answer)

    def _do_resume(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        self._freeze(self._get(message, "paused"), False, answer)

    def _freeze(self, container: Container, frozen: bool, answer: Answer) -> None:
        self._group(container).freeze(frozen)
        container.status = "paused" if frozen else "running"
        self.journal.put(container.id, container.record())
        answer()
        self._announce(container)

    def _do_update(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        group = self._group(self._get(message, "running", "paused"))
        group.update(message["resources"])
        answer()

    def _do_delete(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "stopped")
        self.journal.put(container.id, None)
        del self.containers[container.id]
        answer()

    def _do_list(self, message: dict[str, Any], _: Any, answer: Answer, client: Any) -> None:
        for container in self.containers.values():
            self._tell(client, {"id": message["id"], "part": container.state()})
        answer()

    def _do_resize(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "running", "paused")
        if container.master < 0:
            raise errors.BadStatus("without a terminal", "started with one")
        launch.set_size(container.master, {"height": message["rows"], "width": message["cols"]})
        answer()

    def _do_stats(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "running", "paused")
        answer(counters.collect(self._group(container)))

    def _do_processes(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        answer(self._group(self._get(message, "running", "paused")).processes())

    def _do_attach(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with near, far:
            attach = {"op": "attach", "id": message["container"]}
            wire.send(self.pump, attach, [near.fileno()])
            answer(None, far.fileno())

    def _do_exec(
        self, message: dict[str, Any], fds: list[int], answer: Answer, client: socket.socket
    ) -> None:
        container = self._get(message, "running")
        settings = message["process"]
        child, warnings = self.launcher.execute(
            settings, (container.pid, container.pidfd), self._group(container), container.tasks,
            self._filter(container.bpf_key), fds,
        )  # fmt: skip
        self.execs[child.pid] = client

        def started() -> None:
            report = self._take_report(child.report_fd)
            if report:
                self.execs[child.pid] = None
                index, code = unpack_report(report)
                words = process.failure_words(child.labels[index], code, settings["args"])
                failure = errors.StartFailed(words)
                self._tell(client, {"id": message["id"], "err": _describe(failure)})
            else:
                answer({"pid": child.pid, "warnings": warnings}, child.pidfd, child.master)
            wire.close_all([child.pidfd, child.master])

        self._await_report(child.report_fd, started)

    def _do_program(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        """Continue as another version: the holder restarts us from its file."""
        wire.send(self.holder, {"op": "program", "path": message["path"]})
        answer()
        self.quit = True

    def _do_shutdown(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        running = [c for c in self.containers.values() if c.status != "stopped"]
        if running and not message["force"]:
            raise errors.BadStatus(f"one of {len(running)} that run", "stopped")
        for container in running:
            self._group(container).kill()
        for container in running:
            self._await_empty(self._group(container))
        for name in [*self.unremoved, *(c.id for c in running)]:
            self._await_empty(Group(self.layout, name))
        answer()
        wire.send(self.holder, {"op": "quit"})

    def _await_empty(self, group: Group) -> None:
        deadline = time.monotonic() + 5
        while not group.remove() and time.monotonic() < deadline:
            time.sleep(0.002)


def _describe(error: Exception) -> dict[str, Any]:
    kind = type(error).__name__
    if isinstance(error, errors.RuntimeFailure):
        return {"kind": kind, "text": str(error), "fields": dict(error.__dict__)}
    if isinstance(error, OSError):
        fields = {"call": "open", "errno": error.errno or 0, "path": str(error.filename or "")}
        return {"kind": "SysError", "text": str(error), "fields": fields}
    return {"kind": "RuntimeFailure", "text": f"{kind}: {error}", "fields": {}}


def main(
    holder_fd: int, listener_fd: int, pump_fd: int, ready_fd: int, *, state_dir: str, layout: str
) -> None:
    """Run the fork server on inherited descriptors."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    holder, listener, pump = (socket.socket(fileno=fd) for fd in (holder_fd, listener_fd, pump_fd))
    for sock in (holder, listener, pump):
        sock.set_inheritable(False)
    server = Server(holder, listener, pump, state_dir, Layout.from_dict(json.loads(layout)))
    server.adopt()
    if ready_fd >= 0:
        os.write(ready_fd, b"1")
        os.close(ready_fd)
    gc.collect()
    gc.freeze()
    gc.disable()
    server.run()
