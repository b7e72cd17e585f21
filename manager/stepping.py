"""Keep something as the store says: a step whenever there is news, again where one fails."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from swarmapi.errors import SwarmError

log = logging.getLogger(__name__)
RETRY_S: Final = 1.0


async def step_on(
    wake: asyncio.Event, step: Callable[[], Awaitable[None]], failed: str
) -> NoReturn:
    """Take a step now and at each `wake`; one that raises SwarmError is logged and taken again."""
    while True:
        wake.clear()
        try:
            await step()
        except SwarmError as error:
            log.info("%s: %s", failed, error.message)
            await asyncio.sleep(RETRY_S)
            continue
        await wake.wait()
