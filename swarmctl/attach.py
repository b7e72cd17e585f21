"""An attached stream: our stdin, stdout and terminal joined to a container's."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from swarmctl.errors import ClientError
from swarmctl.http import Client, Hijacked
from swarmctl.streams import copy_out

_READ_BYTES = 65536
_DETACH = b"\x10\x11"
"""ctrl-p ctrl-q."""
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


class Detached(Exception):
    """The user left the stream with ctrl-p ctrl-q; the program goes on."""


class Attachment:
    """Pumps one hijacked stream; with `interactive` our stdin goes into it."""

    def __init__(self, stream: Hijacked, *, interactive: bool, terminal: bool) -> None:
        if interactive and not terminal and not stream.can_half_close:
            stream.close()
            raise ClientError("stdin over TLS needs -t: TLS cannot end one direction alone")
        self._stream = stream
        self._interactive = interactive
        self._terminal = terminal
        self._detached = False

    def run(self) -> None:
        """Copy until the other side closes; raises Detached when the user leaves."""
        if self._interactive:
            threading.Thread(target=self._send_input, daemon=True).start()
        elif self._stream.can_half_close:
            self._stream.end_input()
        try:
            multiplexed = self._stream.multiplexed and not self._terminal
            copy_out(self._stream.chunks(), multiplexed=multiplexed)
        except (OSError, ValueError):
            if not self._detached:
                raise
        if self._detached:
            raise Detached
        self._stream.close()

    def _send_input(self) -> None:
        keys = b""
        try:
            while data := os.read(sys.stdin.fileno(), _READ_BYTES):
                if self._terminal:
                    keys, data = self._without_detach(keys + data)
                    if self._detached:
                        self._stream.close()
                        return
                self._stream.send(data)
            self._stream.end_input()
        except OSError:
            return  # the program ended before it had read everything

    def _without_detach(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what may begin the detach keys, and what is input for certain."""
        if _DETACH in data:
            self._detached = True
            return b"", b""
        if data.endswith(_DETACH[:1]):
            return data[-1:], data[:-1]
        return b"", data


@contextmanager
def raw_terminal(*, wanted: bool) -> Iterator[None]:
    """Hand every key to the other side; the terminal is as before afterwards."""
    if not wanted or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin.fileno())
    tty.setraw(sys.stdin.fileno())
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)


def check_terminal(*, interactive: bool, terminal: bool) -> None:
    """Refuse a terminal that is not there; raises ClientError."""
    if interactive and terminal and not sys.stdin.isatty():
        raise ClientError("the input device is not a TTY: leave out -t")


def size() -> dict[str, str] | None:
    """Return our terminal's size as a resize's query; None where there is none."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return None
    return {"h": str(rows), "w": str(columns)} if columns and rows else None


@contextmanager
def resized(client: Client, path: str, *, wanted: bool) -> Iterator[None]:
    """Give the other terminal our size, now and after every change."""

    def resize(*_: Any) -> None:
        query = size()
        if query:
            try:
                client.call("POST", f"{path}/resize", query=query)
            except ClientError:
                pass  # it has ended, or has no terminal yet: the next change tells again

    if not wanted:
        yield
        return
    resize()
    with _handled((signal.SIGWINCH,), resize):
        yield


@contextmanager
def signals_forwarded(client: Client, container: str, *, wanted: bool) -> Iterator[None]:
    """Send our signals to the container instead of ending."""

    def forward(number: int, _: Any) -> None:
        name = signal.Signals(number).name.removeprefix("SIG")
        try:
            client.call("POST", f"/containers/{container}/kill", query={"signal": name})
        except ClientError:
            pass  # it has just ended

    with _handled(_FORWARDED if wanted else (), forward):
        yield


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Callable[..., None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        numbers = ()
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
