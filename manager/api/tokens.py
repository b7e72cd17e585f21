"""The routes of API tokens, and the one by which the local swarmd recognises them."""

import os
from collections.abc import Sequence
from typing import Final, TypedDict

from aiohttp import web

from manager.api import render
from manager.api.keys import STORE
from manager.api.responses import Object, answer, request_id
from manager.control import tokens
from manager.control.cluster import the_cluster
from swarmapi import query, rest
from swarmapi.errors import InvalidArgument
from swarmapi.model.decode import decode_spec
from swarmapi.model.objects import ApiToken
from swarmapi.model.spec import ApiTokenSpec
from swarmapi.rest import Route


class MadeToken(TypedDict):
    """A token was made; its text is told this once."""

    ID: str
    Token: str


def _json(token: ApiToken) -> Object:
    expires = render.rfc3339(token.expires_ns) if token.expires_ns else ""
    created = render.rfc3339(token.created_ns)
    return {
        "ID": token.id,
        "Name": token.name,
        "Role": token.role,
        "CreatedAt": created,
        "ExpiresAt": expires,
    }


async def list_tokens(request: web.Request) -> web.Response:
    """List API tokens, without what they are."""
    return answer([_json(token) for token in the_cluster(request.app[STORE]).api_tokens])


async def create_token(request: web.Request) -> web.Response:
    """Make an API token; it is told this once."""
    spec = decode_spec(await request.read(), ApiTokenSpec)
    store = request.app[STORE]
    token, text = await tokens.create_token(store, spec, os.urandom, request_id(request))
    return answer({"ID": token.id, "Token": text}, 201)


async def get_token(request: web.Request) -> web.Response:
    """Show an API token, without what it is."""
    return answer(_json(tokens.find_token(request.app[STORE].view, request.match_info["id"])))


async def remove_token(request: web.Request) -> web.Response:
    """Remove an API token."""
    key = request.match_info["id"]
    await tokens.remove_token(request.app[STORE], key, request_id(request))
    return web.Response(status=204)


async def recognise(request: web.Request) -> web.Response:
    """Tell swarmd whose token this is, by what this manager holds."""
    text = (await query.body(request)).get("Token")
    if not isinstance(text, str):
        raise InvalidArgument("Token: a string is expected")
    store = request.app[STORE]
    token = tokens.recognise(store.view, text, store.now_ns())
    return answer({"Name": token.name, "Role": token.role})


ROUTES: Final[Sequence[rest.Declared]] = (
    Route("GET", "/swarm/v1/api-tokens", list_tokens, answer=list[Object]),
    Route(
        "POST",
        "/swarm/v1/api-tokens",
        create_token,
        body=ApiTokenSpec,
        answer=MadeToken,
        status=201,
    ),
    Route("GET", "/swarm/v1/api-tokens/{id}", get_token, answer=Object),
    Route("DELETE", "/swarm/v1/api-tokens/{id}", remove_token, status=204),
)
