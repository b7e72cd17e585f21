"""The routes of secrets and of configs: the same, but for what is shown of the data."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import web

from manager.api import render
from manager.api.keys import STORE
from manager.api.responses import Made, Versioned, answer, request_id, version
from manager.control import secrets
from swarmapi import query, rest
from swarmapi.model.decode import decode_spec
from swarmapi.model.objects import Config, Secret
from swarmapi.model.spec import SecretSpec
from swarmapi.rest import Route

Handler = Callable[[web.Request], Awaitable[web.Response]]


def _list(kind: type[Secret]) -> Handler:
    async def list_all(request: web.Request) -> web.Response:
        found = secrets.list_secrets(request.app[STORE].view, kind.kind, query.filters(request))
        return answer([render.secret_json(s) for s in found])

    return _told(list_all, f"List {kind.kind}s.")


def _create(kind: type[Secret]) -> Handler:
    async def create(request: web.Request) -> web.Response:
        spec = decode_spec(await request.read(), SecretSpec)
        made = await secrets.create_secret(
            request.app[STORE],
            spec,
            kind,
            request_id(request),
            replacing=query.flag(request, "replace"),
        )
        return answer({"ID": made.id}, 201)

    return _told(create, f"Create a {kind.kind}, or replace the one that has its name.")


def _get(kind: type[Secret]) -> Handler:
    async def get(request: web.Request) -> web.Response:
        key = request.match_info["id"]
        return answer(
            render.secret_json(secrets.find_secret(request.app[STORE].view, kind.kind, key))
        )

    return _told(get, f"Show a {kind.kind}.")


def _update(kind: type[Secret]) -> Handler:
    async def update(request: web.Request) -> web.Response:
        spec = decode_spec(await request.read(), SecretSpec)
        key, number = request.match_info["id"], version(request)
        store = request.app[STORE]
        await secrets.update_secret(store, kind.kind, key, spec, number, request_id(request))
        return web.Response()

    return _told(update, f"Change the labels of a {kind.kind}.")


def _remove(kind: type[Secret]) -> Handler:
    async def remove(request: web.Request) -> web.Response:
        key = request.match_info["id"]
        await secrets.remove_secret(request.app[STORE], kind.kind, key, request_id(request))
        return web.Response(status=204)

    return _told(remove, f"Remove a {kind.kind} no service uses.")


def _told(handler: Handler, summary: str) -> Handler:
    handler.__doc__ = summary
    return handler


def _routes(kind: type[Secret]) -> Sequence[Route]:
    path = f"/{kind.kind}s"
    one = path + "/{id}"
    listed = rest.filters(*secrets.FILTERS)
    seen = rest.integer("version", "of the object as it was read", default=-1)
    replace = rest.flag("replace", "the one that has the name; services that follow it move")
    make = _create(kind)
    return (
        Route("GET", path, _list(kind), (listed,), answer=list[Versioned]),
        Route("POST", path + "/create", make, (replace,), SecretSpec, answer=Made, status=201),
        Route("GET", one, _get(kind), answer=Versioned),
        Route("DELETE", one, _remove(kind), status=204),
        Route("POST", one + "/update", _update(kind), (seen,), body=SecretSpec),
    )


ROUTES: Final[Sequence[Route]] = (*_routes(Secret), *_routes(Config))
