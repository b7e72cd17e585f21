"""Large request bodies: kept in a file without a name, never in memory."""

import asyncio
import tempfile
from types import TracebackType
from typing import IO

from aiohttp import web

from worker.api.keys import engine_of

_CHUNK_BYTES = 256 * 1024


class Spool:
    """`async with Spool(request) as file`: the whole body, read from its start."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        # closed in __aexit__, also when reading the body fails
        self._file: IO[bytes] = tempfile.TemporaryFile(  # noqa: SIM115 - owned by this object
            dir=engine_of(request).images.blobs.temporary
        )

    async def __aenter__(self) -> IO[bytes]:
        try:
            async for chunk in self._request.content.iter_chunked(_CHUNK_BYTES):
                await asyncio.to_thread(self._file.write, chunk)
        except BaseException:
            self._file.close()
            raise
        self._file.seek(0)
        return self._file

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
