"""Both ends of a connection on which nothing is said for long. Standard library only.

`linger.py serve` answers every line on port 80 with itself, for ever. `linger.py HOST:PORT
SECONDS` connects, has a line answered, prints `open`, is silent so long, and asks again; it prints
`alive` then, or why not.
"""

import asyncio
import os
import signal
import sys

ANSWER_LIMIT_S = 10.0


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line with itself."""
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve() -> None:
    """Listen on port 80 for ever."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = await asyncio.start_server(echo, "0.0.0.0", 80)
    await server.serve_forever()


async def linger(host: str, port: int, silent_s: float) -> str:
    """Return `alive` when the connection answers after the silence, else why it does not."""
    reader, writer = await asyncio.open_connection(host, port)

    async def ask(word: bytes) -> bytes:
        writer.write(word + b"\n")
        async with asyncio.timeout(ANSWER_LIMIT_S):
            return (await reader.readline()).strip()

    if await ask(b"first") != b"first":
        return "closed at once"
    print("open", flush=True)
    await asyncio.sleep(silent_s)
    try:
        return "alive" if await ask(b"second") == b"second" else "closed"
    except (OSError, TimeoutError) as error:
        return f"dead: {type(error).__name__} {error}"


def main() -> None:
    """Be the one end or the other."""
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        host, _, port = sys.argv[1].partition(":")
        print(asyncio.run(linger(host, int(port), float(sys.argv[2]))), flush=True)


if __name__ == "__main__":
    main()
