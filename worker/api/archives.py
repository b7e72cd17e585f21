"""A container's files over the wire: archive (docker cp), changes and export."""

import asyncio
import base64
import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TypedDict

from aiohttp import web

from swarmapi import query, rest
from swarmapi.errors import InvalidArgument
from swarmapi.rest import Route
from worker.api.bodies import Spool
from worker.api.keys import engine_of
from worker.api.responses import answer, encode
from worker.engine import paths
from worker.engine.rfc3339 import format_ns

log = logging.getLogger(__name__)
_TAR = "application/x-tar"
_STAT_HEADER = "X-Docker-Container-Path-Stat"
_CHUNK_BYTES = 256 * 1024


def stat_header(path: str, found: paths.Found) -> str:
    """Render what a path names for the header every client of `cp` reads."""
    status = found.status
    body = {
        "name": paths.base(paths.clean(path)),
        "size": status.st_size,
        "mode": paths.go_mode(status.st_mode),
        "mtime": format_ns(status.st_mtime_ns),
        "linkTarget": found.link_target,
    }
    return base64.b64encode(encode(body).strip()).decode()


async def head(request: web.Request) -> web.StreamResponse:
    """Tell what a path is, in a header."""
    path = _path(request)
    found = await engine_of(request).files.stat(request.match_info["id"], path)
    return web.Response(headers={_STAT_HEADER: stat_header(path, found)})


async def get(request: web.Request) -> web.StreamResponse:
    """Send a file or directory as a tar."""
    engine = engine_of(request)
    path = _path(request)
    reference = request.match_info["id"]
    async with engine.files.packing(reference, path) as (found, pack):
        engine.emit(reference, "archive-path")
        return await send_tar(request, pack, {_STAT_HEADER: stat_header(path, found)})


async def put(request: web.Request) -> web.StreamResponse:
    """Unpack the tar of the body, plain or compressed, into a directory."""
    engine = engine_of(request)
    path = _path(request)
    reference = request.match_info["id"]
    engine.inspect(reference)
    async with Spool(request) as file:
        await engine.files.unpack(
            reference,
            path,
            file,
            keep_kinds=query.flag(request, "noOverwriteDirNonDir"),
            own=query.flag(request, "copyUIDGID"),
        )
    engine.emit(reference, "extract-to-dir")
    return web.Response()


async def changes(request: web.Request) -> web.StreamResponse:
    """List what the container changed in its image."""
    found = await engine_of(request).files.changes(request.match_info["id"])
    return answer([Change(Path=path, Kind=kind) for kind, path in found])


async def export(request: web.Request) -> web.StreamResponse:
    """Send the container's whole root as a tar."""
    engine = engine_of(request)
    reference = request.match_info["id"]
    async with engine.files.exporting(reference) as pack:
        engine.emit(reference, "export")
        return await send_tar(request, pack, {})


async def send_tar(
    request: web.Request, pack: Callable[[IO[bytes]], None], headers: dict[str, str]
) -> web.StreamResponse:
    """Stream what `pack` writes, as fast as the client takes it.

    Where `pack` fails the body is cut short, which every client reports.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, _CHUNK_BYTES)

    def work() -> None:
        with suppress(BrokenPipeError), os.fdopen(write_fd, "wb", _CHUNK_BYTES) as out:
            pack(out)

    packing = asyncio.create_task(asyncio.to_thread(work))
    response = web.StreamResponse(headers={"Content-Type": _TAR, **headers})
    response.enable_chunked_encoding()
    try:
        with os.fdopen(read_fd, "rb", 0) as source:
            await response.prepare(request)
            while data := await asyncio.to_thread(source.read, _CHUNK_BYTES):
                await response.write(data)
    finally:
        # the read end is closed: a client that left ends the packing with EPIPE
        failed = (await asyncio.gather(packing, return_exceptions=True))[0]
    if failed is not None:
        log.warning("%s is cut short: %s", request.path, failed)
        assert request.transport is not None
        request.transport.close()
        raise asyncio.CancelledError
    await response.write_eof()
    return response


def _path(request: web.Request) -> str:
    path = query.text(request, "path")
    if not path:
        raise InvalidArgument("bad parameter: missing path")
    return path


class Change(TypedDict):
    """One changed path: Kind 0 is modified, 1 added, 2 deleted."""

    Path: str
    Kind: int


_PATH = rest.text("path", "in the container")
_ARCHIVE = "/containers/{id:.+}/archive"
ROUTES = (
    Route("HEAD", _ARCHIVE, head, (_PATH,)),
    Route("GET", _ARCHIVE, get, (_PATH,), answer=bytes, content="tar"),
    Route(
        "PUT",
        _ARCHIVE,
        put,
        (
            _PATH,
            rest.flag("noOverwriteDirNonDir", "keep directories directories"),
            rest.flag("copyUIDGID", "all belongs to the container's user"),
        ),
        body=bytes,
    ),
    Route("GET", "/containers/{id:.+}/changes", changes, answer=list[Change]),
    Route("GET", "/containers/{id:.+}/export", export, answer=bytes, content="tar"),
)
