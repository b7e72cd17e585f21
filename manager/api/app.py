"""The aiohttp application: errors, the leader's gate, the table of routes."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, Protocol

from aiohttp import web

from manager import audit
from manager.api.events import SERVED_HERE
from manager.api.execs import ENDS_WITH_CLIENT
from manager.api.keys import BROKER, EVENTS, NODE_ID, STORE
from manager.api.metrics import SERVED_ALONE as FIGURES
from manager.api.responses import (
    HAPPENS_ONCE_AS,
    LONGEST_REQUEST_ID,
    REQUEST_ID,
    failure,
)
from manager.api.routes import ROUTES
from manager.api.state import SERVED_ALONE
from manager.api.tokens import recognise
from manager.events import EventLog
from manager.logbroker.broker import LogBroker
from manager.replica import LogStatus, Store
from swarmapi.access import TOKEN_PATH
from swarmapi.errors import InvalidArgument, NotLeader, OutcomeUnknown, SwarmError, Unavailable
from swarmapi.keyring import CERTIFICATE_PATH, UNLOCK_KEY_PATH
from swarmapi.query import add_routes, refuse

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FORWARDED: Final = "X-Swarm-Forwarded"
"""Header of a request that came from another manager: it is never passed on again."""
ELECTION_WAIT_S: Final = 10.0
RETRY_S: Final = 0.1
NOT_LEADER: Final = "X-Swarm-Not-Leader"
"""Header of the answer of a manager that does not lead: nothing has happened yet."""
KEPT_BODY_BYTES: Final = 1 << 20
"""A body of up to this length is kept, so that another leader can be sent it again."""
_LOCAL: Final = (UNLOCK_KEY_PATH, CERTIFICATE_PATH, TOKEN_PATH)
_BODY_LIMIT_BYTES: Final = 16 << 20


class Forwarder(Protocol):
    """Passes a request to the leader."""

    async def forward(
        self,
        request: web.Request,
        leader_address: str,
        request_id: str,
        lost: Callable[[], Coroutine[None, None, None]],
    ) -> web.StreamResponse:
        """Return the leader's answer.

        Raises:
            Unavailable: nothing of an answer came before `lost()` returned.
            OutcomeUnknown: nor did it, and the request cannot be sent again.
        """


class Gate:
    """Lets a request through on the leader; waits for one during an election."""

    def __init__(self, store: Store, forwarder: Forwarder, wait_s: float = ELECTION_WAIT_S) -> None:
        self._log = store.log
        self.forwarder = forwarder
        self.wait_s = wait_s
        self._changed = asyncio.Event()
        store.log.on_status(self._on_status)

    def _on_status(self, status: LogStatus) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def leader_address(self) -> str:
        """Return where the leader is; empty when it is this member.

        Raises:
            Unavailable: no leader was found in time.
        """
        try:
            async with asyncio.timeout(self.wait_s):
                while True:
                    status = self._log.status
                    if status.is_leader and status.ready:
                        return ""
                    if not status.is_leader and status.leader_address:
                        return status.leader_address
                    await self._changed.wait()
        except TimeoutError as error:
            raise Unavailable(
                "The swarm does not have a leader. It's possible that too few managers are "
                "online. Make sure more than half of the managers are online."
            ) from error

    async def until_leader_is_not(self, address: str) -> None:
        """Return once another leader, or none, is known: a dead one never says that it is."""
        while self._log.status.leader_address == address:
            await self._changed.wait()


class Local:
    """Answers to this machine's swarmd, on the unix socket; clients never reach them."""

    def __init__(
        self, unlock_key: Callable[[], str], take_certificate: Callable[[], Awaitable[None]]
    ) -> None:
        self._unlock_key = unlock_key
        self._take_certificate = take_certificate

    async def tell_unlock_key(self, request: web.Request) -> web.StreamResponse:
        """Tell what opens this node's keys."""
        return web.json_response({"UnlockKey": self._unlock_key()})

    async def take_certificate(self, request: web.Request) -> web.StreamResponse:
        """Go on with the certificate that swarmd has put on the disk."""
        await self._take_certificate()
        return web.json_response({})


GATE: Final = web.AppKey("gate", Gate)


def build_app(
    store: Store,
    node_id: str,
    forwarder: Forwarder,
    broker: LogBroker,
    events: EventLog,
    local: "Local | None" = None,
) -> web.Application:
    """Return the application; must be called in the running loop.

    `local` answers what swarmd alone asks of its own manager.
    """
    app = web.Application(middlewares=[_errors, _gate], client_max_size=_BODY_LIMIT_BYTES)
    app[STORE] = store
    app[NODE_ID] = node_id
    app[GATE] = Gate(store, forwarder)
    app[BROKER] = broker
    app[EVENTS] = events
    add_routes(app, ROUTES)
    if local is not None:
        app.router.add_get(UNLOCK_KEY_PATH, local.tell_unlock_key)
        app.router.add_post(CERTIFICATE_PATH, local.take_certificate)
    app.router.add_post(TOKEN_PATH, recognise)
    app.router.add_route("*", "/{tail:.*}", _not_found)
    return app


async def _not_found(request: web.Request) -> web.StreamResponse:
    return failure(404, "page not found")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except SwarmError as error:
        response = failure(error.http_status, error.message)
        if isinstance(error, NotLeader):
            response.headers[NOT_LEADER] = "1"
        return response
    except web.HTTPRequestEntityTooLarge:
        return failure(413, "request body too large")
    except web.HTTPException as error:
        return failure(error.status, error.reason)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        return failure(500, f"internal error: {type(error).__name__}: {error}")


@web.middleware
async def _gate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let reads end with their client (the server cancels them); mutations run to their end."""
    if request.method in ("GET", "HEAD") or request.match_info.handler in ENDS_WITH_CLIENT:
        return await _serve(request, handler)
    serving = asyncio.ensure_future(_serve(request, handler))
    serving.add_done_callback(functools.partial(_note, request))
    return await asyncio.shield(serving)


def _note(request: web.Request, serving: "asyncio.Future[web.StreamResponse]") -> None:
    error = None if serving.cancelled() else serving.exception()
    if error is not None:
        log.debug("%s %s: %s", request.method, request.path, error)  # also when nobody waits


def is_kept(request: web.Request) -> bool:
    """Tell whether the body, if there is one, can be read again."""
    length = request.content_length
    return not request.body_exists or (length is not None and length <= KEPT_BODY_BYTES)


async def _serve(request: web.Request, handler: Handler) -> web.StreamResponse:
    gate, wanted = request.app[GATE], request.match_info.handler
    if request.path in _LOCAL or wanted in SERVED_ALONE | FIGURES:
        return await handler(request)
    if wanted in SERVED_HERE:
        await gate.leader_address()  # before one is known, old entries are still applied
        return await handler(request)
    request_id = request.headers.get(REQUEST_ID, "")
    if len(request_id) > LONGEST_REQUEST_ID:
        raise InvalidArgument(f"{REQUEST_ID} is longer than {LONGEST_REQUEST_ID} characters")
    if not request_id and request.method not in ("GET", "HEAD"):
        request_id = request.app[STORE].new_id()  # sent again, it still happens once
    request[HAPPENS_ONCE_AS] = request_id
    deadline_s = asyncio.get_running_loop().time() + gate.wait_s
    while True:
        leader = await gate.leader_address()
        try:
            if not leader:
                return await _answer(request, handler)
            if FORWARDED in request.headers:
                raise NotLeader(
                    "the leader changed while the request was on its way: try again", leader
                )
            lost = functools.partial(gate.until_leader_is_not, leader)
            return await gate.forwarder.forward(request, leader, request_id, lost)
        except OutcomeUnknown:
            raise
        except Unavailable as error:
            unheard = bool(leader) or (isinstance(error, NotLeader) and is_kept(request))
            late = asyncio.get_running_loop().time() >= deadline_s
            if not unheard or late or FORWARDED in request.headers:
                raise
        await asyncio.sleep(RETRY_S)


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer on the leader; raises NotLeader, before anything has happened, when it is none."""
    if request.method == "GET":
        await request.app[STORE].log.read_index()
    if not audit.is_written(request):
        refuse(request)
        return await handler(request)
    status, made = 500, None
    try:
        refuse(request)
        response = await handler(request)
        status, made = response.status, getattr(response, "body", None)
        return response
    except SwarmError as error:
        status = 0 if isinstance(error, NotLeader) else error.http_status
        raise
    except web.HTTPException as error:
        status = error.status
        raise
    finally:
        if status:
            audit.write(
                request,
                await request.read() if audit.reads_all(request) else b"",
                made,
                status,
                node=request.app[NODE_ID],
                via=request.headers.get(FORWARDED, ""),
                request_id=request[HAPPENS_ONCE_AS],
            )
