"""The gRPC service `Execs`."""

from typing import Any

from manager.ca.authority import check_node
from manager.ca.rpc import refuse
from manager.execs.broker import ExecBroker
from manager.replica import Store
from swarmapi.errors import SwarmError
from swarmapi.identity import identity_from_auth_context


class ExecsService:
    """Hands a node's processes to the broker; a node brings only what it was asked for."""

    def __init__(self, store: Store, broker: ExecBroker) -> None:
        self._store = store
        self._broker = broker

    async def Attach(  # noqa: N802 - the name is the protocol's
        self, request_iterator: object, context: Any
    ) -> None:
        """Serve one process."""
        try:
            node = check_node(self._store.view, identity_from_auth_context(context))
            await self._broker.attach(node.id, context.read, context.write)
        except SwarmError as error:
            await refuse(context, error)
