"""The gRPC service `Logs`."""

from typing import Any

from manager.ca.authority import check_node
from manager.ca.rpc import refuse
from manager.logbroker.broker import LogBroker
from manager.replica import Store
from swarmapi.errors import SwarmError
from swarmapi.identity import identity_from_auth_context
from swarmapi.v1 import logs_pb2 as pb


class LogsService:
    """Hands publications to the broker; a node publishes only for itself."""

    def __init__(self, store: Store, broker: LogBroker) -> None:
        self._store = store
        self._broker = broker

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
