"""The OpenAPI document of everything this daemon answers."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from swarmapi import openapi
from swarmapi.query import DECLARED
from swarmapi.rest import Route
from worker.api.responses import answer
from worker.api.version import API_VERSION

CLUSTER_DOCUMENT: web.AppKey[Callable[[], Awaitable[openapi.Json]]] = web.AppKey("cluster_document")
"""Gives the document of the routes that a manager answers, where the application has any."""
_TITLE = "swarm: Docker Engine API with additions"


async def show(request: web.Request) -> web.StreamResponse:
    """Show this document."""
    document = describe(list(dict.fromkeys(request.app[DECLARED].values())))
    if CLUSTER_DOCUMENT in request.app:
        document = openapi.merge(document, await request.app[CLUSTER_DOCUMENT]())
    return answer(document)


def describe(routes: Sequence[Route]) -> openapi.Json:
    """Return the document of routes of this daemon."""
    return openapi.describe(routes, title=_TITLE, version=API_VERSION)


ROUTES = (Route("GET", "/swarm/v1/openapi.json", show, answer=dict[str, Any]),)
