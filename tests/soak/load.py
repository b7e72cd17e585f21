"""HTTP clients on raw sockets that count what fails, by kind. Standard library only.

`load.py HOST:PORT…`: half of the clients open a connection for every request, the others one for
fifty. They go on until standard input ends, finish what is under way, and print JSON:
{"requests": n, "failures": {kind: n}, "slowest_s": of the failures, "servers": n}.
"""

import asyncio
import json
import os
import sys
from collections import Counter

CLIENTS = 4
"""Of each kind, per target."""
REQUESTS_KEPT = 50
LIMIT_S = 5.0
"""For connecting and for each answer; more is a failure."""
SHOWN = 20
"""Failures told of at once on standard error, with the machine's uptime."""


class Load:
    """What all clients together have seen."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.servers: set[bytes] = set()

    async def client(self, host: str, port: int, kept: int) -> None:
        """Send requests, `kept` of them on one connection, until the end."""
        now = asyncio.get_running_loop().time
        while not self.ending.is_set():
            stage, done, writer, began = "connect", 0, None, now()
            try:
                async with asyncio.timeout(LIMIT_S):
                    reader, writer = await asyncio.open_connection(host, port)
                while done < kept and not (self.ending.is_set() and done):
                    stage, began = "kept" if done else "first", now()
                    async with asyncio.timeout(LIMIT_S):
                        await self._ask(reader, writer, last=done + 1 == kept)
                    done += 1
                    self.requests += 1
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                self.requests += 1
                kind = f"{host}:{port} {stage}: {type(error).__name__}"
                self.failures[kind] += 1
                self.slowest_s = max(self.slowest_s, now() - began)
                if self.failures.total() <= SHOWN:
                    print(f"{now():.3f} {kind}", file=sys.stderr)
                await asyncio.sleep(0.01)
            finally:
                if writer is not None:
                    writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, last: bool
    ) -> None:
        how = b"close" if last else b"keep-alive"
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: " + how + b"\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(head)
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        self.servers.add(await reader.readexactly(length))


async def main(targets: list[str]) -> None:
    """Run the clients until standard input ends."""
    load = Load()
    loop = asyncio.get_running_loop()
    loop.add_reader(0, lambda: None if os.read(0, 4096) else load.ending.set())
    clients = []
    for target in targets:
        host, _, port = target.partition(":")
        for kept in (1, REQUESTS_KEPT):
            clients += [load.client(host, int(port), kept) for _ in range(CLIENTS)]
    await asyncio.gather(*clients)
    result = {
        "requests": load.requests,
        "failures": load.failures,
        "slowest_s": round(load.slowest_s, 3),
        "servers": len(load.servers),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
