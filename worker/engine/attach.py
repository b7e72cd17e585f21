"""Live streams of a container, also of one that is still to be started."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from runtime.errors import BadStatus, NoSuchContainer
from worker.engine.ports import Attachment


class AttachSession:
    """One client's view of a container's streams.

    What the client writes before the container starts is kept in order.
    """

    def __init__(self) -> None:
        self._attached: asyncio.Future[Attachment | None] = (
            asyncio.get_running_loop().create_future()
        )
        self._input_open = asyncio.Event()

    def connected(self, attachment: Attachment | None) -> None:
        """Take over the streams; None when the container never started."""
        if not self._attached.done():
            self._attached.set_result(attachment)
        if attachment is None:
            self._input_open.set()

    def open_input(self) -> None:
        """Let input through: the container has a stdin now."""
        self._input_open.set()

    @property
    def waiting(self) -> bool:
        """Whether the streams are still to be connected."""
        return not self._attached.done()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (1 stdout or 2 stderr, bytes) until the container's end."""
        attachment = await asyncio.shield(self._attached)
        if attachment is None:
            return
        async for stream, data in attachment:
            yield (2 if stream == "stderr" else 1), data

    async def write(self, data: bytes) -> None:
        """Write to the container's stdin; what comes after its end is dropped."""
        await self._input_open.wait()
        attachment = await asyncio.shield(self._attached)
        if attachment is not None:
            with suppress(ConnectionError, NoSuchContainer, BadStatus):
                await attachment.write(data)

    async def close_stdin(self) -> None:
        """End the container's stdin."""
        await self._input_open.wait()
        attachment = await asyncio.shield(self._attached)
        if attachment is not None:
            with suppress(ConnectionError, NoSuchContainer, BadStatus):
                await attachment.close_stdin()

    async def close(self) -> None:
        """Detach; the container goes on."""
        if not self._attached.done():
            self._attached.cancel()
        elif not self._attached.cancelled():
            attachment = self._attached.result()
            if attachment is not None:
                await attachment.close()
