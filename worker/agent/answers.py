"""What an agent does in answer to its managers' requests, at once and until the session ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Answers:
    """Answers under way; `len` says how many."""

    def __init__(self) -> None:
        self._jobs: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Answer in the background."""
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def close(self) -> None:
        """Cancel every answer, and wait until each has ended."""
        jobs = tuple(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
