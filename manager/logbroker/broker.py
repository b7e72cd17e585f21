"""The leader's log broker: who reads which logs, and which node publishes for whom."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from manager.logbroker.merge import Line
from manager.logbroker.subscription import Query, Selector, Source, Subscription
from manager.replica import LogStatus, Store
from manager.store.apply import Applied
from swarmapi.errors import InvalidArgument, NotFound, NotLeader
from swarmapi.v1 import logs_pb2 as pb

MOST_MESSAGE_BYTES: Final = 1 << 20
Read = Callable[[], Awaitable[object]]
"""Reads the next LogPublication; anything else is the end of the stream."""


class LogBroker:
    """`ask` sends a request to a node's agent, and tells whether it has a session.

    `kept` returns the last lines of a task that were kept here (`tails`), if there are any.
    """

    def __init__(
        self,
        store: Store,
        ask: Callable[[str, pb.LogRequest], bool],
        kept: Callable[[str], Sequence[Line]] = lambda _: (),
    ) -> None:
        self._store = store
        self._kept = kept
        self._ask_node = ask
        self._numbers = itertools.count(1)
        self._subscriptions: set[Subscription] = set()
        self._asked: dict[str, tuple[Subscription, Source]] = {}
        store.replica.subscribe(self._on_applied)
        store.replica.on_restore(lambda: self._on_status(LogStatus(False, True)))
        store.log.on_status(self._on_status)

    @property
    def subscriptions(self) -> int:
        """How many clients read."""
        return len(self._subscriptions)

    @property
    def requests(self) -> int:
        """How many logs are being published, or are waited for."""
        return len(self._asked)

    @contextmanager
    def subscribe(self, selector: Selector, query: Query) -> Iterator[Subscription]:
        """Read logs for the length of the block; nodes are told when it ends."""

        def ask(source: Source, request: pb.LogRequest) -> bool:
            source.request_id = request.request_id = str(next(self._numbers))
            self._asked[source.request_id] = (subscription, source)
            return self._ask_node(source.node_id, request)

        def forget(request_id: str) -> None:
            self._asked.pop(request_id, None)

        subscription = Subscription(
            lambda: self._store.view, selector, query, ask, forget, self._store.now_ns, self._kept
        )
        self._subscriptions.add(subscription)
        try:
            subscription.begin()
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            subscription.close()

    async def publish(self, node_id: str, read: Read) -> None:
        """Take what a node publishes for one request, no faster than its reader does.

        Returns when the log is at its end, or nobody reads it any more.

        Raises:
            NotFound: nobody asked this node for it.
            InvalidArgument: a message that cannot be.
        """
        first = await read()
        if not isinstance(first, pb.LogPublication) or not first.HasField("head"):
            raise InvalidArgument("a publication begins with its head")
        found = self._asked.get(first.head.request_id)
        if found is None or found[1].node_id != node_id:
            raise NotFound("nobody reads this log any more")
        subscription, source = found
        taking = asyncio.ensure_future(_take(subscription, source, read))
        let_go = asyncio.ensure_future(source.let_go.wait())
        try:
            await asyncio.wait({taking, let_go}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done() and not let_go.done():
                taking.result()
        finally:
            for job in (taking, let_go):
                job.cancel()
            await asyncio.gather(taking, let_go, return_exceptions=True)
            if source.request_id == first.head.request_id:
                subscription.broke_off(source)

    # what the log and the sessions say --------------------------------------------------------

    def on_session(self, node_id: str, began: bool) -> None:
        """Ask a node again whose session has begun; wait for it where it has none."""
        for subscription in tuple(self._subscriptions):
            if began:
                subscription.node_is_back(node_id)
            else:
                subscription.node_is_gone(node_id)

    def _on_applied(self, applied: Applied) -> None:
        if not self._subscriptions:
            return
        view = self._store.view
        for kind, object_id in applied.changed:
            if kind not in ("task", "service"):
                continue
            task = view.tasks.get(object_id) if kind == "task" else None
            for subscription in tuple(self._subscriptions):
                if task is not None:
                    subscription.changed(task)
                else:
                    subscription.wake()

    def _on_status(self, status: LogStatus) -> None:
        if not (status.is_leader and status.ready):
            error = NotLeader("the leader changed: ask again", status.leader_address)
            for subscription in self._subscriptions:
                subscription.fail(error)


async def _take(subscription: Subscription, source: Source, read: Read) -> None:
    let_go = source.let_go
    subscription.opened(source)
    while True:
        await source.room.wait()
        message = await read()
        if not isinstance(message, pb.LogPublication) or let_go.is_set():
            return
        if message.ByteSize() > MOST_MESSAGE_BYTES:
            raise InvalidArgument(f"a batch of lines has at most {MOST_MESSAGE_BYTES} bytes")
        if message.HasField("end"):
            subscription.finished(source, message.end.error)
            return
        subscription.take(source, message.batch)
