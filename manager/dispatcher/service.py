"""The gRPC service `Dispatcher`."""

from collections.abc import AsyncIterator
from typing import Any

from manager.ca.rpc import refuse
from manager.dispatcher.dispatcher import Dispatcher
from swarmapi.errors import SwarmError
from swarmapi.v1 import dispatcher_pb2 as pb


class DispatcherService:
    """Hands streams to the dispatcher and turns its errors into status codes."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def Session(  # noqa: N802 - the name is the protocol's
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Any
    ) -> None:
        """Serve one agent's stream."""
        try:
            await self._dispatcher.converse(aiter(request_iterator), context)
        except SwarmError as error:
            await refuse(context, error)
