"""Both ends of short connections, and of long ones. Standard library only.

`ping.py serve PORT` listens on every address, prints `ready`, and answers each connection's byte
with one byte; to `B` it sends BULK_BYTES. `ping.py ask ADDRESS PORT COUNT` prints, in
microseconds, the fifth percentile of COUNT times connect, ask, close: what neighbours on the
machine take away is not in it. `ping.py pull ADDRESS PORT` prints how long BULK_BYTES take, in ms.
"""

import os
import socket
import struct
import sys
import time

BULK_BYTES = 256 << 20
_CHUNK = bytes(1 << 20)
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets, so that no port waits to be used again."""


def serve(port: int) -> None:
    """Answer one connection after the other, for ever."""
    listener = socket.create_server(("0.0.0.0", port), backlog=64)
    print("ready", flush=True)
    while True:
        peer, _ = listener.accept()
        with peer:
            try:
                wanted = peer.recv(1)
                peer.sendall(wanted)
                for _ in range(BULK_BYTES // len(_CHUNK) if wanted == b"B" else 0):
                    peer.sendall(_CHUNK)
                peer.recv(1)
            except ConnectionError:
                continue


def ask(address: str, port: int, count: int) -> float:
    """Return microseconds of a short connection."""
    spent = []
    for _ in range(count):
        with socket.socket() as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            began = time.perf_counter()
            link.connect((address, port))
            link.send(b"?")
            if link.recv(1) != b"?":
                raise ConnectionError("no answer")
            link.close()
            spent.append(time.perf_counter() - began)
    return sorted(spent)[count // 20] * 1e6


def pull(address: str, port: int) -> float:
    """Return milliseconds of a long connection."""
    buffer, left = bytearray(1 << 20), BULK_BYTES + 1
    with socket.create_connection((address, port)) as link:
        link.send(b"B")
        began = time.perf_counter()
        while left > 0 and (got := link.recv_into(buffer)):
            left -= got
        if left:
            raise ConnectionError("it ended early")
        return (time.perf_counter() - began) * 1e3


def main() -> None:
    """Be one of the ends. Each has a CPU of its own: who wakes whom where would be chance."""
    verb, *words = sys.argv[1:]
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[-1] if verb == "serve" else cpus[0]})
    if verb == "serve":
        serve(int(words[0]))
    elif verb == "ask":
        print(ask(words[0], int(words[1]), int(words[2])))
    else:
        print(pull(words[0], int(words[1])))


if __name__ == "__main__":
    main()
