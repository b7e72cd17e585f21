"""Volumes of the local driver."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from aiohttp import web

from swarmapi import query, rest
from swarmapi.errors import InvalidArgument, NotFound, Unsupported
from swarmapi.model.decode import decode_spec
from swarmapi.rest import Route
from worker.api import answers
from worker.api.keys import engine_of
from worker.api.responses import answer, nothing
from worker.api.system import tree_bytes
from worker.api.version import minor
from worker.engine.engine import Engine
from worker.engine.filters import label_matches, truth
from worker.engine.volumes import Volume

_LIST_FILTERS = rest.filters("dangling", "driver", "label", "name")
_PRUNE_FILTERS = rest.filters("all", "label", "label!")
_ALL_IS_ASKED_SINCE = 42
"""Minor API version from which a prune leaves named volumes unless `all` is given."""


class CreateRequest(msgspec.Struct, rename="pascal"):
    """The body of `POST /volumes/create`."""

    name: str = ""
    driver: str = "local"
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


async def list_volumes(request: web.Request) -> web.StreamResponse:
    """List volumes by name."""
    engine = engine_of(request)
    wanted = query.filters(request)
    found = [v for v in engine.volumes.list() if _matches(engine, v, wanted)]
    return answer({"Volumes": [engine.volumes.to_json(v) for v in found], "Warnings": None})


def _matches(engine: Engine, volume: Volume, wanted: Mapping[str, Sequence[str]]) -> bool:
    dangling = [truth("dangling", value) for value in wanted.get("dangling", ())]
    if dangling and bool(engine.storage.users(volume.name)) in dangling:
        return False
    if wanted.get("name") and not any(value in volume.name for value in wanted["name"]):
        return False
    if wanted.get("driver") and "local" not in wanted["driver"]:
        return False
    return all(label_matches(volume.labels, value) for value in wanted.get("label", ()))


async def create(request: web.Request) -> web.StreamResponse:
    """Create a volume; one that exists is returned."""
    engine = engine_of(request)
    asked = decode_spec(await request.read(), CreateRequest)
    if asked.driver not in ("", "local"):
        raise Unsupported(f"volume driver {asked.driver!r} is not supported")
    name = asked.name or engine.parts.random_bytes(32).hex()
    wanted = Volume(
        name=name,
        created_ns=engine.parts.clock.now_ns(),
        labels=asked.labels or {},
        options=asked.driver_opts or {},
        anonymous=not asked.name,
    )
    if await asyncio.to_thread(engine.volumes.create, wanted):
        engine.storage.announce([name])
    return answer(engine.volumes.to_json(engine.volumes.get(name)), 201)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Show a volume."""
    engine = engine_of(request)
    return answer(engine.volumes.to_json(engine.volumes.get(request.match_info["name"])))


async def remove(request: web.Request) -> web.StreamResponse:
    """Delete a volume no container uses; with `force` one that is not there is fine."""
    engine = engine_of(request)
    name = request.match_info["name"]
    try:
        await asyncio.to_thread(engine.volumes.remove, name, engine.storage.users(name))
    except NotFound:
        if not query.flag(request, "force"):
            raise
        return nothing()
    engine.events.emit("volume", "destroy", name, {"driver": "local"})
    return nothing()


async def prune(request: web.Request) -> web.StreamResponse:
    """Delete unused volumes: anonymous ones, or with `all=true` every one."""
    engine = engine_of(request)
    wanted = query.filters(request)
    version = request.match_info.get("version")
    everything = any(truth("all", value) for value in wanted.get("all", ()))
    if version is not None and minor(version) < _ALL_IS_ASKED_SINCE:
        if "all" in wanted:
            raise InvalidArgument("invalid filter 'all'")
        everything = True
    deleted, freed = [], 0
    for volume in engine.volumes.list():
        if engine.storage.users(volume.name) or not (everything or volume.anonymous):
            continue
        if not all(label_matches(volume.labels, value) for value in wanted.get("label", ())):
            continue
        if any(label_matches(volume.labels, value) for value in wanted.get("label!", ())):
            continue
        freed += await asyncio.to_thread(tree_bytes, Path(engine.volumes.path(volume.name)))
        await asyncio.to_thread(engine.volumes.remove, volume.name)
        engine.events.emit("volume", "destroy", volume.name, {"driver": "local"})
        deleted.append(volume.name)
    engine.events.emit("volume", "prune", "", {"reclaimed": str(freed)})
    return answer({"VolumesDeleted": deleted, "SpaceReclaimed": freed})


ROUTES = (
    Route("GET", "/volumes", list_volumes, (_LIST_FILTERS,), answer=answers.Volumes),
    Route("POST", "/volumes/create", create, body=CreateRequest, answer=answers.Volume, status=201),
    Route("POST", "/volumes/prune", prune, (_PRUNE_FILTERS,), answer=answers.VolumesPruned),
    Route("GET", "/volumes/{name}", inspect, answer=answers.Volume),
    Route("DELETE", "/volumes/{name}", remove, (rest.flag("force"),), status=204),
)
