"""Answers as Docker's clients mean them."""

from typing import Any, Final, TypedDict

import msgspec
from aiohttp import web

from swarmapi import query
from swarmapi.errors import InvalidArgument

JSON = "application/json"
REQUEST_ID = "X-Swarm-Request-Id"
LONGEST_REQUEST_ID = 256
"""Characters: thousands of ids are remembered."""
"""Header: a mutation sent again with the same value happens once."""
HAPPENS_ONCE_AS: Final = web.RequestKey("happens_once_as", str)
"""The request id in force: the client's, else one of ours."""

Object = dict[str, Any]


class Made(TypedDict):
    """What was made."""

    ID: str


class Versioned(TypedDict):
    """What every object of the cluster has; the rest is its kind's."""

    ID: str
    Version: Object
    CreatedAt: str
    UpdatedAt: str


def answer(body: object, status: int = 200) -> web.Response:
    """Answer with a JSON document; the content type has no charset, clients compare it."""
    return web.Response(
        body=msgspec.json.encode(body) + b"\n", status=status, headers={"Content-Type": JSON}
    )


def failure(status: int, message: str) -> web.Response:
    """Answer with Docker's error document."""
    return answer({"message": message}, status)


def version(request: web.Request) -> int:
    """Return the object's version a client saw; raises InvalidArgument when it names none."""
    number = query.integer(request, "version")
    if number < 0:
        raise InvalidArgument("version is required: the object's own, as it was read")
    return number


def request_id(request: web.Request) -> str:
    """Return the id under which a mutation happens once."""
    return request[HAPPENS_ONCE_AS]
