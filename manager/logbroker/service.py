"""The gRPC service `Logs`."""

from typing import Any

from manager.ca.authority import check_manager, check_node
from manager.ca.rpc import refuse
from manager.logbroker.broker import LogBroker
from manager.logbroker.tails import Tails
from manager.replica import Store
from swarmapi.errors import SwarmError, Unavailable
from swarmapi.identity import identity_from_auth_context
from swarmapi.v1 import logs_pb2 as pb


class LogsService:
    """Hands publications to the broker; a node publishes only for itself."""

    def __init__(self, store: Store, broker: LogBroker, tails: Tails) -> None:
        self._store = store
        self._broker = broker
        self._tails = tails

    async def Publish(  # noqa: N802 - the name is the protocol's
        self, request_iterator: object, context: Any
    ) -> pb.LogReceipt:
        """Serve one publication."""
        try:
            node = check_node(self._store.view, identity_from_auth_context(context))
            await self._broker.publish(node.id, context.read)
        except SwarmError as error:
            await refuse(context, error)
        return pb.LogReceipt()

    async def Keep(  # noqa: N802 - the name is the protocol's
        self, request: pb.KeptLog, context: Any
    ) -> pb.LogReceipt:
        """Keep the last lines of a task, which the leader has read."""
        try:
            check_manager(self._store.view, identity_from_auth_context(context))
            if request.task_id in self._store.view.tasks:
                self._tails.take(request.task_id, request.lines)
        except SwarmError as error:
            await refuse(context, error)
        except OSError as error:
            await refuse(context, Unavailable(f"log of task {request.task_id}: {error}"))
        return pb.LogReceipt()
