"""From the project's errors to gRPC's, and the leader's address for those who ask elsewhere."""

from typing import Any, NoReturn

import grpc

from swarmapi.conversation import LEADER_METADATA
from swarmapi.errors import NotLeader, SwarmError


async def refuse(context: "grpc.aio.ServicerContext[Any, Any]", error: SwarmError) -> NoReturn:
    """End a call with the code and message of an error."""
    leader = error.leader if isinstance(error, NotLeader) else ""
    code = grpc.StatusCode[error.grpc_code]
    await context.abort(code, error.message, ((LEADER_METADATA, leader),) if leader else ())
