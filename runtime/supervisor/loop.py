"""Ready descriptors and due times: the fork server's event loop."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

Handler = Callable[[], None]


class Loop:
    """Calls one handler for each ready descriptor and each due time."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._due: list[tuple[float, int, Handler]] = []
        self._order = itertools.count()

    def watch(self, fd: int, handler: Handler) -> None:
        """Call the handler whenever `fd` is readable or closed at its other end."""
        self._poll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Watch `fd` no longer; it is still the caller's to close."""
        self._poll.unregister(fd)
        del self._handlers[fd]

    def after(self, delay_s: float, handler: Handler) -> None:
        """Call the handler once; one that is no longer wanted must find that out itself."""
        heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._order), handler))

    def turn(self, patience_s: float) -> bool:
        """Wait (for ever when negative) and call what is ready; false when nothing was."""
        if self._due:
            left = max(self._due[0][0] - time.monotonic(), 0)
            patience_s = left if patience_s < 0 else min(patience_s, left)
        ready = [(fd, self._handlers[fd]) for fd, _ in self._poll.poll(patience_s)]
        for fd, handler in ready:
            # an earlier handler may have closed it, and the number be another file's (epoll(7))
            if self._handlers.get(fd) is handler:
                handler()
        now = time.monotonic()
        busy = bool(ready)
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
            busy = True
        return busy
