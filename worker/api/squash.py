"""What the Docker API lacks: the layers of an image made one."""

import asyncio

from aiohttp import web

from runtime.image.squash import squash as squash_layers
from swarmapi import query, rest
from swarmapi.errors import InvalidArgument
from swarmapi.rest import Route
from worker.api import answers
from worker.api.keys import engine_of
from worker.api.responses import answer


async def squash(request: web.Request) -> web.StreamResponse:
    """Make an image whose layers above those of `from` are one; `tag` names it."""
    engine = engine_of(request)
    image = engine.images.resolve(request.match_info["name"])
    base = query.text(request, "from")
    keep = 0
    if base:
        below = engine.images.resolve(base).layers
        keep = len(below)
        if image.layers[:keep] != below:
            raise InvalidArgument(f"{image.short_id} is not made from {base}")
    tag = query.text(request, "tag")
    made = await asyncio.to_thread(
        squash_layers, engine.images, image, keep, engine.parts.clock.now_ns
    )
    if tag:
        await asyncio.to_thread(engine.images.tag, made.id, tag)
        engine.events.emit("image", "tag", made.id, {"name": tag})
    return answer({"Id": made.id}, 201)


ROUTES = (
    Route(
        "POST",
        "/swarm/v1/images/{name:.+}/squash",
        squash,
        (rest.text("tag", "name of the result"), rest.text("from", "image whose layers stay")),
        answer=answers.Id,
        status=201,
    ),
)
