"""Containers: everything of them that is not a stream."""

import asyncio
from typing import Any

from aiohttp import web

from swarmapi.errors import InvalidArgument, SwarmError
from worker.api import query
from worker.api.keys import engine_of
from worker.api.render import container_details, container_summary
from worker.api.responses import answer, encode, nothing
from worker.api.stats import render_stats
from worker.api.system import tree_bytes
from worker.engine.filters import label_matches
from worker.engine.spec import decode_create

_WAIT_CONDITIONS = {"": "not-running", "not-running": "not-running"} | {
    name: name for name in ("next-exit", "removed")
}


async def create(request: web.Request) -> web.StreamResponse:
    """Create a container."""
    platform = request.query.get("platform", "")
    if platform and not platform.startswith("linux"):
        raise InvalidArgument(f"platform {platform!r} cannot run here")
    spec = decode_create(await query.body(request), request.query.get("name", ""))
    engine = engine_of(request)
    container_id = await engine.create(spec)
    warnings = engine.inspect(container_id).record.warnings
    return answer({"Id": container_id, "Warnings": warnings}, 201)


async def list_containers(request: web.Request) -> web.StreamResponse:
    """List containers, newest first."""
    engine = engine_of(request)
    limit = query.integer(request, "limit", 0)
    everything = query.flag(request, "all") or limit > 0
    found = engine.list(query.filters(request), everything=everything)
    rendered = [container_summary(c.record) for c in (found[:limit] if limit > 0 else found)]
    if query.flag(request, "size"):
        for summary in rendered:
            upper = engine.places.directory(summary["Id"]) / "upper"
            image = engine.images.resolve(summary["ImageID"])
            summary["SizeRw"] = await asyncio.to_thread(tree_bytes, upper)
            summary["SizeRootFs"] = summary["SizeRw"] + image.size_bytes
    return answer(rendered)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Show one container."""
    engine = engine_of(request)
    container = engine.inspect(request.match_info["id"])
    details = container_details(engine, container.record, container.exec_ids)
    if query.flag(request, "size"):
        upper = engine.places.directory(container.record.id) / "upper"
        image = engine.images.resolve(container.record.image_id)
        details["SizeRw"] = await asyncio.to_thread(tree_bytes, upper)
        details["SizeRootFs"] = details["SizeRw"] + image.size_bytes
    return answer(details)


async def start(request: web.Request) -> web.StreamResponse:
    """Start a container; 304 when it runs."""
    if request.query.get("checkpoint"):
        raise InvalidArgument("checkpoints are not supported: start without one")
    return nothing(204 if await engine_of(request).start(request.match_info["id"]) else 304)


async def stop(request: web.Request) -> web.StreamResponse:
    """Stop a container; 304 when it does not run."""
    stopped = await engine_of(request).stop(
        request.match_info["id"], _timeout(request), request.query.get("signal", "")
    )
    return nothing(204 if stopped else 304)


async def restart(request: web.Request) -> web.StreamResponse:
    """Stop and start a container."""
    await engine_of(request).restart(
        request.match_info["id"], _timeout(request), request.query.get("signal", "")
    )
    return nothing()


async def kill(request: web.Request) -> web.StreamResponse:
    """Send a signal."""
    await engine_of(request).kill(
        request.match_info["id"], request.query.get("signal", "") or "KILL"
    )
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
    name = request.query.get("name", "")
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty")
    await engine_of(request).rename(request.match_info["id"], name)
    return nothing()


async def update(request: web.Request) -> web.StreamResponse:
    """Change limits and the restart policy."""
    await engine_of(request).update(request.match_info["id"], await query.body(request))
    return answer({"Warnings": []})


async def remove(request: web.Request) -> web.StreamResponse:
    """Delete a container."""
    if query.flag(request, "link"):
        raise InvalidArgument("links are not supported: remove without link")
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
    for key in wanted:
        if key not in ("label", "label!"):
            raise InvalidArgument(f"invalid filter '{key}'")
    deleted: list[str] = []
    freed = 0
    for container in engine.list({"status": ["created", "exited", "dead"]}, everything=True):
        record = container.record
        labels = record.config.labels
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
    given = request.query.get("condition", "")
    if given not in _WAIT_CONDITIONS:
        raise InvalidArgument(f"invalid condition: {given!r}")
    reference = request.match_info["id"]
    engine.inspect(reference)
    waiting = asyncio.ensure_future(engine.wait(reference, _WAIT_CONDITIONS[given]))
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
    rows, columns = query.integer(request, "h", 0), query.integer(request, "w", 0)
    await engine_of(request).resize(request.match_info["id"], rows, columns)
    return web.Response(status=200)


async def top(request: web.Request) -> web.StreamResponse:
    """List the processes of a container as ps(1) shows them."""
    engine = engine_of(request)
    pids = set(await engine.processes(request.match_info["id"]))
    arguments = request.query.get("ps_args", "") or "-ef"
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
    stream = query.flag(request, "stream", True)
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


def _timeout(request: web.Request) -> float | None:
    return query.integer(request, "t", 0) if request.query.get("t") else None


ROUTES = (
    ("POST", "/containers/create", create),
    ("GET", "/containers/json", list_containers),
    ("POST", "/containers/prune", prune),
    ("GET", "/containers/{id}/json", inspect),
    ("POST", "/containers/{id}/start", start),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/restart", restart),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/pause", pause),
    ("POST", "/containers/{id}/unpause", unpause),
    ("POST", "/containers/{id}/rename", rename),
    ("POST", "/containers/{id}/update", update),
    ("POST", "/containers/{id}/wait", wait),
    ("POST", "/containers/{id}/resize", resize),
    ("GET", "/containers/{id}/top", top),
    ("GET", "/containers/{id}/stats", stats),
    ("DELETE", "/containers/{id}", remove),
)
