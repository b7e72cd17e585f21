"""The machine's clock behind the Clock port."""

import asyncio
import time


class SystemClock:
    """Wall time in nanoseconds, and sleep."""

    def now_ns(self) -> int:
        """Return nanoseconds of the epoch."""
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
