"""Volumes of the local driver."""

import asyncio
from pathlib import Path

import msgspec
from aiohttp import web

from swarmapi import query, rest
from swarmapi.errors import Unsupported
from swarmapi.rest import Route
from worker.api import answers
from worker.api.keys import engine_of
from worker.api.responses import answer, nothing
from worker.api.system import tree_bytes
from worker.engine.filters import label_matches

_LIST_FILTERS = rest.filters("dangling", "driver", "label", "name")


class CreateRequest(msgspec.Struct, rename="pascal"):
    """The body of `POST /volumes/create`."""

    name: str = ""
    driver: str = "local"
    labels: dict[str, str] | None = None


async def list_volumes(request: web.Request) -> web.StreamResponse:
    """List volumes by name."""
    engine = engine_of(request)
    wanted = query.filters(request)
    shown = []
    for volume in engine.volumes.list():
        used = bool(engine.user_of_volume(volume.name))
        dangling = [value in ("true", "1") for value in wanted.get("dangling", ())]
        if dangling and used in dangling:
            continue
        if wanted.get("name") and not any(value in volume.name for value in wanted["name"]):
            continue
        if wanted.get("driver") and "local" not in wanted["driver"]:
            continue
        if all(label_matches(volume.labels, value) for value in wanted.get("label", ())):
            shown.append(engine.volumes.to_json(volume))
    return answer({"Volumes": shown, "Warnings": None})


async def create(request: web.Request) -> web.StreamResponse:
    """Create a volume; one that exists is returned."""
    engine = engine_of(request)
    body = await query.body(request)
    if body.get("Driver") not in (None, "", "local"):
        raise Unsupported(f"volume driver {body['Driver']!r} is not supported")
    for key in ("DriverOpts", "ClusterVolumeSpec"):
        if body.get(key):
            raise Unsupported(f"volume {key} is not supported")
    name = body.get("Name") or engine.parts.random_bytes(32).hex()
    volume = engine.volumes.create(
        name,
        engine.parts.clock.now_ns(),
        body.get("Labels") or {},
        anonymous=not body.get("Name"),
    )
    engine.events.emit("volume", "create", name, {"driver": "local"})
    return answer(engine.volumes.to_json(volume), 201)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Show a volume."""
    engine = engine_of(request)
    return answer(engine.volumes.to_json(engine.volumes.get(request.match_info["name"])))


async def remove(request: web.Request) -> web.StreamResponse:
    """Delete a volume no container uses."""
    engine = engine_of(request)
    name = request.match_info["name"]
    await asyncio.to_thread(engine.volumes.remove, name, engine.user_of_volume(name))
    engine.events.emit("volume", "destroy", name, {"driver": "local"})
    return nothing()


async def prune(request: web.Request) -> web.StreamResponse:
    """Delete unused volumes: anonymous ones, or with `all=true` every one."""
    engine = engine_of(request)
    wanted = query.filters(request)
    everything = any(value in ("true", "1") for value in wanted.get("all", ()))
    deleted, freed = [], 0
    for volume in engine.volumes.list():
        if engine.user_of_volume(volume.name) or not (everything or volume.anonymous):
            continue
        if not all(label_matches(volume.labels, value) for value in wanted.get("label", ())):
            continue
        freed += await asyncio.to_thread(tree_bytes, Path(engine.volumes.path(volume.name)))
        await asyncio.to_thread(engine.volumes.remove, volume.name)
        deleted.append(volume.name)
    return answer({"VolumesDeleted": deleted, "SpaceReclaimed": freed})


ROUTES = (
    Route("GET", "/volumes", list_volumes, (_LIST_FILTERS,), answer=answers.Volumes),
    Route("POST", "/volumes/create", create, body=CreateRequest, answer=answers.Volume, status=201),
    Route("POST", "/volumes/prune", prune, (rest.filters("all", "label"),), answer=answers.Pruned),
    Route("GET", "/volumes/{name}", inspect, answer=answers.Volume),
    Route("DELETE", "/volumes/{name}", remove, (rest.flag("force"),), status=204),
)
