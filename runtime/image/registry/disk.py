"""Disk work off the event loop, which a cancelled waiter does not leave half done behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T], stop: threading.Event | None = None) -> T:
    """Run in a worker thread; a cancelled caller still waits for the thread to end.

    A thread cannot be stopped: files it writes must not be closed or removed under it. `stop` is
    set first, for a function that looks at it now and then.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        await asyncio.wait([work])
        raise
