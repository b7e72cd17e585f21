"""Answers and query values as Docker's clients mean them."""

import msgspec
from aiohttp import web

from swarmapi.errors import InvalidArgument

JSON = "application/json"
REQUEST_ID = "X-Swarm-Request-Id"
"""Header: a mutation sent again with the same value happens once."""


def answer(body: object, status: int = 200) -> web.Response:
    """Answer with a JSON document; the content type has no charset, clients compare it."""
    return web.Response(
        body=msgspec.json.encode(body) + b"\n", status=status, headers={"Content-Type": JSON}
    )


def failure(status: int, message: str) -> web.Response:
    """Answer with Docker's error document."""
    return answer({"message": message}, status)


def flag(request: web.Request, name: str) -> bool:
    """Return a boolean of the query: as in Docker, all but ``, `0`, `no`, `false` and `none`."""
    return request.query.get(name, "").strip().lower() not in ("", "0", "no", "false", "none")


def version(request: web.Request) -> int:
    """Return the `version` of the query; raises InvalidArgument when it is no number."""
    text = request.query.get("version", "")
    if not text.isdigit():
        raise InvalidArgument(f"invalid {'swarm' if not text else 'object'} version {text!r}")
    return int(text)


def request_id(request: web.Request) -> str:
    """Return the request id, empty when the client gave none."""
    return request.headers.get(REQUEST_ID, "")
