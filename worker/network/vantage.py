"""Asking the network as a container does, from inside its namespace."""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Final

from worker.network import netns
from worker.network.answer import TYPE_A, TYPE_AAAA
from worker.network.family import IPV4, Family
from worker.network.local import DNS_ADDRESS

_WAIT_S: Final = 2.0
_TRIES: Final = 2
_CLASS_IN: Final = 1
_TRUNCATED: Final = 2


class Inside:
    """The namespace of a process, which stays open when the process has ended."""

    def __init__(self, pid: int, fd: int) -> None:
        self._pid = pid
        self._fd = fd

    def is_there(self) -> bool:
        """Tell whether the process still is: nobody serves the namespace of one that has ended."""
        try:
            now = os.stat(_path(self._pid))
        except OSError:
            return False
        return now.st_ino == os.fstat(self._fd).st_ino

    async def resolve(self, name: str, family: Family = IPV4) -> tuple[str, ...]:
        """Return the addresses that the resolver at 127.0.0.11 has for a name.

        Raises:
            OSError: nothing answers, or it answers with an error.
        """
        number, kind = os.urandom(2), TYPE_A if family is IPV4 else TYPE_AAAA
        labels = b"".join(bytes((len(part),)) + part.encode() for part in name.split("."))
        question = labels + b"\0" + struct.pack(">HH", kind, _CLASS_IN)
        query = number + b"\1\0\0\1\0\0\0\0\0\0" + question
        answer = await self._ask(query)
        if len(answer) > 2 and answer[2] & _TRUNCATED:
            answer = await self._ask_by_tcp(query)
        return _addresses(answer, 12 + len(question), kind)

    async def connects(self, address: str, port: int) -> str:
        """Try a TCP connection; return what went wrong, empty when somebody answered.

        A refusal is an answer: the way there and back is whole.
        """
        loop = asyncio.get_running_loop()
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with await asyncio.to_thread(self._opened, socket.SOCK_STREAM, family) as tcp:
                async with asyncio.timeout(_WAIT_S):
                    await loop.sock_connect(tcp, (address, port))
        except ConnectionError:
            return ""
        except TimeoutError:
            return f"no answer within {_WAIT_S:g}s"
        except OSError as error:
            return error.strerror or str(error)
        return ""

    async def _ask(self, query: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with await asyncio.to_thread(self._opened, socket.SOCK_DGRAM) as udp:
            await loop.sock_connect(udp, (DNS_ADDRESS, 53))
            for _ in range(_TRIES):
                await loop.sock_sendall(udp, query)
                try:
                    async with asyncio.timeout(_WAIT_S):
                        while (answer := await loop.sock_recv(udp, 4096))[:2] != query[:2]:
                            continue
                except TimeoutError:
                    continue
                return answer
        raise TimeoutError(errno.ETIMEDOUT, f"{DNS_ADDRESS} does not answer")

    async def _ask_by_tcp(self, query: bytes) -> bytes:
        """Ask for what has no room in a datagram."""
        loop = asyncio.get_running_loop()
        received = b""
        try:
            with await asyncio.to_thread(self._opened, socket.SOCK_STREAM) as tcp:
                async with asyncio.timeout(_WAIT_S):
                    await loop.sock_connect(tcp, (DNS_ADDRESS, 53))
                    await loop.sock_sendall(tcp, struct.pack(">H", len(query)) + query)
                    while len(received) < 2 or len(received) < 2 + _size(received):
                        if not (more := await loop.sock_recv(tcp, 65536)):
                            raise ConnectionResetError(errno.ECONNRESET, "TCP answer cut short")
                        received += more
        except TimeoutError as error:
            raise TimeoutError(errno.ETIMEDOUT, f"{DNS_ADDRESS} does not answer TCP") from error
        return received[2:]

    def _opened(
        self, kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET
    ) -> socket.socket:
        opened = netns.inside(self._fd, lambda: socket.socket(family, kind))
        opened.setblocking(False)
        return opened


@contextmanager
def entered(pid: int) -> Iterator[Inside]:
    """Open a process's network namespace; raises OSError when the process has ended."""
    fd = os.open(_path(pid), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Inside(pid, fd)
    finally:
        os.close(fd)


def _size(received: bytes) -> int:
    """Return the length that an answer by TCP begins with."""
    return int.from_bytes(received[:2], "big")


def _path(pid: int) -> str:
    return f"/proc/{pid}/ns/net"


def _addresses(answer: bytes, start: int, wanted: int) -> tuple[str, ...]:
    """Return the records of a type of an answer whose own records begin at `start`."""
    if len(answer) < start or answer[3] & 15:
        raise OSError(errno.ENOENT, f"answered with code {answer[3] & 15 if answer else -1}")
    found, at = [], start
    for _ in range(int.from_bytes(answer[6:8], "big")):
        while 0 < answer[at] < 192:  # labels, then a pointer or the root
            at += 1 + answer[at]
        at += 2 if answer[at] >= 192 else 1
        kind, _, _, length = struct.unpack_from(">HHIH", answer, at)
        if kind == wanted:
            found.append(str(ip_address(answer[at + 10 : at + 10 + length])))
        at += 10 + length
    return tuple(sorted(found))
