"""Images: list, inspect, tag, remove, load and save, commit and import."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

from aiohttp import web

from runtime.errors import RuntimeFailure
from runtime.image import archive
from runtime.image.build.configuring import apply_changes
from runtime.image.build.remote import fetch, is_url
from runtime.image.commit import commit as commit_upper
from runtime.image.errors import BuildError
from runtime.image.model import Image, shared_bytes
from swarmapi import query, rest
from swarmapi.errors import InvalidArgument
from swarmapi.rest import Route
from worker.api import answers, older, platforms, registry
from worker.api.bodies import Spool
from worker.api.keys import engine_of
from worker.api.render import image_details, image_summary
from worker.api.responses import JsonLines, answer
from worker.api.version import minor_of
from worker.engine.committed import committed_config
from worker.engine.engine import Engine
from worker.engine.imagefilters import ImageFilter, switch
from worker.engine.record import Record
from worker.engine.spec import ContainerConfig, decode_config

_CHUNK_BYTES = 256 * 1024


async def list_images(request: web.Request) -> web.StreamResponse:
    """List images, newest first."""
    engine = engine_of(request)
    wanted = _filter(request, engine)
    found = await asyncio.to_thread(engine.images.list)
    parents = {image.parent for image in found}
    shown = []
    for image in found:
        named = bool(image.repo_tags or image.repo_digests)
        intermediate = not named and image.id in parents
        if intermediate and not query.flag(request, "all"):
            continue
        if wanted.lists(image):
            shown.append(image)
    shared = shared_bytes(shown) if query.flag(request, "shared-size") else {}
    rows = [image_summary(one, -1, wanted.references(one), shared.get(one.id, -1)) for one in shown]
    return answer([older.image_summary(row, minor_of(request)) for row in rows])


def _filter(request: web.Request, engine: Engine) -> ImageFilter:
    now_ns = engine.parts.clock.now_ns()
    return ImageFilter(query.filters(request), engine.images.resolve, now_ns)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Show one image."""
    engine = engine_of(request)
    image = _asked_for(request, [query.text(request, "platform")])
    found = image_details(image, engine.parts.storage_driver)
    return answer(older.image_details(found, minor_of(request)))


async def history(request: web.Request) -> web.StreamResponse:
    """Show the steps an image was made by, newest first."""
    image = _asked_for(request, [query.text(request, "platform")])
    return answer(engine_of(request).images.history(image))


def _asked_for(request: web.Request, wanted: Sequence[str]) -> Image:
    name = request.match_info["name"]
    image = engine_of(request).images.resolve(name)
    platforms.check(wanted, name, image)
    return image


async def tag(request: web.Request) -> web.StreamResponse:
    """Give an image a further name."""
    engine = engine_of(request)
    name = _name(query.text(request, "repo"), query.text(request, "tag"))
    image = await asyncio.to_thread(engine.images.tag, request.match_info["name"], name)
    engine.events.emit("image", "tag", image.id, {"name": name})
    return web.Response(status=201)


async def remove(request: web.Request) -> web.StreamResponse:
    """Remove a name, and the image with its last one."""
    engine = engine_of(request)
    if wanted := query.texts(request, "platforms"):
        _asked_for(request, wanted)
    force = query.flag(request, "force")
    done = await asyncio.to_thread(
        lambda: engine.images.remove(
            request.match_info["name"],
            force=force,
            in_use=engine.users_of_image,
            prune_parents=not query.flag(request, "noprune"),
        )
    )
    _emit_removal(engine, done)
    return answer(done)


async def prune(request: web.Request) -> web.StreamResponse:
    """Remove unused images: dangling ones, or with `dangling=false` every one."""
    engine = engine_of(request)
    wanted = _filter(request, engine)
    everything = switch("dangling", query.filters(request)) is False
    before = (await asyncio.to_thread(engine.images.usage)).unpacked_bytes
    done: list[dict[str, str]] = []
    for image in await asyncio.to_thread(engine.images.list):
        if not wanted.matches(image) or (image.repo_tags and not everything):
            continue
        for name in [*image.repo_tags, *image.repo_digests] or [image.id]:
            try:
                done += await asyncio.to_thread(_remove_unused, engine, name)
            except RuntimeFailure:
                continue  # in use, a parent of an image that stays, or gone with its child
    _emit_removal(engine, done)
    after = (await asyncio.to_thread(engine.images.usage)).unpacked_bytes
    return answer({"ImagesDeleted": done or None, "SpaceReclaimed": before - after})


def _remove_unused(engine: Engine, name: str) -> list[dict[str, str]]:
    return engine.images.remove(name, in_use=engine.users_of_image)


async def load(request: web.Request) -> web.StreamResponse:
    """Add the images of a docker or OCI archive."""
    platforms.check_machine(query.text(request, "platform"))
    engine = engine_of(request)
    lines = JsonLines(request)
    async with Spool(request) as file:
        found = await asyncio.to_thread(archive.load, engine.images, file)
    for loaded in found:
        shown = loaded.name or loaded.image_id
        if loaded.replaced:
            text = f"The image {shown} already exists, renaming the old one with ID"
            await lines.send({"stream": f"{text} {loaded.replaced} to empty string\n"})
        kind = "Loaded image" if loaded.name else "Loaded image ID"
        engine.events.emit("image", "load", loaded.image_id, {"name": shown})
        await lines.send({"stream": f"{kind}: {shown}\n"})
    return await lines.finish()


async def save(request: web.Request) -> web.StreamResponse:
    """Send images as one archive."""
    engine = engine_of(request)
    name = request.match_info.get("name")
    names = [name] if name else query.texts(request, "names")
    if not names:
        raise InvalidArgument("no image names given")
    names = await asyncio.to_thread(archive.meant, engine.images, names)
    for wanted in names:
        platform = query.text(request, "platform")
        platforms.check([platform], wanted, engine.images.resolve(wanted))
    with tempfile.TemporaryFile(dir=engine.images.blobs.temporary) as file:
        await asyncio.to_thread(archive.save, engine.images, names, file)
        return await _send_file(request, file)


async def _send_file(request: web.Request, file: IO[bytes]) -> web.StreamResponse:
    file.seek(0)
    response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
    response.content_length = os.fstat(file.fileno()).st_size
    await response.prepare(request)
    while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
        await response.write(chunk)
    await response.write_eof()
    return response


async def create(request: web.Request) -> web.StreamResponse:
    """Pull `fromImage`, or import the root file system that is the body (`fromSrc=-`)."""
    engine = engine_of(request)
    source = query.text(request, "fromSrc")
    if not source:
        return await registry.pull(request)
    repo = query.text(request, "repo")
    name = _name(repo, query.text(request, "tag")) if repo else ""
    config = _changed({}, query.texts(request, "changes"))
    lines = JsonLines(request)
    async with _import_source(request, source) as file:
        image = await asyncio.to_thread(
            lambda: archive.import_rootfs(
                engine.images,
                file,
                name,
                config=config,
                message=query.text(request, "message") or f"Imported from {source}",
            )
        )
    engine.events.emit("image", "import", image.id, {"name": name})
    await lines.send({"status": image.id})
    return await lines.finish()


@asynccontextmanager
async def _import_source(request: web.Request, source: str) -> AsyncIterator[IO[bytes]]:
    """Open what is imported: the body, or what an address gives."""
    if source == "-":
        async with Spool(request) as file:
            yield file
        return
    if not is_url(source):
        raise InvalidArgument(f"cannot import {source!r}: send the archive or give an address")
    temporary = engine_of(request).images.blobs.temporary
    with tempfile.TemporaryDirectory(dir=temporary) as directory:
        try:
            _, path = await asyncio.to_thread(fetch, source, Path(directory), "import")
        except BuildError as error:
            raise InvalidArgument(str(error)) from error
        with path.open("rb") as file:
            yield file


def _changed(config: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """Apply the Dockerfile instructions of `-c`; one that does more than configure is refused."""
    try:
        return apply_changes(config, changes)
    except BuildError as error:
        raise InvalidArgument(str(error)) from error


async def commit(request: web.Request) -> web.StreamResponse:
    """Make an image of a container's changes; the container is paused meanwhile."""
    engine = engine_of(request)
    record = engine.inspect(query.text(request, "container")).record
    body = await query.body(request)
    try:
        given = decode_config(body) if any(body.values()) else None
        config = committed_config(record, given, query.texts(request, "changes"))
    except BuildError as error:
        raise InvalidArgument(str(error)) from error
    repo = query.text(request, "repo")
    refs = (_name(repo, query.text(request, "tag")),) if repo else ()
    freeze = record.status == "running" and query.flag(request, "pause")
    if freeze:
        await engine.pause(record.id)
    try:
        upper = await engine.files.upper(record.id)
        image = await asyncio.to_thread(
            lambda: commit_upper(
                engine.images,
                engine.images.resolve(record.image_id),
                upper,
                config=config,
                author=query.text(request, "author"),
                comment=query.text(request, "comment"),
                created_by=" ".join([record.path, *record.args]),
                refs=refs,
            )
        )
        _tell_of_commit(engine, record, image.id, query.text(request, "comment"), refs)
    finally:
        if freeze:
            await engine.unpause(record.id)
    return answer({"Id": image.id}, 201)


def _tell_of_commit(
    engine: Engine, record: Record, image_id: str, comment: str, refs: Sequence[str]
) -> None:
    about = {"image": record.config.image, "name": record.name, **record.config.labels}
    made = {"comment": comment, "imageID": image_id, **({"imageRef": refs[0]} if refs else {})}
    engine.events.emit("container", "commit", record.id, about | made)


def _name(repo: str, tag: str) -> str:
    if not repo:
        raise InvalidArgument("repository name must have at least one component")
    if tag.startswith("sha256:"):
        return f"{repo}@{tag}"
    return f"{repo}:{tag}" if tag else repo


def _emit_removal(engine: Engine, done: list[dict[str, str]]) -> None:
    for step in done:
        for action, key in (("untag", "Untagged"), ("delete", "Deleted")):
            if key in step:
                engine.events.emit("image", action, step[key], {"name": step[key]})


_NAMED = (rest.text("repo"), rest.text("tag"))
_PLATFORM = (rest.text("platform", "an image of another one is refused"),)
_CHANGES = rest.texts("changes", "Dockerfile instructions")
_LIST_FILTERS = rest.filters("before", "dangling", "label", "label!", "reference", "since", "until")
_IN = "/images/{name:.+}"
ROUTES = (
    Route(
        "GET",
        "/images/json",
        list_images,
        (
            rest.flag("all"),
            rest.flag("digests"),
            rest.flag("shared-size"),
            rest.flag("manifests"),
            _LIST_FILTERS,
        ),
        answer=list[answers.ImageSummary],
    ),
    Route(
        "GET", "/images/get", save, (rest.texts("names"), *_PLATFORM), answer=bytes, content="tar"
    ),
    Route(
        "POST",
        "/images/load",
        load,
        (rest.flag("quiet"), *_PLATFORM),
        body=bytes,
        answer=answers.Object,
        content="stream",
    ),
    Route(
        "POST",
        "/images/create",
        create,
        (
            rest.text("fromImage"),
            rest.text("fromSrc"),
            *_NAMED,
            rest.text("message"),
            rest.text("platform"),
            _CHANGES,
        ),
        body=bytes,
        answer=answers.Object,
        content="stream",
    ),
    Route(
        "POST",
        "/images/prune",
        prune,
        (rest.filters("dangling", "label", "label!", "until"),),
        answer=answers.ImagesPruned,
    ),
    Route(
        "POST",
        "/commit",
        commit,
        (
            rest.text("container"),
            *_NAMED,
            rest.text("comment"),
            rest.text("author"),
            rest.flag("pause", default=True),
            _CHANGES,
        ),
        body=ContainerConfig,
        answer=answers.Id,
        status=201,
    ),
    Route(
        "GET",
        _IN + "/json",
        inspect,
        (rest.flag("manifests"), *_PLATFORM),
        answer=answers.ImageDetails,
    ),
    Route("GET", _IN + "/history", history, _PLATFORM, answer=list[answers.HistoryRow]),
    Route("GET", _IN + "/get", save, _PLATFORM, answer=bytes, content="tar"),
    Route("POST", _IN + "/tag", tag, _NAMED, status=201),
    Route(
        "DELETE",
        _IN,
        remove,
        (
            rest.flag("force"),
            rest.flag("noprune"),
            rest.texts("platforms", "as `platform` elsewhere"),
        ),
        answer=list[answers.Object],
    ),
)
