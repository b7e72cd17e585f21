"""Work that is of use only while its client is there.

aiohttp lets a handler run on when its client goes; one that writes nothing would never learn it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

T = TypeVar("T")
_LOOK_S = 0.25


async def while_connected(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns; it is cancelled when the client goes.

    Raises:
        ConnectionResetError: the client went away.
    """
    running = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({running}, timeout=_LOOK_S))[0]:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client went away")
        return running.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
