"""The cluster's events, from this machine's own manager."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from swarmapi.errors import Unavailable
from swarmapi.events import Event, EventBatch
from worker.cluster.membership import Member
from worker.cluster.proxy import ManagerProxy

_AGAIN_S: Final = 0.5
_decoder = msgspec.json.Decoder(EventBatch)


class ManagersEvents:
    """Makes streams (`worker.api.events.ClusterEvents`) that live as long as somebody reads."""

    def __init__(self, member: Member, proxy: ManagerProxy) -> None:
        self._member = member
        self._proxy = proxy

    async def stream(
        self, since_ns: int | None, tasks: bool
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Yield what is remembered since then, and what comes.

        A manager that starts again is asked for what came since. Where none is, what is
        remembered is nothing; the stream begins should the node be promoted.
        """
        cluster, after = "", 0
        while True:
            here = self._member.membership
            if here is None or not here.is_manager:
                yield ()
            else:
                if here.cluster_id != cluster:
                    cluster, after = here.cluster_id, 0
                lines = self._proxy.lines(_url(since_ns, after, tasks=tasks))
                try:
                    async with aclosing(lines):
                        async for line in lines:
                            batch = _decoder.decode(line)
                            after = batch.index
                            yield batch.events
                except Unavailable:
                    pass
            await asyncio.sleep(_AGAIN_S)


def _url(since_ns: int | None, after: int, *, tasks: bool) -> str:
    words = [f"tasks={int(tasks)}", f"after={after}"]
    if since_ns is not None:
        seconds, nanos = divmod(max(since_ns, 1), 10**9)  # 0 would be no time
        words.append(f"since={seconds}.{nanos:09d}")
    return "/swarm/v1/events?" + "&".join(words)
