"""The aiohttp application: versions, headers, errors and the table of routes."""

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web

from runtime.errors import BadStatus, NoSuchContainer, RuntimeFailure
from runtime.errors import Unsupported as RuntimeUnsupported
from runtime.image.durable import FULL
from runtime.image.errors import BadArchive, BadReference, ImageConflict, ImageError, ImageNotFound
from runtime.image.registry.errors import LoginRefused, NoSearch, RemoteNotFound
from swarmapi.audit import AuditLog, Refusals
from swarmapi.errors import SwarmError
from swarmapi.query import add_routes, refuse
from worker.api import (
    archives,
    audit,
    build,
    containers,
    document,
    events,
    execs,
    images,
    metrics,
    networks,
    registry,
    squash,
    streams,
    system,
    volumes,
)
from worker.api.authority import CALLERS, authorise
from worker.api.callers import Callers
from worker.api.keys import ENGINE, SWARM_STATE
from worker.api.responses import failure
from worker.api.version import API_VERSION, MIN_API_VERSION, SERVER, minor
from worker.engine.engine import Engine

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MODULES = (
    system, events, archives, containers, streams, execs, registry, images, squash, build, volumes,
    networks, metrics, audit,
)  # fmt: skip
"""Those with a table of routes, `ROUTES`."""
BEGUN = web.RequestKey("begun", web.StreamResponse)
"""The answer whose head is out, or about to be."""
_BODY_LIMIT_BYTES = 16 << 20
_STATUS: Sequence[tuple[type[RuntimeFailure], int]] = (
    (ImageNotFound, 404),
    (ImageConflict, 409),
    (BadReference, 400),
    (BadArchive, 400),
    (RemoteNotFound, 404),
    (LoginRefused, 401),  # elsewhere 401 makes the docker CLI ask for a password, even piped
    (NoSearch, 501),
    (ImageError, 500),
    (NoSuchContainer, 404),
    (BadStatus, 409),
    (RuntimeUnsupported, 501),
    (RuntimeFailure, 500),
)


def build_app(
    engine: Engine,
    *,
    swarm_state: Callable[[], str] = lambda: "inactive",
    cluster_routes: Callable[[web.Application], None] | None = None,
    callers: Callers | None = None,
    audit_directory: Path | None = None,
) -> web.Application:
    """Return the application over one engine.

    `callers` tells who calls: every request is held against its role and written down in
    `audit_directory`; without them whoever reaches the application may do everything.
    `swarm_state` is the ping's Swarm header. `cluster_routes` may add routes with `add_routes`;
    they are looked up before the engine's, which answer for a node outside a cluster.
    """
    middlewares = [_errors, _version, _refused]
    if callers is not None and audit_directory is not None:
        middlewares = [audit.audit, _errors, authorise, _version, _refused]
    app = web.Application(middlewares=middlewares, client_max_size=_BODY_LIMIT_BYTES)
    if callers is not None and audit_directory is not None:
        app[CALLERS] = callers
        app[audit.REFUSALS] = Refusals()
        app[audit.DIRECTORY] = audit_directory
        app[audit.AUDIT] = AuditLog(audit_directory / "engine.log", "engine")
        app.on_cleanup.append(audit.end)
    app[ENGINE] = engine
    app[SWARM_STATE] = swarm_state
    app.on_response_prepare.append(_headers)
    add_routes(app, document.ROUTES)
    if cluster_routes is not None:
        cluster_routes(app)
    for module in MODULES:
        add_routes(app, module.ROUTES)
    app.router.add_route("*", "/{tail:.*}", _not_found)
    return app


def status_of(error: RuntimeFailure) -> int:
    """Return the HTTP status of a runtime's error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        begun: web.StreamResponse | None = request.get(BEGUN)
        if begun is None:
            return _refusal(request, error)
        # A second answer would be read as a part of the first: without its end, the client sees
        # that it is not whole.
        if not isinstance(error, ConnectionError):
            log.exception("%s %s broke off", request.method, request.path)
        if request.transport is not None:
            request.transport.abort()
        return begun


def _refusal(request: web.Request, error: Exception) -> web.Response:
    match error:
        case SwarmError():
            return failure(error.http_status, error.message)
        case RuntimeFailure():
            return failure(status_of(error), str(error))
        case web.HTTPMethodNotAllowed():
            return failure(405, "method not allowed")
        case web.HTTPRequestEntityTooLarge():
            return failure(413, "request body too large")
        case web.HTTPException():
            return failure(error.status, error.reason)
        case ConnectionError() if request.transport is None or request.transport.is_closing():
            return failure(499, "the client went away")
        case OSError() if error.errno in FULL:
            return failure(500, "no space left on device: make some, for example by image prune")
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return failure(500, f"internal error: {type(error).__name__}: {error}")


@web.middleware
async def _version(request: web.Request, handler: Handler) -> web.StreamResponse:
    version = request.match_info.get("version")
    if version is None:
        prefix = re.match(r"/v(\d+\.\d+)/", request.path)
        version = prefix.group(1) if prefix else None
    if version is not None:
        if not version.startswith("1.") or minor(version) > minor(API_VERSION):
            return failure(
                400,
                f"client version {version} is too new. "
                f"Maximum supported API version is {API_VERSION}",
            )
        if minor(version) < minor(MIN_API_VERSION):
            return failure(
                400,
                f"client version {version} is too old. Minimum supported API version is "
                f"{MIN_API_VERSION}, please upgrade your client to a newer version",
            )
    return await handler(request)


@web.middleware
async def _refused(request: web.Request, handler: Handler) -> web.StreamResponse:
    refuse(request)
    return await handler(request)


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    request[BEGUN] = response
    response.headers["Api-Version"] = API_VERSION
    response.headers["Ostype"] = "linux"
    response.headers["Docker-Experimental"] = "true"
    response.headers["Server"] = SERVER


async def _not_found(request: web.Request) -> web.StreamResponse:
    return failure(404, "page not found")
