"""Messages between the processes of the supervisor: one JSON object per SEQPACKET record."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from typing import Any

MAX_MESSAGE = 1 << 20
_MAX_FDS = 16
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps makes an encoder a message
# as numbers: the module's enumerations take microseconds to be or-ed
_SIZE_ONLY = int(socket.MSG_PEEK | socket.MSG_TRUNC)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)


def tune(sock: socket.socket) -> socket.socket:
    """Let records of MAX_MESSAGE pass."""
    for option in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE (socket(7)); Python names neither
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, option, MAX_MESSAGE)
    return sock


def pair() -> tuple[socket.socket, socket.socket]:
    """Return a connected pair for `send` and `receive`."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return tune(left), tune(right)


def send(sock: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one record; descriptors ride along."""
    raw = _encode(message).encode()
    if len(raw) > MAX_MESSAGE // 2:
        raise ValueError(f"message of {len(raw)} bytes is over {MAX_MESSAGE // 2}")
    ancillary = []
    if fds:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    sock.sendmsg([raw], ancillary)


def receive(sock: socket.socket, flags: int = 0) -> tuple[dict[str, Any] | None, list[int]]:
    """Receive one record; None at the end of the connection.

    Raises ValueError for what is no JSON object.
    """
    space = socket.CMSG_SPACE(4 * _MAX_FDS)
    # a buffer of MAX_MESSAGE is a mapping of its own: ten times the cost of asking for the size
    size = sock.recv_into(bytearray(1), 0, _SIZE_ONLY | flags)
    room = min(max(size, 1), MAX_MESSAGE)
    raw, ancillary, _, _ = sock.recvmsg(room, space, _CLOEXEC | flags)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not raw:
        close_all(list(fds))
        return None, []
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        close_all(list(fds))
        raise ValueError("a message is one JSON object")
    return message, list(fds)


def close_all(fds: list[int]) -> None:
    """Close descriptors, minding none that is already closed."""
    for fd in fds:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
