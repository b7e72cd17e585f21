"""An HTTP server that SIGTERM ends at once, whatever it is at. Standard library only."""

import asyncio
import os
import random
import signal
import sys

THINKS_S = 0.02
"""A request takes up to this long, so that some are always under way."""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests until the client goes or asks for the end of the connection."""
    body = os.uname().nodename.encode()
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(random.uniform(0, THINKS_S))
            last = b"Connection: close" in head
            how = b"close" if last else b"keep-alive"
            length = str(len(body)).encode()
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\nConnection: %b\r\n\r\n%b"
            writer.write(answer % (length, how, body))
            await writer.drain()
            if last:
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Listen on port 80 for ever."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = await asyncio.start_server(serve, "0.0.0.0", 80, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
