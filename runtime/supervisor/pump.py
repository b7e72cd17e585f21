"""The log pump: container output into log files and to attached clients, input to stdin.

Its own process, so that a flood of output never delays a start. Frames on an attachment are
`>BI` (stream, length) and the bytes; towards the client stream 1 is stdout and 2 stderr, from the
client 0 is stdin data and 1, with length 0, closes stdin.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from json.encoder import encode_basestring
from typing import Any

from runtime.supervisor import wire

FRAME = struct.Struct(">BI")
STDOUT, STDERR = 1, 2
_NAMES = {STDOUT: "stdout", STDERR: "stderr"}
_READ_BYTES = 65536
_LAST_OUTPUT_S = 0.5
"""How long output may be silent, once the supervisor is gone, before it counts as the last."""
_PARTIAL_BYTES = 16384  # Docker splits longer lines
_BACKLOG_HIGH, _BACKLOG_LOW = 1 << 20, 1 << 18


class LogFile:
    """Docker's json-file format with rotation by size; driver none keeps nothing."""

    def __init__(
        self,
        driver: str,
        path: str,
        max_bytes: int,
        max_files: int,
        attributes: dict[str, str] | None = None,
    ) -> None:
        self._attributes = f',"attrs":{json.dumps(attributes)}' if attributes else ""
        self.path, self.max_bytes, self.max_files = path, max_bytes, max(max_files, 1)
        self._fd, self._size = -1, 0
        self._partial: dict[int, bytes] = {}
        self._second, self._second_text = -1, ""
        if driver == "json-file":
            self._open(os.O_APPEND)

    def _open(self, how: int) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o640)
        self._size = os.fstat(self._fd).st_size

    def _stamp(self) -> str:
        seconds, rest = divmod(time.time_ns(), 1_000_000_000)
        if seconds != self._second:
            self._second = seconds
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return f"{self._second_text}.{rest:09d}Z"

    def write(self, stream: int, data: bytes) -> None:
        """Take output; complete lines (and over-long parts) are written at once."""
        if self._fd < 0:
            return
        data = self._partial.pop(stream, b"") + data
        *lines, tail = data.split(b"\n")
        items = []
        for line in lines:
            items += self._cut(line + b"\n")
        while len(tail) >= _PARTIAL_BYTES:
            items.append(tail[:_PARTIAL_BYTES])
            tail = tail[_PARTIAL_BYTES:]
        if tail:
            self._partial[stream] = tail
        self._emit(stream, items)

    @staticmethod
    def _cut(line: bytes) -> list[bytes]:
        return [line[i : i + _PARTIAL_BYTES] for i in range(0, len(line), _PARTIAL_BYTES)]

    def _emit(self, stream: int, items: list[bytes]) -> None:
        tail = f',"stream":"{_NAMES[stream]}"{self._attributes},"time":"{self._stamp()}"}}\n'
        batch: list[bytes] = []
        size = 0
        for item in items:
            text = encode_basestring(item.decode("utf-8", "replace"))
            record = f'{{"log":{text}{tail}'.encode()
            if self.max_bytes and self._size + size + len(record) > self.max_bytes:
                self._put(batch)
                batch, size = [], 0
                if self._size:
                    self._rotate()
            batch.append(record)
            size += len(record)
        self._put(batch)

    def _put(self, batch: list[bytes]) -> None:
        view = memoryview(b"".join(batch))
        while view:
            try:
                done = os.write(self._fd, view)
            except OSError:
                return  # a full disk loses log lines, never the container
            self._size += done
            view = view[done:]

    def _rotate(self) -> None:
        os.close(self._fd)
        with contextlib.suppress(OSError):
            for i in range(self.max_files - 1, 0, -1):
                older = self.path if i == 1 else f"{self.path}.{i - 1}"
                if os.path.exists(older):
                    os.replace(older, f"{self.path}.{i}")
        self._open(os.O_TRUNC)

    def close(self) -> None:
        """Write what is left of unfinished lines and close."""
        if self._fd >= 0:
            for stream, rest in self._partial.items():
                self._emit(stream, [rest])
            os.close(self._fd)
            self._fd = -1


class Attached:
    """One attached client and the output it has not taken yet."""

    def __init__(self, container_id: str, fd: int) -> None:
        self.container_id = container_id
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(False)
        self.backlog = bytearray()
        self.inbox = bytearray()
        self.ending = False


class Source:
    """The streams of one running container."""

    def __init__(self, log: LogFile) -> None:
        self.log = log
        self.outputs: dict[int, int] = {}  # fd -> stream
        self.stdin = -1
        self.pending_input = bytearray()
        self.close_after_input = False
        self.paused = False


class Pump:
    """The event loop over all streams."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.poll = select.epoll()
        self.poll.register(control.fileno(), select.EPOLLIN)
        self.sources: dict[str, Source] = {}
        self.by_output: dict[int, str] = {}
        self.by_stdin: dict[int, str] = {}
        self.attached: dict[int, Attached] = {}

    def run(self) -> None:
        """Serve until the supervisor is gone and nothing more comes from its containers."""
        gone = False
        while True:
            closed: set[int] = set()
            ready = self.poll.poll(_LAST_OUTPUT_S if gone else None)
            if gone and not (ready and self.by_output):
                break
            for fd, event in ready:
                if fd in closed:
                    continue  # the number may already be another file's (epoll(7))
                before = set(self.by_output) | set(self.by_stdin) | set(self.attached)
                if fd == self.control.fileno():
                    if not self._command():
                        gone = True
                        self.poll.unregister(fd)
                elif fd in self.by_output:
                    self._output(self.by_output[fd], fd)
                elif fd in self.by_stdin:
                    self._input(self.by_stdin[fd])
                elif fd in self.attached:
                    self._client(self.attached[fd], event)
                closed |= before - set(self.by_output) - set(self.by_stdin) - set(self.attached)
        for source in self.sources.values():
            source.log.close()

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the last output of a supervisor that is gone
            wire.send(self.control, message)

    # ---- commands --------------------------------------------------------------------------

    def _command(self) -> bool:
        message, fds = wire.receive(self.control)
        if message is None:
            return False
        container_id = message["id"]
        if message["op"] == "add" and container_id not in self.sources:
            self._add(container_id, message, fds)
        elif message["op"] == "attach":
            client = Attached(container_id, fds[0])
            self.attached[fds[0]] = client
            self.poll.register(fds[0], select.EPOLLIN)
        elif message["op"] == "forsake":  # it never ran: nobody waits for an answer
            self._end_clients(container_id)
        elif message["op"] == "finish":
            self._finish(container_id)
        else:
            wire.close_all(fds)
        return True

    def _add(self, container_id: str, message: dict[str, Any], fds: list[int]) -> None:
        log = message["log"]
        try:
            file = LogFile(**log)
        except OSError:
            file = LogFile("none", "", 0, 1)
            warning = {"op": "warn", "id": container_id, "text": f"log {log['path']} not writable"}
            self._tell(warning)
        source = self.sources[container_id] = Source(file)
        for name, fd in zip(message["streams"], fds, strict=True):
            os.set_blocking(fd, False)
            if name == "in":
                source.stdin = fd
                self.by_stdin[fd] = container_id
                self.poll.register(fd, 0)
            else:
                source.outputs[fd] = STDERR if name == "err" else STDOUT
                self.by_output[fd] = container_id
                self.poll.register(fd, select.EPOLLIN)
            if name == "tty":
                source.stdin = os.dup(fd)
                self.by_stdin[source.stdin] = container_id
                self.poll.register(source.stdin, 0)

    def _finish(self, container_id: str) -> None:
        """Drain a container whose processes are gone, then say so.

        No attached client is waited for: one that never reads would hold up the container's end,
        its restart and its removal. What was in the pipes is little, and stays in its backlog.
        """
        source = self.sources.get(container_id)
        if source is None:
            self._end_clients(container_id)
            self._tell({"op": "finished", "id": container_id})
            return
        for fd in list(source.outputs):
            while fd in source.outputs and self._output(container_id, fd):
                continue
        for fd in list(source.outputs):
            self._drop_output(source, fd)
        self._close_stdin(source)
        source.log.close()
        del self.sources[container_id]
        self._end_clients(container_id)
        self._tell({"op": "finished", "id": container_id})

    def _end_clients(self, container_id: str) -> None:
        for client in self._clients(container_id):
            client.ending = True
            self._flush(client)

    # ---- output ----------------------------------------------------------------------------

    def _clients(self, container_id: str) -> list[Attached]:
        return [c for c in self.attached.values() if c.container_id == container_id]

    def _output(self, container_id: str, fd: int) -> bool:
        """Move one piece; false when nothing is left for now."""
        source = self.sources[container_id]
        stream = source.outputs[fd]
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # EIO: the last slave of a terminal is closed
        if not data:
            self._drop_output(source, fd)
            return False
        source.log.write(stream, data)
        for client in self._clients(container_id):
            client.backlog += FRAME.pack(stream, len(data)) + data
            self._flush(client)
            if len(client.backlog) > _BACKLOG_HIGH and not source.paused:
                source.paused = True
                for output in source.outputs:
                    self.poll.modify(output, 0)
        return True

    def _drop_output(self, source: Source, fd: int) -> None:
        self.poll.unregister(fd)
        os.close(fd)
        del source.outputs[fd], self.by_output[fd]

    def _flush(self, client: Attached) -> None:
        try:
            while client.backlog:
                done = client.sock.send(client.backlog)
                del client.backlog[:done]
        except BlockingIOError:
            pass
        except OSError:
            self._leave(client)
            return
        if client.ending and not client.backlog:
            self._leave(client)
            return
        self._watch(client)
        if len(client.backlog) < _BACKLOG_LOW:
            self._resume(client.container_id)

    def _watch(self, client: Attached) -> None:
        """Wait for what can be done: no more input is read than the container takes."""
        source = self.sources.get(client.container_id)
        full = source is not None and len(source.pending_input) > _BACKLOG_HIGH
        events = (0 if full else select.EPOLLIN) | (select.EPOLLOUT if client.backlog else 0)
        self.poll.modify(client.sock.fileno(), events)

    def _resume(self, container_id: str) -> None:
        source = self.sources.get(container_id)
        if source is None or not source.paused:
            return
        if any(len(c.backlog) >= _BACKLOG_LOW for c in self._clients(container_id)):
            return
        source.paused = False
        for output in source.outputs:
            self.poll.modify(output, select.EPOLLIN)

    def _leave(self, client: Attached) -> None:
        fd = client.sock.fileno()
        if fd in self.attached:
            self.poll.unregister(fd)
            del self.attached[fd]
            client.sock.close()
            self._resume(client.container_id)

    # ---- input -----------------------------------------------------------------------------

    def _client(self, client: Attached, event: int) -> None:
        if event & select.EPOLLOUT:
            self._flush(client)
        if client.sock.fileno() < 0 or not event & (select.EPOLLIN | select.EPOLLHUP):
            return
        try:
            data = client.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leave(client)
            return
        client.inbox += data
        source = self.sources.get(client.container_id)
        if source is None:
            if len(client.inbox) > _BACKLOG_HIGH:
                self._leave(client)
            return
        self._take_frames(client, source)

    def _take_frames(self, client: Attached, source: Source) -> None:
        while len(client.inbox) >= FRAME.size:
            kind, length = FRAME.unpack_from(client.inbox)
            if len(client.inbox) < FRAME.size + length:
                break
            if kind == 0:
                source.pending_input += client.inbox[FRAME.size : FRAME.size + length]
            else:
                source.close_after_input = True
            del client.inbox[: FRAME.size + length]
        self._input(client.container_id)
        if client.sock.fileno() >= 0:
            self._watch(client)

    def _input(self, container_id: str) -> None:
        source = self.sources[container_id]
        if source.stdin < 0:
            source.pending_input.clear()
            return
        try:
            while source.pending_input:
                done = os.write(source.stdin, source.pending_input)
                del source.pending_input[:done]
        except BlockingIOError:
            self.poll.modify(source.stdin, select.EPOLLOUT)
            return
        except OSError:
            source.pending_input.clear()
            source.close_after_input = True
        self.poll.modify(source.stdin, 0)
        for client in self._clients(container_id):
            self._watch(client)
        if source.close_after_input and source.outputs and not self._is_tty(source):
            self._close_stdin(source)
            self._tell({"op": "stdin-closed", "id": container_id})

    @staticmethod
    def _is_tty(source: Source) -> bool:
        return source.stdin >= 0 and os.isatty(source.stdin)

    def _close_stdin(self, source: Source) -> None:
        if source.stdin >= 0:
            self.poll.unregister(source.stdin)
            del self.by_stdin[source.stdin]
            os.close(source.stdin)
            source.stdin = -1


def main(control_fd: int) -> None:
    """Run the pump on an inherited control socket."""
    Pump(socket.socket(fileno=control_fd)).run()
