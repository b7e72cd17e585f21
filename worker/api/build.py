"""The classic builder's endpoint: a tar of the context in, JSON lines out."""

import asyncio
from typing import IO, Any

from aiohttp import web

from runtime.errors import RuntimeFailure
from runtime.image.build.builder import Builder
from runtime.image.build.options import BuildOptions
from runtime.image.errors import BadReference, BuildError
from runtime.image.reference import parse
from runtime.image.store import ImageStore
from runtime.image.tartree import open_tree
from swarmapi import query, rest
from swarmapi.errors import InvalidArgument, SwarmError, Unsupported
from swarmapi.rest import Route
from worker.api import answers, registry
from worker.api.bodies import Spool
from worker.api.keys import engine_of
from worker.api.responses import JsonLines, answer
from worker.engine.bundle import check_supported
from worker.engine.imagefilters import ImageFilter
from worker.engine.spec import decode_host
from worker.engine.stepper import Stepper

_LISTENING_S = 0.5
"""How often a build looks whether its client is still there."""


async def build(request: web.Request) -> web.StreamResponse:
    """Build from a tar of the context; what fails before the first line has a status of its own."""
    engine = engine_of(request)
    options = build_options(request)
    quiet = query.flag(request, "q")
    stepper = engine.stepper()
    pull = registry.BasePuller(request)
    builder = Builder(engine.images, stepper, engine.parts.clock.now_ns, pull)
    loop = asyncio.get_running_loop()
    progress: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def emit(line: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(progress.put_nowait, line)

    async with Spool(request) as file:
        work = asyncio.create_task(
            asyncio.to_thread(_build, builder, file, engine.images, options, emit)
        )
        work.add_done_callback(lambda _: progress.put_nowait(None))
        try:
            response = await _relay(request, progress, work, quiet=quiet)
        except BaseException:  # the client went away
            await _cancelled(builder, stepper, pull, work)
            raise
    if work.exception() is None:
        for name in options.tags:
            engine.events.emit("image", "tag", work.result(), {"name": name})
    return response


def _build(
    builder: Builder,
    archive: IO[bytes],
    images: ImageStore,
    options: BuildOptions,
    emit: Any,
) -> str:
    try:
        with open_tree(archive, images.blobs.temporary, images.limits) as context:
            return builder.build(context, options, emit)
    except BuildError:
        raise
    except (SwarmError, RuntimeFailure) as error:
        raise BuildError(str(error)) from error


async def _relay(
    request: web.Request,
    progress: "asyncio.Queue[dict[str, Any] | None]",
    work: "asyncio.Task[str]",
    *,
    quiet: bool,
) -> web.StreamResponse:
    """Pass the lines on; with `quiet` only the id, or after a failure everything."""
    lines = JsonLines(request)
    held: list[dict[str, Any]] = []
    said = False
    while (line := await _next_line(request, progress)) is not None:
        if quiet:
            held.append(line)
        else:
            await lines.send(line)
            said = True
    error = work.exception()
    if isinstance(error, BuildError):
        if not said and not held:
            raise InvalidArgument(str(error)) from error
        for line in held:
            if "stream" in line:
                await lines.send(line)
        detail: dict[str, Any] = {"message": str(error)}
        if error.code:
            detail["code"] = error.code
        await lines.send({"errorDetail": detail, "error": str(error)})
    elif error is not None:
        raise error
    elif quiet:
        await lines.send({"stream": f"{work.result()}\n"})
    return await lines.finish()


async def _next_line(
    request: web.Request, progress: "asyncio.Queue[dict[str, Any] | None]"
) -> dict[str, Any] | None:
    """Wait for a line as long as somebody listens; a silent step writes nothing that could fail."""
    while True:
        try:
            return await asyncio.wait_for(progress.get(), _LISTENING_S)
        except TimeoutError:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client went away") from None


async def _cancelled(
    builder: Builder,
    stepper: Stepper,
    pull: registry.BasePuller,
    work: "asyncio.Task[str]",
) -> None:
    """End a build nobody waits for: no further step, and the pull or step that runs ends."""
    builder.cancel()
    while not work.done():
        pull.cancel()
        await stepper.cancel()
        await asyncio.wait({work}, timeout=1)


def build_options(request: web.Request) -> BuildOptions:
    """Read the parameters of a build.

    Raises:
        InvalidArgument: for malformed JSON, numbers or tags.
        Unsupported: for an option we do not serve.
    """
    if query.text(request, "version") == "2":
        raise Unsupported("BuildKit is not supported: build with DOCKER_BUILDKIT=0")
    if not query.flag(request, "rm", True):
        raise Unsupported("build option rm=false is not supported: no step leaves a container")
    query.text(request, "isolation")
    tags = tuple(tag for tag in query.texts(request, "t") if tag)
    for tag in tags:
        try:
            parse(tag)
        except BadReference as error:
            raise InvalidArgument(str(error)) from error
    cache_from = query.document(request, "cachefrom")
    return BuildOptions(
        tags=tags,
        dockerfile=query.text(request, "dockerfile") or "Dockerfile",
        build_args=_without_nulls(query.document(request, "buildargs")),
        labels=_without_nulls(query.document(request, "labels")),
        target=query.text(request, "target"),
        no_cache=query.flag(request, "nocache"),
        cache_from=tuple(cache_from) if cache_from else None,
        pull=query.flag(request, "pull"),
        platform=query.text(request, "platform"),
        squash=query.flag(request, "squash"),
        host=_host(request),
    )


def _host(request: web.Request) -> dict[str, Any]:
    """What the RUN steps are limited to, as a HostConfig; checked here, before anything runs."""
    hosts = [host for text in query.texts(request, "extrahosts") for host in text.split(",")]
    asked = {
        "NetworkMode": query.text(request, "networkmode") or "default",
        "Memory": query.integer(request, "memory"),
        "MemorySwap": query.integer(request, "memswap"),
        "CpuShares": query.integer(request, "cpushares"),
        "CpuPeriod": query.integer(request, "cpuperiod"),
        "CpuQuota": query.integer(request, "cpuquota"),
        "CpusetCpus": query.text(request, "cpusetcpus"),
        "CpusetMems": query.text(request, "cpusetmems"),
        "ShmSize": query.integer(request, "shmsize"),
        "ExtraHosts": [host for host in hosts if host],
        "SecurityOpt": query.texts(request, "securityopt"),
        "Ulimits": query.document(request, "ulimits"),
    }
    host = {key: value for key, value in asked.items() if value}
    check_supported(decode_host(host))
    return host


def _without_nulls(found: dict[str, str | None] | None) -> dict[str, str]:
    return {key: value for key, value in (found or {}).items() if value is not None}


async def prune_cache(request: web.Request) -> web.StreamResponse:
    """Remove build steps no named image rests on."""
    engine = engine_of(request)
    wanted = ImageFilter(query.filters(request), engine.images.resolve, engine.parts.clock.now_ns())
    before = (await asyncio.to_thread(engine.images.usage)).unpacked_bytes
    deleted = []
    for image in await asyncio.to_thread(engine.images.list):
        if image.repo_tags or not image.cache_key or engine.users_of_image(image.id):
            continue
        if not wanted.matches(image):
            continue
        try:
            await asyncio.to_thread(engine.images.remove, image.id, in_use=engine.users_of_image)
        except RuntimeFailure:
            continue  # a step of an image that stays
        deleted.append(image.id)
    after = (await asyncio.to_thread(engine.images.usage)).unpacked_bytes
    return answer({"CachesDeleted": deleted or None, "SpaceReclaimed": before - after})


_MAP = dict[str, str | None] | None
_QUERY = (
    rest.text("version", choices=("1", "2")),
    rest.texts("t", "names of the image"),
    rest.text("dockerfile"),
    rest.document("buildargs", _MAP),
    rest.document("labels", _MAP),
    rest.document("cachefrom", list[str] | None, "images whose steps count as made"),
    rest.document("ulimits", list[dict[str, str | int]] | None),
    rest.text("target"),
    rest.text("networkmode"),
    rest.text("platform"),
    rest.text("isolation", choices=("default",)),
    rest.text("cpusetcpus"),
    rest.text("cpusetmems"),
    rest.texts("extrahosts", "NAME:ADDRESS for /etc/hosts of the steps"),
    rest.texts("securityopt"),
    *(rest.flag(name) for name in ("nocache", "pull", "forcerm", "q", "squash")),
    rest.flag("rm", default=True),
    *(rest.integer(n) for n in ("memory", "memswap", "cpushares", "cpuperiod", "cpuquota")),
    rest.integer("shmsize"),
    *rest.refused("outputs", "remote", "session", "cgroupparent"),
)
ROUTES = (
    Route(
        "POST",
        "/build",
        build,
        _QUERY,
        body=bytes,
        answer=answers.Object,
        content="stream",
    ),
    Route(
        "POST",
        "/build/prune",
        prune_cache,
        (
            rest.flag("all"),
            rest.filters("label", "label!", "until"),
            *rest.refused("keep-storage", "reserved-space", "max-used-space", "min-free-space"),
        ),
        answer=answers.CachePruned,
    ),
)
