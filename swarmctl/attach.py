"""An attached stream: our stdin, stdout and terminal joined to a container's."""

import json
import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from swarmctl.command import Parser
from swarmctl.errors import ClientError
from swarmctl.flags import Bad, truth
from swarmctl.http import Client, Hijacked, Response
from swarmctl.streams import copy_out

_READ_BYTES = 65536
_DETACH = b"\x10\x11"
"""ctrl-p ctrl-q."""
_CONTROLS = "abcdefghijklmnopqrstuvwxyz@[\\]^_"
_NOT_STARTED = 125
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


class Detached(Exception):
    """The user left the stream with the detach keys; the program goes on."""


class Wish(NamedTuple):
    """How a client joins a container's streams."""

    streams: frozenset[str]
    """Of stdin, stdout and stderr."""
    terminal: bool
    detach: bytes = _DETACH
    """What leaves the stream; empty where nothing does."""
    keys: str = ""
    proxy: bool = True
    """Whether signals go to the container; a terminal's keys make them there anyway."""

    @classmethod
    def of(cls, args: Namespace, streams: set[str], *, terminal: bool) -> "Wish":
        """Return the wish of a command line."""
        keys = getattr(args, "detach_keys", "")
        proxy = getattr(args, "sig_proxy", True) and not terminal
        return cls(frozenset(streams), terminal, detach_keys(keys), keys, proxy)

    @property
    def interactive(self) -> bool:
        return "stdin" in self.streams

    @property
    def query(self) -> dict[str, str]:
        """Return the query of an attach."""
        query = {"stream": "1", **dict.fromkeys(sorted(self.streams), "1")}
        return query | ({"detachKeys": self.keys} if self.keys else {})


def add_flags(parser: Parser) -> None:
    """Add the flags of every attached container."""
    parser.add_argument("--sig-proxy", type=_truth, default=True, metavar="true|false")
    parser.add_argument("--detach-keys", default="", metavar="KEYS")


def _truth(text: str) -> bool:
    return truth("--sig-proxy", text)


def detach_keys(text: str) -> bytes:
    """Return the bytes of `ctrl-a,x`; empty text is ctrl-p,ctrl-q.

    Raises:
        Bad: for what is no key.
    """
    keys = b""
    for key in text.split(",") if text else []:
        control = key.removeprefix("ctrl-")
        if len(key) == 1 and key.isascii():
            keys += key.encode()
        elif (
            key != control and len(control) == 1 and control in "abcdefghijklmnopqrstuvwxyz@[\\]^_"
        ):
            keys += bytes([ord(control.upper()) & 0x1F])
        else:
            raise Bad(f"invalid detach keys {text!r}: want letters or ctrl-x, comma between them")
    return keys or _DETACH


def follow(client: Client, identity: str, stream: Hijacked, waiting: Response, wish: Wish) -> int:
    """Stay with a container to its end; returns its exit code, 0 when the user leaves."""
    attachment = Attachment(stream, wish)
    path = f"/containers/{identity}"
    with (
        raw_terminal(wanted=wish.interactive and wish.terminal),
        resized(client, path, wanted=wish.terminal),
        signals_forwarded(client, identity, wanted=wish.proxy),
    ):
        try:
            attachment.run()
        except Detached:
            waiting.close()
            return 0
        answer = json.loads(waiting.read())
    if answer.get("Error"):
        raise ClientError(f"Error response from daemon: {answer['Error']['Message']}", _NOT_STARTED)
    return int(answer["StatusCode"])


class Attachment:
    """Pumps one hijacked stream; with `interactive` our stdin goes into it."""

    def __init__(self, stream: Hijacked, wish: Wish) -> None:
        if wish.interactive and not wish.terminal and not stream.can_half_close:
            stream.close()
            raise ClientError("stdin over TLS needs -t: TLS cannot end one direction alone")
        self._stream = stream
        self._interactive = wish.interactive
        self._terminal = wish.terminal
        self._keys = wish.detach
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
                if self._terminal and self._keys:
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
        if self._keys in data:
            self._detached = True
            return b"", b""
        for length in range(len(self._keys) - 1, 0, -1):
            if data.endswith(self._keys[:length]):
                return data[-length:], data[:-length]
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
    tty.setraw(sys.stdin.fileno(), termios.TCSANOW)  # what was typed ahead is kept
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


def console_size() -> list[int]:
    """Return our terminal's rows and columns, for one that is to be made; 0, 0 without one."""
    query = size() or {"h": "0", "w": "0"}
    return [int(query["h"]), int(query["w"])]


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
