"""Cluster routes of the daemon: membership is served here, the rest by the local manager.

Networks are of two kinds under one path, so a middleware sorts them: what the engine does not
know and the cluster might is passed on.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web

from swarmapi import query, rest
from swarmapi.errors import NotFound
from swarmapi.query import add_routes
from swarmapi.rest import Route
from worker.api import older
from worker.api.keys import engine_of
from worker.api.networks import containers_on
from worker.api.responses import answer
from worker.api.version import minor_of
from worker.cluster import execs
from worker.cluster.info import SwarmInfo
from worker.cluster.membership import Member
from worker.cluster.proxy import ManagerProxy
from worker.cluster.requests import (
    InitRequest,
    JoinRequest,
    UnlockRequest,
    decode_init,
    decode_join,
    decode_unlock,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MEMBER: web.AppKey[Member] = web.AppKey("cluster_member")
PROXY: web.AppKey[ManagerProxy] = web.AppKey("cluster_proxy")
UNLOCK_KEY_HEADER = "X-Swarm-Unlock-Key"
"""Opens the backup of a cluster with autolock."""
_CHUNK_BYTES = 1 << 20
_VERSION = re.compile(r"^/v1\.\d+(?=/)")
INFO: web.AppKey[SwarmInfo] = web.AppKey("cluster_info")


def install(app: web.Application, member: Member, proxy: ManagerProxy, info: SwarmInfo) -> None:
    """Add the cluster's routes and middleware; before the engine's routes."""
    app[MEMBER], app[PROXY], app[INFO] = member, proxy, info
    app.middlewares.append(_sort)
    add_routes(app, ROUTES)


async def init(request: web.Request) -> web.StreamResponse:
    """Found a cluster; the answer is the node id as a bare JSON string."""
    return answer(await request.app[MEMBER].init(decode_init(await query.body(request))))


async def join(request: web.Request) -> web.StreamResponse:
    """Join a cluster."""
    await request.app[MEMBER].join(decode_join(await query.body(request)))
    return web.Response()


async def restore(request: web.Request) -> web.StreamResponse:
    """Go on with a cluster from a backup, the body; the answer is the node id."""
    member = request.app[MEMBER]
    wanted = InitRequest(
        listen_addr=query.text(request, "listen"),
        advertise_addr=query.text(request, "advertise"),
        data_path_addr=query.text(request, "data-path"),
    )
    with tempfile.NamedTemporaryFile(dir=member.scratch, prefix="restore-") as file:
        async for piece in request.content.iter_chunked(_CHUNK_BYTES):
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(file.flush)
        unlock_key = request.headers.get(UNLOCK_KEY_HEADER, "")
        node_id = await member.restore(Path(file.name), wanted, unlock_key)
    return answer(node_id)


async def unlock(request: web.Request) -> web.StreamResponse:
    """Give a locked manager its key."""
    await request.app[MEMBER].unlock(decode_unlock(await query.body(request)).unlock_key)
    return web.Response()


async def leave(request: web.Request) -> web.StreamResponse:
    """Leave the cluster."""
    await request.app[MEMBER].leave(force=query.flag(request, "force"))
    return web.Response()


async def pass_on(request: web.Request) -> web.StreamResponse:
    """Let the local manager answer; 503 in Docker's words where there is none."""
    request.app[MEMBER].require_manager()
    return await request.app[PROXY].pass_on(request)


async def start_exec(request: web.Request) -> web.StreamResponse:
    """Run a prepared process of a task's container on any node, on the upgraded connection."""
    request.app[MEMBER].require_manager()
    return await execs.serve(request, request.app[PROXY])


@web.middleware
async def _sort(request: web.Request, handler: Handler) -> web.StreamResponse:
    path = _bare_path(request)
    if path == "/info":
        await request.app[INFO].refresh()
        return await handler(request)
    if path != "/networks" and not path.startswith("/networks/"):
        return await handler(request)
    if path == "/networks/create":
        return await _create_network(request, handler)
    here = request.app[MEMBER].membership
    if here is None or not here.is_manager:
        return await handler(request)
    if path == "/networks":
        return await _list_networks(request, handler)
    if request.method in ("GET", "DELETE") and path.count("/") == 2:
        return await _one_network(request, handler)
    return await handler(request)


async def _create_network(request: web.Request, handler: Handler) -> web.StreamResponse:
    body = await query.body(request)
    if body.get("Driver") == "overlay" or body.get("Scope") == "swarm" or body.get("Ingress"):
        request.app[MEMBER].require_manager()
        return await request.app[PROXY].pass_on(request, await request.read())
    return await handler(request)


async def _list_networks(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Join the engine's list and the manager's; a network of both is shown as the cluster's."""
    scopes = query.filters(request).get("scope") or ["local", "swarm"]
    if "swarm" not in scopes:
        return await handler(request)
    if "local" not in scopes:
        return await pass_on(request)
    local = await handler(request)
    status, listed = await request.app[PROXY].call("GET", request.raw_path)
    if status != 200 or not isinstance(listed, list) or not isinstance(local, web.Response):
        return local
    found = {one["Id"]: one for one in json.loads(local.text or "[]")}
    found.update({one["Id"]: one for one in listed})
    return answer(list(found.values()))


async def _one_network(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ask the manager first unless the scope is local: it alone knows a cluster's network whole."""
    scope = query.text(request, "scope") if request.method == "GET" else ""
    if scope == "local":
        return await handler(request)
    reference = request.path.rpartition("/")[2]
    verbose = request.method == "GET" and query.flag(request, "verbose")
    asked = f"/networks/{reference}?verbose={int(verbose)}"
    status, network = await request.app[PROXY].call("GET", asked)
    if status == 200 and request.method != "GET":
        return await request.app[PROXY].pass_on(request)
    if status == 200 and isinstance(network, dict):
        members = containers_on(engine_of(request), network["Id"])
        return answer(older.network(network | {"Containers": members}, minor_of(request)))
    if scope == "swarm":
        raise NotFound(f"network {reference} not found")
    return await handler(request)


def _bare_path(request: web.Request) -> str:
    """Return the path without version prefix and final slash."""
    return _VERSION.sub("", request.path).rstrip("/") or "/"


_PASSED_ON = ("/nodes", "/services", "/tasks", "/secrets", "/configs")
ROUTES: Sequence[rest.Declared] = (
    Route("POST", "/swarm/init", init, body=InitRequest, answer=str),
    Route("POST", "/swarm/join", join, body=JoinRequest),
    Route("POST", "/swarm/unlock", unlock, body=UnlockRequest),
    Route(
        "POST",
        "/swarm/v1/restore",
        restore,
        (
            rest.text("advertise", "address[:port] others reach this machine at"),
            rest.text("listen", "address:port to listen on"),
            rest.text("data-path", "address for containers' traffic"),
        ),
        body=bytes,
        answer=str,
    ),
    Route("POST", "/swarm/leave", leave, (rest.flag("force"),)),
    Route(
        "POST",
        "/swarm/v1/exec/{id}/start",
        start_exec,
        body=execs.TaskExecStart,
        answer=bytes,
        content="upgrade",
    ),
    ("*", "/swarm", pass_on),
    ("*", "/swarm/{tail:.*}", pass_on),
    *(("*", path, pass_on) for path in _PASSED_ON),
    *(("*", path + "/{tail:.*}", pass_on) for path in _PASSED_ON),
)
