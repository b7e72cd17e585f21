"""Containers: everything of them that is not a stream."""

import asyncio
from typing import Any

from aiohttp import web

from swarmapi import query, rest
from swarmapi.errors import InvalidArgument, NotFound, SwarmError
from swarmapi.rest import Route
from worker.api import answers, older
from worker.api.keys import engine_of
from worker.api.render import container_details, container_summary, image_ids
from worker.api.responses import answer, encode, nothing
from worker.api.stats import render_stats
from worker.api.system import tree_bytes
from worker.api.version import minor_of
from worker.engine.filters import CONTAINER_KEYS, label_matches, until_ns
from worker.engine.spec import CreateRequest, HostConfig, decode_create

_WAIT_CONDITIONS = ("not-running", "next-exit", "removed")
_OWN_TIMEOUT = -(1 << 63)
"""Stands for the container's own stop timeout; -1 is a client's word for waiting for ever."""


async def create(request: web.Request) -> web.StreamResponse:
    """Create a container."""
    platform = query.text(request, "platform")
    if platform and platform.partition("/")[0] != "linux":
        raise InvalidArgument(f"platform {platform!r} cannot run here")
    body = older.creation(await query.body(request), minor_of(request))
    spec = decode_create(body, query.text(request, "name"))
    engine = engine_of(request)
    wanted = platform.split("/")[1] if "/" in platform else ""
    if wanted:
        image = engine.images.resolve(spec.config.image)
        if image.architecture != wanted:
            raise NotFound(
                f"image with reference {spec.config.image} was found but does not provide the "
                f"specified platform ({platform})"
            )
    if minor_of(request) < 44 and len(spec.endpoints) > 1:
        raise InvalidArgument("Container cannot be created with multiple network endpoints")
    container_id = await engine.create(spec)
    warnings = engine.inspect(container_id).record.warnings
    return answer({"Id": container_id, "Warnings": warnings}, 201)


async def list_containers(request: web.Request) -> web.StreamResponse:
    """List containers, newest first."""
    engine = engine_of(request)
    limit = query.integer(request, "limit")
    everything = query.flag(request, "all") or limit > 0
    found = engine.list(query.filters(request), everything=everything)
    shown = found[:limit] if limit > 0 else found
    links = engine.link_names()
    ids = image_ids(engine)
    rendered = [container_summary(c.record, links.get(c.record.id, ()), ids) for c in shown]
    if query.flag(request, "size"):
        for summary in rendered:
            upper = engine.places.directory(summary["Id"]) / "upper"
            image = engine.images.resolve(summary["ImageID"])
            summary["SizeRw"] = await asyncio.to_thread(tree_bytes, upper)
            summary["SizeRootFs"] = summary["SizeRw"] + image.size_bytes
    return answer([older.container(one, minor_of(request)) for one in rendered])


async def inspect(request: web.Request) -> web.StreamResponse:
    """Show one container."""
    engine = engine_of(request)
    container = engine.inspect(request.match_info["id"])
    details = container_details(engine, container.record, engine.running_execs(container))
    if query.flag(request, "size"):
        upper = engine.places.directory(container.record.id) / "upper"
        image = engine.images.resolve(container.record.image_id)
        details["SizeRw"] = await asyncio.to_thread(tree_bytes, upper)
        details["SizeRootFs"] = details["SizeRw"] + image.size_bytes
    return answer(older.container(details, minor_of(request)))


async def start(request: web.Request) -> web.StreamResponse:
    """Start a container; 304 when it runs."""
    return nothing(204 if await engine_of(request).start(request.match_info["id"]) else 304)


async def stop(request: web.Request) -> web.StreamResponse:
    """Stop a container; 304 when it does not run."""
    stopped = await engine_of(request).stop(
        request.match_info["id"], _timeout(request), _stop_signal(request)
    )
    return nothing(204 if stopped else 304)


async def restart(request: web.Request) -> web.StreamResponse:
    """Stop and start a container."""
    await engine_of(request).restart(
        request.match_info["id"], _timeout(request), _stop_signal(request)
    )
    return nothing()


async def kill(request: web.Request) -> web.StreamResponse:
    """Send a signal."""
    await engine_of(request).kill(request.match_info["id"], query.text(request, "signal") or "KILL")
    return nothing()


async def pause(request: web.Request) -> web.StreamResponse:
    """Freeze a container."""
    await engine_of(request).pause(request.match_info["id"])
    return nothing()


async def unpause(request: web.Request) -> web.StreamResponse:
    """Thaw a container."""
    await engine_of(request).unpause(request.match_info["id"])
    return nothing()


async def rename(request: web.Request) -> web.StreamResponse:
    """Give a container another name."""
    name = query.text(request, "name")
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty")
    await engine_of(request).rename(request.match_info["id"], name)
    return nothing()


async def update(request: web.Request) -> web.StreamResponse:
    """Change limits and the restart policy."""
    await engine_of(request).update(request.match_info["id"], await query.body(request))
    return answer({"Warnings": []})


async def remove(request: web.Request) -> web.StreamResponse:
    """Delete a container, or with `link` one of its names."""
    if query.flag(request, "link"):
        await engine_of(request).connections.unlink(request.match_info["id"])
        return nothing()
    await engine_of(request).remove(
        request.match_info["id"],
        force=query.flag(request, "force"),
        volumes=query.flag(request, "v"),
    )
    return nothing()


async def prune(request: web.Request) -> web.StreamResponse:
    """Delete every stopped container that passes the filters."""
    engine = engine_of(request)
    wanted = query.filters(request)
    before_ns = until_ns(wanted.get("until", ()), engine.parts.clock.now_ns())
    deleted: list[str] = []
    freed = 0
    for container in engine.list({"status": ["created", "exited", "dead"]}, everything=True):
        record = container.record
        labels = record.config.labels
        if before_ns is not None and record.created_ns >= before_ns:
            continue
        if not all(label_matches(labels, value) for value in wanted.get("label", ())):
            continue
        if any(label_matches(labels, value) for value in wanted.get("label!", ())):
            continue
        size = await asyncio.to_thread(tree_bytes, engine.places.directory(record.id) / "upper")
        await engine.remove(record.id)
        deleted.append(record.id)
        freed += size
    return answer({"ContainersDeleted": deleted or None, "SpaceReclaimed": freed})


async def wait(request: web.Request) -> web.StreamResponse:
    """Answer with the exit code when the container ends.

    The head goes out at once: clients start the container only after they have seen it.
    """
    engine = engine_of(request)
    given = query.text(request, "condition")
    reference = request.match_info["id"]
    engine.inspect(reference)
    waiting = asyncio.ensure_future(engine.wait(reference, given or "not-running"))
    await asyncio.sleep(0)  # lets the waiter register before the client can act on the head
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        body: dict[str, Any]
        try:
            body = {"StatusCode": (await waiting).code}
        except SwarmError as failed:
            body = {"StatusCode": -1, "Error": {"Message": failed.message}}
        await response.write(encode(body))
        await response.write_eof()
    finally:
        waiting.cancel()
    return response


async def resize(request: web.Request) -> web.StreamResponse:
    """Set the size of the terminal."""
    rows, columns = query.integer(request, "h"), query.integer(request, "w")
    await engine_of(request).resize(request.match_info["id"], rows, columns)
    return web.Response(status=200)


async def top(request: web.Request) -> web.StreamResponse:
    """List the processes of a container as ps(1) shows them."""
    engine = engine_of(request)
    pids = set(await engine.processes(request.match_info["id"]))
    engine.emit(request.match_info["id"], "top")
    arguments = query.text(request, "ps_args") or "-ef"
    process = await asyncio.create_subprocess_exec(
        "ps",
        *arguments.split(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    output, complaint = await process.communicate()
    if process.returncode:
        raise InvalidArgument(f"ps: {complaint.decode(errors='replace').strip()}")
    lines = output.decode(errors="replace").splitlines()
    titles = lines[0].split()
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    at = titles.index("PID")
    rows = [line.split(None, len(titles) - 1) for line in lines[1:]]
    shown = [row for row in rows if len(row) > at and row[at].isdigit() and int(row[at]) in pids]
    return answer({"Titles": titles, "Processes": shown})


async def stats(request: web.Request) -> web.StreamResponse:
    """Show usage: once, or a document every second."""
    engine = engine_of(request)
    container = engine.inspect(request.match_info["id"])
    record = container.record
    stream = query.flag(request, "stream")
    before: dict[str, Any] = {}
    if not stream:
        if not query.flag(request, "one-shot") and record.running:
            before = render_stats(await engine.stats(record.id), record, {})
            await asyncio.sleep(1)
        raw = await engine.stats(record.id) if record.running else {}
        return answer(render_stats(raw, record, before))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    while engine.find(record.id) is not None:
        raw = await engine.stats(record.id) if record.running else {}
        now = render_stats(raw, record, before)
        await response.write(encode(now))
        before = now
        await asyncio.sleep(1)
    await response.write_eof()
    return response


def _stop_signal(request: web.Request) -> str:
    """Return the signal asked for, which a stop can do since 1.42."""
    return query.text(request, "signal") if minor_of(request) >= 42 else ""


def _timeout(request: web.Request) -> float | None:
    seconds = query.integer(request, "t", _OWN_TIMEOUT)
    return None if seconds == _OWN_TIMEOUT else seconds


_SIGNAL = rest.text("signal", "name or number")
_STOP = (_SIGNAL, rest.integer("t", "seconds until it is killed", default=_OWN_TIMEOUT))
_SIZE = rest.flag("size", "with SizeRw and SizeRootFs")
_IN = "/containers/{id:.+}"
ROUTES = (
    Route(
        "POST",
        "/containers/create",
        create,
        (rest.text("name"), rest.text("platform", "os[/arch[/variant]]")),
        body=CreateRequest,
        answer=answers.Created,
        status=201,
    ),
    Route(
        "GET",
        "/containers/json",
        list_containers,
        (rest.flag("all"), rest.integer("limit"), _SIZE, rest.filters(*CONTAINER_KEYS)),
        answer=list[answers.ContainerSummary],
    ),
    Route(
        "POST",
        "/containers/prune",
        prune,
        (rest.filters("until", "label", "label!"),),
        answer=answers.ContainersPruned,
    ),
    Route("GET", _IN + "/json", inspect, (_SIZE,), answer=answers.ContainerDetails),
    Route(
        "POST",
        _IN + "/start",
        start,
        (rest.text("detachKeys"), *rest.refused("checkpoint", "checkpoint-dir")),
        status=204,
        errors=(304,),
    ),
    Route("POST", _IN + "/stop", stop, _STOP, status=204, errors=(304,)),
    Route("POST", _IN + "/restart", restart, _STOP, status=204),
    Route("POST", _IN + "/kill", kill, (_SIGNAL,), status=204),
    Route("POST", _IN + "/pause", pause, status=204),
    Route("POST", _IN + "/unpause", unpause, status=204),
    Route("POST", _IN + "/rename", rename, (rest.text("name"),), status=204),
    Route("POST", _IN + "/update", update, body=HostConfig, answer=answers.Warned),
    Route(
        "POST",
        _IN + "/wait",
        wait,
        (rest.text("condition", choices=_WAIT_CONDITIONS),),
        answer=answers.Exit,
    ),
    Route("POST", _IN + "/resize", resize, (rest.integer("h"), rest.integer("w"))),
    Route("GET", _IN + "/top", top, (rest.text("ps_args"),), answer=answers.Processes),
    Route(
        "GET",
        _IN + "/stats",
        stats,
        (rest.flag("stream", default=True), rest.flag("one-shot")),
        answer=answers.Object,
        content="stream",
    ),
    Route(
        "DELETE",
        _IN,
        remove,
        (
            rest.flag("v", "also anonymous volumes"),
            rest.flag("force"),
            rest.flag("link", "the link of this name, `parent/alias`, not the container"),
        ),
        status=204,
    ),
)
