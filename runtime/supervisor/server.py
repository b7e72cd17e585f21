"""The fork server: answers requests, starts children, follows them to their end."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from runtime import errors
from runtime.supervisor import counters, demands, kernel, launch, wire
from runtime.supervisor.cgroups import Group, Layout
from runtime.supervisor.container import Container
from runtime.supervisor.entering import Entrant
from runtime.supervisor.ids import IdMap
from runtime.supervisor.lives import Lives
from runtime.supervisor.loop import Loop
from runtime.supervisor.restart import RestartPolicy

_REMOVE_RETRY_S = 0.05
_IDLE_S = 0.003
_SEND_TIMEOUT_S = 2.0
"""A client that takes no message for so long is cut off: it must not stop everyone's starts."""
Answer = Callable[..., None]


class Server:
    """The clients' requests, and the loop over all events."""

    def __init__(
        self, holder: socket.socket, listener: socket.socket, pump: socket.socket, state_dir: str,
        layout: Layout,
    ) -> None:  # fmt: skip
        self.holder, self.listener, self.pump = holder, listener, pump
        self.loop = Loop()
        self.lives = Lives(
            holder, pump, state_dir, layout, self.loop, self._announce, self._exec_ended
        )
        self.execs: dict[int, socket.socket | None] = {}
        self.clients: dict[int, socket.socket] = {}
        self.quit = False

    def run(self) -> None:
        """Serve until told to quit or the holder is gone."""
        self.loop.watch(self.holder.fileno(), self._holder_said)
        self.loop.watch(self.listener.fileno(), self._accept)
        self.loop.watch(self.pump.fileno(), self.lives.pump_said)
        launcher = self.lives.launcher
        while not self.quit:
            if not self.loop.turn(self._patience_s()) and launcher.pool_short():
                launcher.fill_pool()
            self.lives.sweep()

    def _patience_s(self) -> float:
        if self.lives.launcher.pool_short():
            return _IDLE_S
        return _REMOVE_RETRY_S if self.lives.unremoved else -1

    def _holder_said(self) -> None:
        message, fds = wire.receive(self.holder)
        wire.close_all(fds)
        if message is None:
            self.quit = True
        else:
            self.lives.exited(message)

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        wire.tune(client).settimeout(_SEND_TIMEOUT_S)
        self.clients[client.fileno()] = client
        self.loop.watch(client.fileno(), partial(self._client_said, client))

    def _client_said(self, client: socket.socket) -> None:
        if self._request(client):
            return
        for pid, owner in self.execs.items():
            if owner is client:
                self.execs[pid] = None
        self.loop.forget(client.fileno())
        del self.clients[client.fileno()]
        client.close()

    def _tell(self, client: socket.socket, message: dict[str, Any], *fds: int) -> None:
        try:
            wire.send(client, message, [fd for fd in fds if fd >= 0])
        except TimeoutError:
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # a client that left learns it on its own

    def _exec_ended(self, pid: int, code: int) -> None:
        owner = self.execs.pop(pid, None)
        if owner is not None:
            self._tell(owner, {"ev": "exec", "pid": pid, "code": code})

    def _announce(self, container: Container) -> None:
        message = {"ev": "state", "state": container.state()}
        for client in list(self.clients.values()):
            self._tell(client, message)

    # ---- requests --------------------------------------------------------------------------

    def _request(self, client: socket.socket) -> bool:
        try:
            message, fds = wire.receive(client)
        except OSError:
            return False
        except ValueError as error:
            self._tell(client, {"id": None, "err": _describe(error)})
            return True
        if message is None:
            return False
        number = message.get("id")

        def answer(value: Any = None, *out: int) -> None:
            self._tell(client, {"id": number, "ok": value}, *out)

        handler = getattr(self, f"_do_{message.get('op')}", None)
        try:
            if handler is None:
                raise errors.Unsupported(f"the supervisor does not know {message.get('op')}")
            handler(message, fds, answer, client)
        except Exception as error:  # noqa: BLE001 - no client's words may end the fork server
            self._tell(client, {"id": number, "err": _describe(error)})
        finally:
            wire.close_all(fds)
        return True

    def _get(self, message: dict[str, Any], *statuses: str) -> Container:
        container = self.lives.containers.get(message["container"])
        if container is None:
            raise errors.NoSuchContainer(message["container"])
        if statuses and container.status not in statuses:
            raise errors.BadStatus(container.status, " or ".join(statuses))
        return container

    def _do_hello(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        answer({"program": sys.argv[0], "pid": os.getpid()})

    def _do_seccomp(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        key = message["key"]
        if not key.isalnum():
            raise errors.Unsupported("seccomp key must be a hex digest")
        self.lives.profiles.put(key, message["profile"])
        answer()

    def _do_start(
        self, message: dict[str, Any], fds: list[int], answer: Answer, client: socket.socket
    ) -> None:
        def started(container: Container) -> None:
            answer(container.state())

        def failed(container: Container) -> None:
            failure = _describe(errors.StartFailed(container.error))
            self._tell(client, {"id": message["id"], "err": failure})

        self.lives.start(message, fds, started, failed)

    def _do_netns(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        ids = IdMap.from_oci(message["linux"])
        fd = self.lives.launcher.new_netns(ids, message["joined"])
        try:
            answer(None, fd)
        finally:
            os.close(fd)

    def _do_policy(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "running", "paused", "restarting")
        demands.check_restart(message["restart"])
        self.lives.set_policy(container, RestartPolicy(**message["restart"]))
        answer()

    def _do_kill(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "created", "running", "paused", "restarting")
        number = message["signal"]
        if container.status == "restarting" and not message["final"]:
            raise errors.BadStatus("restarting", "running")
        if message["final"]:
            self.lives.end(container)
        group = self.lives.group(container)
        if message["everyone"] and number == signal.SIGKILL:
            group.kill()
        elif message["everyone"]:
            for pid in group.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        elif container.status == "paused" and number == signal.SIGKILL:
            group.kill()
        elif container.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(container.pidfd, number)
        answer()

    def _do_pause(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        self._freeze(self._get(message, "running"), True, answer)

    def _do_resume(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        self._freeze(self._get(message, "paused"), False, answer)

    def _freeze(self, container: Container, frozen: bool, answer: Answer) -> None:
        self.lives.group(container).freeze(frozen)
        container.status = "paused" if frozen else "running"
        self.lives.changed(container)
        answer()
        if not frozen:
            self.lives.prober.begin(container)

    def _do_update(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "running", "paused")
        self.lives.group(container).update(message["resources"])
        self.lives.requests.limit(container.id, message["resources"])
        answer()

    def _do_delete(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "stopped")
        self.lives.forget(container)
        answer()

    def _do_list(self, message: dict[str, Any], _: Any, answer: Answer, client: Any) -> None:
        for container in self.lives.containers.values():
            self._tell(client, {"id": message["id"], "part": container.state()})
        answer()

    def _do_strangers(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        answer(self.lives.strangers())
        if message["end"]:
            self.lives.end_strangers()

    def _do_resize(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "running", "paused")
        if container.master < 0:
            raise errors.BadStatus("without a terminal", "started with one")
        launch.set_size(container.master, {"height": message["rows"], "width": message["cols"]})
        answer()

    def _do_stats(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        container = self._get(message, "running", "paused")
        answer(counters.collect(self.lives.group(container)))

    def _do_processes(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        answer(self.lives.group(self._get(message, "running", "paused")).processes())

    def _do_attach(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with near, far:
            attach = {"op": "attach", "id": message["container"]}
            wire.send(self.pump, attach, [near.fileno()])
            answer(None, far.fileno())

    def _do_exec(
        self, message: dict[str, Any], fds: list[int], answer: Answer, client: socket.socket
    ) -> None:
        def known(entrant: Entrant) -> None:
            if entrant.failure:
                failure = errors.StartFailed(entrant.failure)
                self._tell(client, {"id": message["id"], "err": _describe(failure)})
                return
            self.execs[entrant.pid] = client
            value = {"pid": entrant.pid, "warnings": entrant.warnings}
            answer(value, entrant.pidfd, entrant.master)

        self.lives.execute(self._get(message, "running"), message["process"], fds, known)

    def _do_program(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        """Continue as another version: the holder restarts us from its file."""
        wire.send(self.holder, {"op": "program", "path": message["path"]})
        answer()
        self.quit = True

    def _do_shutdown(self, message: dict[str, Any], _: Any, answer: Answer, __: Any) -> None:
        running = [c for c in self.lives.containers.values() if c.status != "stopped"]
        if running and not message["force"]:
            raise errors.BadStatus(f"one of {len(running)} that run", "stopped")
        for container in running:
            self.lives.group(container).kill()
        for container in running:
            self._await_empty(self.lives.group(container))
        for name, layout in list(self.lives.unremoved.items()):
            self._await_empty(Group(layout, name))
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
    server.lives.adopt()
    if ready_fd >= 0:
        os.write(ready_fd, b"READY=1")
        os.close(ready_fd)
    wire.send(holder, {"op": "up"})
    gc.collect()
    gc.freeze()
    gc.disable()
    server.run()
