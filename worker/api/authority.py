"""The door of the API: who calls is found out first, then whether it may do what it asks for."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from swarmapi import access
from worker.api import audit
from worker.api.callers import CALLER, PEER, Callers

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CALLERS: web.AppKey[Callers] = web.AppKey("callers", Callers)
BODY = web.RequestKey("body", bytes)
"""The body, where it was looked into: a stream is read once."""


@web.middleware
async def authorise(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request through that its caller's role allows (401 and 403 otherwise)."""
    callers = request.app[CALLERS]
    request[PEER] = callers.peer(request)
    caller = request[CALLER] = await callers.of(request)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # What is looked into here must be, byte for byte, what the manager reads.
        raise web.HTTPUnsupportedMediaType(reason="Content-Encoding is not supported")
    if inspect := access.check(caller.role, request.method, request.path):
        request[BODY] = await request.read()
        access.check_body(inspect, request[BODY])
    audit.begin(request)
    return await handler(request)
