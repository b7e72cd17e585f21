"""The gRPC service `Dispatcher`."""

from typing import Any

from manager.ca.rpc import refuse
from manager.dispatcher.dispatcher import Dispatcher
from swarmapi.errors import SwarmError
from swarmapi.v1 import dispatcher_pb2 as pb


class Incoming:
    """The messages of a stream, read one by one; leaving it half read leaves nothing behind."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __aiter__(self) -> "Incoming":
        return self

    async def __anext__(self) -> pb.AgentMessage:
        message = await self._context.read()
        if not isinstance(message, pb.AgentMessage):
            raise StopAsyncIteration  # gRPC's end of the stream
        return message


class DispatcherService:
    """Hands streams to the dispatcher and turns its errors into status codes."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def Session(  # noqa: N802 - the name is the protocol's
        self, request_iterator: object, context: Any
    ) -> None:
        """Serve one agent's stream."""
        try:
            await self._dispatcher.converse(Incoming(context), context)
        except SwarmError as error:
            await refuse(context, error)
