"""The holder: the parent that outlives the fork server and the pump, restarts and feeds them.

Containers are its children (CLONE_PARENT), so it alone reaps; it keeps exit statuses until the
fork server has acknowledged them, and a copy of every descriptor that must not die with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from runtime.errors import SysError
from runtime.supervisor import cgroups, devices, kernel, wire

_RESTART_PAUSE_S = 0.2
_STOP_TIMEOUT_S = 10.0
"""How long a container may take to end when the machine goes down: Docker's default."""
_CPU_TIMES = 32
"""Our share of the processors, in shares of a container that asks for no other: who starts and ends
containers must get on however many of them are busy."""


class Holder:
    """Owns the listening socket, both children and the kept descriptors."""

    def __init__(self, state_dir: str, run_dir: str, parent: str, ready_fd: int) -> None:
        self.state_dir, self.run_dir = state_dir, run_dir
        self.ready_fd = ready_fd if ready_fd >= 0 else _service_manager()
        self.program = sys.argv[0]
        self.replaced = self.former = ""
        """The program before: until the next fork server starts, and until that one works."""
        self.lock = os.open(f"{state_dir}/supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.run_lock = os.open(f"{run_dir}/supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self.run_lock, fcntl.LOCK_EX)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self.home = cgroups.detect(".", False)
        self.layout = cgroups.detect(parent, devices.available())
        self.own = cgroups.Group(self.layout, "supervisor")
        self._enter_cgroup()
        self.layout = cgroups.handed_down(self.layout)
        self.listener = self._listen()
        self.server_end, self.server_far = wire.pair()
        self.pump_near, self.pump_far = wire.pair()
        self.kept: dict[str, tuple[dict[str, Any], list[int]]] = {}
        self.exits: dict[int, int] = {}
        self.pids = {"server": 0, "pump": 0}
        self.born = {"server": 0.0, "pump": 0.0}
        self.quitting = False

    def _enter_cgroup(self) -> None:
        for directory in {self.own.v1(name) for name in self.layout.v1} | {self.own.v2}:
            if directory:
                os.makedirs(directory, exist_ok=True)
                if "cpuset" in self.layout.v1 and directory == self.own.v1("cpuset"):
                    continue
                cgroups.write(f"{directory}/cgroup.procs", "0")
        self.own.prefer(_CPU_TIMES)

    def _leave_cgroup(self) -> None:
        for directory in {*self.home.v1.values(), self.home.v2}:
            if directory:
                with contextlib.suppress(SysError):
                    cgroups.write(f"{directory}/cgroup.procs", "0")

    def _listen(self) -> socket.socket:
        path = f"{self.run_dir}/supervisor.sock"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(128)
        return wire.tune(listener)

    # ---- children --------------------------------------------------------------------------

    def _spawn(self, role: str, fds: list[int], *words: str) -> None:
        """Start a child from a read-only view of the interpreter, so no container can change it."""
        arguments = [sys.executable, "-I", "-S", "-E", self.program, role, *map(str, fds), *words]
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (*fds, self.run_lock):  # the next holder waits for all of us to be gone
                os.set_inheritable(fd, True)
            if role == "server" and self.ready_fd >= 0:
                os.set_inheritable(self.ready_fd, True)
            with contextlib.suppress(SysError):
                tree = kernel.open_tree(sys.executable, False)
                kernel.mount_setattr(tree, kernel.MOUNT_ATTR_RDONLY, False)
                _execveat(tree, arguments)
            os.execv(sys.executable, arguments)
        self.pids[role], self.born[role] = pid, time.monotonic()

    def _start_server(self) -> None:
        while self._command(socket.MSG_DONTWAIT):
            continue  # what the last one still said
        if self.former:  # one that never came up must not keep everyone waiting
            self.program = self.former
        self.former, self.replaced = self.replaced, ""
        self.server_end.close()
        self.server_far.close()
        self.server_end, self.server_far = wire.pair()
        fds = [self.server_far.fileno(), self.listener.fileno(), self.pump_near.fileno()]
        words = (str(self.ready_fd), self.state_dir, json.dumps(self.layout.as_dict()))
        self._spawn("server", fds, *words)
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1
        for meta, kept in self.kept.values():
            wire.send(self.server_end, meta | {"op": "restore"}, kept)
        for pid, status in self.exits.items():
            wire.send(self.server_end, {"op": "exit", "pid": pid, "status": status})
        wire.send(self.server_end, {"op": "go"})

    def _start_pump(self) -> None:
        self._spawn("pump", [self.pump_far.fileno()])
        for meta, kept in self.kept.values():
            pairs = zip(meta["streams"], kept, strict=True)
            given = [(name, fd) for name, fd in pairs if name not in ("pidfd", "netns")]
            if not given:
                continue
            streams, fds = [name for name, _ in given], [fd for _, fd in given]
            message = {"op": "add", "id": meta["id"], "log": meta["log"], "streams": streams}
            wire.send(self.pump_near, message, fds)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for role in ("server", "pump"):
                if pid == self.pids[role] and not self.quitting:
                    # a child that dies at once must not turn this into a busy loop
                    if time.monotonic() - self.born[role] < _RESTART_PAUSE_S:
                        time.sleep(_RESTART_PAUSE_S)
                    if role == "server":
                        self._start_server()
                    else:
                        self._start_pump()
                    break
            else:
                self.exits[pid] = status
                message = {"op": "exit", "pid": pid, "status": status}
                with contextlib.suppress(OSError):
                    wire.send(self.server_end, message)

    # ---- loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to quit."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _heed_signals()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        poll = select.epoll()
        poll.register(wake_read, select.EPOLLIN)
        self._start_server()
        self._start_pump()
        while not self.quitting:
            watched = self.server_end
            poll.register(watched.fileno(), select.EPOLLIN)
            while watched is self.server_end and not self.quitting:
                for fd, _ in poll.poll():
                    if fd == wake_read:
                        if signal.SIGTERM in os.read(wake_read, 4096):
                            self._shut_down()
                            return
                        self._reap()
                    elif watched is self.server_end:
                        self._command()
        self._quit()

    def _command(self, flags: int = 0) -> bool:
        """Obey one message; false when there is none."""
        try:
            message, fds = wire.receive(self.server_end, flags)
        except BlockingIOError:
            return False
        if message is None:
            return False
        op = message["op"]
        if op == "keep":
            _, kept = self.kept.pop(message["id"], (None, []))
            wire.close_all(kept)
            self.kept[message["id"]] = (message, fds)
        elif op == "drop":
            _, kept = self.kept.pop(message["id"], (None, []))
            wire.close_all(kept)
        elif op == "drop-stdin" and message["id"] in self.kept:
            meta, kept = self.kept[message["id"]]
            if "in" in meta["streams"]:
                at = meta["streams"].index("in")
                os.close(kept.pop(at))
                meta["streams"].pop(at)
        elif op == "ack":
            self.exits.pop(message["pid"], None)
        elif op == "program":
            self.program, self.replaced = message["path"], self.program
        elif op == "up":
            self.former = ""
        elif op == "quit":
            self.quitting = True
        return True

    def _shut_down(self) -> None:
        """End every container by its stop signal, then us: the machine goes down.

        The fork server goes first: it would start again what ends, and on its record containers
        shall be running, so that those come back whose restart policy says so.
        """
        self._kill("server")
        pidfds = [
            (kept[meta["streams"].index("pidfd")], meta["stop_signal"])
            for meta, kept in self.kept.values()
            if "pidfd" in meta["streams"]
        ]
        running = select.poll()
        for pidfd, number in pidfds:
            running.register(pidfd, select.POLLIN)
            _signal(pidfd, number)
        left, late, deadline = len(pidfds), False, time.monotonic() + _STOP_TIMEOUT_S
        while left:
            ended = running.poll(None if late else max(0, deadline - time.monotonic()) * 1000)
            if not ended:
                late = True
                for pidfd, _ in pidfds:
                    _signal(pidfd, signal.SIGKILL)
            for pidfd, _ in ended:
                running.unregister(pidfd)
            left -= len(ended)
        self.pump_near.close()
        self.pump_far.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pids["pump"], 0)  # it writes what is still in the pipes

    def _kill(self, role: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[role], signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pids[role], 0)

    def _quit(self) -> None:
        for role in self.pids:
            self._kill(role)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.run_dir}/supervisor.sock")
        self._leave_cgroup()
        self.own.remove()
        for directory in {*self.layout.v1.values(), self.layout.v2}:
            if directory:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)


def _execveat(fd: int, arguments: list[str]) -> None:
    import ctypes

    vector = (ctypes.c_char_p * (len(arguments) + 1))(*[a.encode() for a in arguments], None)
    environment = (ctypes.c_char_p * 1)(None)
    flags = ctypes.c_long(kernel.AT_EMPTY_PATH)
    number = kernel.NR["execveat"]
    kernel.raw_syscall(number, fd, b"", vector, environment, flags)


def main(state_dir: str, run_dir: str, parent: str, ready_fd: int) -> None:
    """Run the holder in the foreground."""
    Holder(state_dir, run_dir, parent, ready_fd).run()


def _signal(pidfd: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _service_manager() -> int:
    """Return a descriptor to say READY=1 to (sd_notify(3)); -1 where nobody listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return -1
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.connect("\0" + path[1:] if path.startswith("@") else path)
    return sock.detach()


def _heed_signals() -> None:
    """Undo what nohup(1) or a shell's background job ignores: it would reach every container."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's own choice
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
