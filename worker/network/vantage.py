"""Asking the network as a container does, from inside its namespace."""

import asyncio
import errno
import os
import socket
import struct
from typing import Final

from worker.network import netns
from worker.network.local import DNS_ADDRESS

_WAIT_S: Final = 2.0
_TRIES: Final = 2
_TYPE_A, _CLASS_IN = 1, 1


async def resolve(pid: int, name: str) -> tuple[str, ...]:
    """Return the IPv4 addresses that a process's resolver at 127.0.0.11 has for a name.

    Raises:
        OSError: nothing answers, or it answers with an error.
    """
    loop, number = asyncio.get_running_loop(), os.urandom(2)
    labels = b"".join(bytes((len(part),)) + part.encode() for part in name.split("."))
    question = labels + b"\0" + struct.pack(">HH", _TYPE_A, _CLASS_IN)
    with await asyncio.to_thread(_opened, pid, socket.SOCK_DGRAM) as udp:
        await loop.sock_connect(udp, (DNS_ADDRESS, 53))
        for _ in range(_TRIES):
            await loop.sock_sendall(udp, number + b"\1\0\0\1\0\0\0\0\0\0" + question)
            try:
                async with asyncio.timeout(_WAIT_S):
                    while (answer := await loop.sock_recv(udp, 4096))[:2] != number:
                        continue
            except TimeoutError:
                continue
            return _addresses(answer, 12 + len(question))
    raise TimeoutError(errno.ETIMEDOUT, f"{DNS_ADDRESS} does not answer")


async def connects(pid: int, address: str, port: int) -> str:
    """Try a TCP connection; return what went wrong, empty when somebody answered.

    A refusal is an answer: the way there and back is whole.
    """
    loop = asyncio.get_running_loop()
    with await asyncio.to_thread(_opened, pid, socket.SOCK_STREAM) as tcp:
        try:
            async with asyncio.timeout(_WAIT_S):
                await loop.sock_connect(tcp, (address, port))
        except ConnectionError:
            return ""
        except TimeoutError:
            return f"no answer within {_WAIT_S:g}s"
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _opened(pid: int, kind: int) -> socket.socket:
    """Return a socket of a process's network namespace."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        opened = netns.inside(fd, lambda: socket.socket(socket.AF_INET, kind))
    finally:
        os.close(fd)
    opened.setblocking(False)
    return opened


def _addresses(answer: bytes, start: int) -> tuple[str, ...]:
    """Return the A records of an answer whose own records begin at `start`."""
    if len(answer) < start or answer[3] & 15:
        raise OSError(errno.ENOENT, f"answered with code {answer[3] & 15 if answer else -1}")
    found, at = [], start
    for _ in range(int.from_bytes(answer[6:8], "big")):
        while 0 < answer[at] < 192:  # labels, then a pointer or the root
            at += 1 + answer[at]
        at += 2 if answer[at] >= 192 else 1
        kind, _, _, length = struct.unpack_from(">HHIH", answer, at)
        if kind == _TYPE_A and length == 4:
            found.append(socket.inet_ntoa(answer[at + 10 : at + 14]))
        at += 10 + length
    return tuple(sorted(found))
