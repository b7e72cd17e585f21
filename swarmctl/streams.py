"""The frames of attach, exec and logs: stdout and stderr on one stream."""

import sys
from collections.abc import Iterable, Iterator

from swarmctl.errors import ClientError

STDOUT, STDERR, SYSTEM_ERROR = 1, 2, 3
_HEADER_BYTES = 8


def frames(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (stream, payload) of a multiplexed stream.

    A frame is `[stream, 0, 0, 0, length as big-endian uint32]` and its payload; chunks cut it
    anywhere.
    """
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _HEADER_BYTES:
            end = _HEADER_BYTES + int.from_bytes(buffer[4:_HEADER_BYTES], "big")
            if len(buffer) < end:
                break
            yield buffer[0], bytes(buffer[_HEADER_BYTES:end])
            del buffer[:end]
    if buffer:
        raise ClientError("the daemon's stream ended in the middle of a frame")


def copy_out(chunks: Iterable[bytes], *, multiplexed: bool) -> None:
    """Write a stream to stdout and stderr; raises ClientError on the daemon's error frame."""
    if not multiplexed:
        for chunk in chunks:
            _write(STDOUT, chunk)
        return
    for stream, payload in frames(chunks):
        if stream == SYSTEM_ERROR:
            raise ClientError(f"Error response from daemon: {payload.decode(errors='replace')}")
        _write(stream, payload)


def _write(stream: int, data: bytes) -> None:
    target = sys.stderr if stream == STDERR else sys.stdout
    target.buffer.write(data)
    target.buffer.flush()
