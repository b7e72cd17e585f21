"""What handlers find in their application."""

from collections.abc import Callable

from aiohttp import web

from worker.engine.engine import Engine

ENGINE = web.AppKey("engine", Engine)
SWARM_STATE: web.AppKey[Callable[[], str]] = web.AppKey("swarm_state")
"""The Swarm header of a ping: inactive, pending, error, locked, active/worker, active/manager."""


def engine_of(request: web.Request) -> Engine:
    """Return the engine a request is for."""
    return request.app[ENGINE]
