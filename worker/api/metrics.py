"""Figures of this daemon and, where a manager runs beside it, of its cluster."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from swarmapi.metrics import CONTENT_TYPE, Metric, by, of_process, render, single
from swarmapi.rest import Route
from worker.api.keys import engine_of
from worker.api.version import SWARM_VERSION
from worker.engine.engine import Engine

Source = Callable[[], Awaitable[str]]
SOURCES: web.AppKey[list[Source]] = web.AppKey("metric_sources")
"""Give more figures as text; one that has none gives an empty text."""
_STATES: Final = ("created", "running", "paused", "restarting", "exited", "dead")


async def metrics(request: web.Request) -> web.Response:
    """Show figures in Prometheus' text format."""
    parts = [render([*engine_metrics(engine_of(request)), *of_process("process")])]
    parts += [await source() for source in request.app.get(SOURCES, ())]
    return web.Response(body="".join(parts).encode(), headers={"Content-Type": CONTENT_TYPE})


def engine_metrics(engine: Engine) -> list[Metric]:
    """Return the figures of an engine: what it holds, by state."""
    counts = Counter(dict.fromkeys(_STATES, 0))
    counts.update(container.record.status for container in engine.list(everything=True))
    return [
        Metric("swarm_build_info", "The daemon's version.", (({"version": SWARM_VERSION}, 1),)),
        Metric("swarm_containers", "Containers by state.", by("state", counts)),
        single("swarm_images", "Images.", len(engine.images.list())),
    ]


ROUTES = (Route("GET", "/metrics", metrics, answer=str, content="text"),)
