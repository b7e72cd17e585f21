"""Registries: pull, push, login, search, and what a reference names there."""

import asyncio
import base64
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any

import msgspec
from aiohttp import web

from runtime.errors import RuntimeFailure
from runtime.image.errors import BadReference, BuildError, ImageNotFound
from runtime.image.model import Image
from runtime.image.reference import Reference, parse
from runtime.image.registry.auth import NOBODY, Credentials, credentials_in, credentials_of
from runtime.image.registry.endpoint import login_host
from runtime.image.registry.errors import RegistryError
from runtime.image.registry.manifest import Platform, parse_platform
from runtime.image.registry.progress import Emit
from runtime.image.registry.search import LIMIT_MAX
from swarmapi import query, rest
from swarmapi.errors import InvalidArgument
from swarmapi.rest import Route
from worker.api import answers, platforms
from worker.api.keys import engine_of
from worker.api.presence import while_connected
from worker.api.responses import JsonLines, answer

_SEARCH_LIMIT = 25
_RESOLVE_TIMEOUT_S = 3.0
"""Who creates a service waits for it, and goes on without a digest."""


async def pull(request: web.Request) -> web.StreamResponse:
    """Fetch an image; without a tag, all of the repository. Progress travels in the stream."""
    engine = engine_of(request)
    tag = query.text(request, "tag")
    reference = named(query.text(request, "fromImage"), tag)
    credentials = registry_auth(request)
    platform = platform_in(request)
    all_tags = not (reference.tag or reference.digest)

    def work(emit: Emit) -> Coroutine[Any, Any, Any]:
        return engine.registries.pull(
            reference, credentials, platform=platform, emit=emit, all_tags=all_tags
        )

    return await _streamed(request, work)


async def push(request: web.Request) -> web.StreamResponse:
    """Publish an image; without a tag, all of the repository. Errors travel in the stream."""
    engine = engine_of(request)
    reference = named(request.match_info["name"], query.text(request, "tag"))
    credentials = registry_auth(request)
    if reference.digest:
        raise InvalidArgument("cannot push a digest reference")
    if wanted := query.text(request, "platform"):
        name = reference.with_default_tag().familiar
        platforms.check([wanted], name, engine.images.resolve(name))

    async def work(emit: Emit) -> None:
        emit({"status": f"The push refers to repository [{reference.name}]"})
        try:
            await engine.registries.push(reference, credentials, emit, all_tags=not reference.tag)
        except ImageNotFound:
            raise ImageNotLocal(reference) from None

    return await _streamed(request, work)


class ImageNotLocal(RuntimeFailure):
    """What is to be pushed is not here."""

    def __init__(self, reference: Reference) -> None:
        super().__init__(f"An image does not exist locally with the tag: {reference.familiar_name}")


async def _streamed(
    request: web.Request, work: Callable[[Emit], Coroutine[Any, Any, Any]]
) -> web.StreamResponse:
    """Send what the work emits; it is cancelled when the client goes.

    What fails before the first line has a status of its own, later an error in the stream.
    """
    lines = JsonLines(request)
    queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    running = asyncio.ensure_future(work(queue.put_nowait))
    running.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (line := await while_connected(request, queue.get())) is not None:
            await lines.send(line)
        try:
            running.result()
        except RuntimeFailure as error:
            if not lines.begun:
                raise
            await lines.fail(str(error))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return await lines.finish()


async def auth(request: web.Request) -> web.StreamResponse:
    """Try credentials at a registry; nothing is kept."""
    body = await query.body(request)
    address = body.get("serveraddress", "")
    if not isinstance(address, str):
        raise InvalidArgument("serveraddress must be a string")
    await engine_of(request).registries.login(address, _credentials(body))
    return answer({"IdentityToken": "", "Status": "Login Succeeded"})


async def distribution(request: web.Request) -> web.StreamResponse:
    """Ask a registry what a reference names now; nothing is fetched."""
    reference = parse(request.match_info["name"])
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
            descriptor, platforms = await engine_of(request).registries.puller.resolve(
                reference, registry_auth(request)
            )
    except TimeoutError:
        raise RegistryError(
            f"{reference.domain} did not say within {_RESOLVE_TIMEOUT_S:g} s what "
            f"{reference.familiar} is"
        ) from None
    return answer(
        {
            "Descriptor": {
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest,
                "size": descriptor.size,
            },
            "Platforms": [platform.record() for platform in platforms],
        }
    )


async def search(request: web.Request) -> web.StreamResponse:
    """Search a registry for images; refused where it has no search."""
    term = query.text(request, "term")
    limit = query.integer(request, "limit") or _SEARCH_LIMIT
    if not term:
        raise InvalidArgument("a term to search for is required")
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, {LIMIT_MAX}]")
    wanted = _search_filter(query.filters(request))
    found = await engine_of(request).registries.search(term, limit, registry_auth(request))
    return answer([row for row in found if wanted(row)])


def _search_filter(filters: dict[str, list[str]]) -> Callable[[dict[str, Any]], bool]:
    checks: list[Callable[[dict[str, Any]], bool]] = []
    for key in ("is-official", "is-automated"):
        for value in filters.get(key, ()):
            if value not in ("true", "false", "1", "0"):
                raise InvalidArgument(f"invalid filter '{key}={value}'")
            checks.append(_equals(key.replace("-", "_"), value in ("true", "1")))
    for value in filters.get("stars", ()):
        if not value.isdecimal():
            raise InvalidArgument(f"invalid filter 'stars={value}'")
        checks.append(_at_least(int(value)))
    return lambda row: all(check(row) for check in checks)


def _equals(key: str, value: bool) -> Callable[[dict[str, Any]], bool]:
    return lambda row: row[key] == value


def _at_least(stars: int) -> Callable[[dict[str, Any]], bool]:
    return lambda row: bool(row["star_count"] >= stars)


def named(name: str, tag: str) -> Reference:
    """Return the reference of a name and a tag or digest given apart."""
    if not name:
        raise InvalidArgument("repository name must have at least one component")
    if tag.startswith("sha256:"):
        return parse(f"{name}@{tag}")
    return parse(f"{name}:{tag}" if tag else name)


def platform_in(request: web.Request) -> Platform | None:
    """Read the parameter `platform`: `os/arch[/variant]`."""
    text = query.text(request, "platform")
    try:
        return parse_platform(text) if text else None
    except ValueError as error:
        raise InvalidArgument(str(error)) from error


def registry_auth(request: web.Request) -> Credentials:
    """Read X-Registry-Auth.

    Raises:
        InvalidArgument: when it is no base64url JSON object of credentials.
    """
    try:
        return credentials_in(request.headers.get("X-Registry-Auth", ""))
    except ValueError as error:
        raise InvalidArgument(f"X-Registry-Auth: {error}") from error


class BasePuller:
    """What the thread of a build calls for a base image that is to be fetched.

    X-Registry-Config holds the credentials by registry. Made and cancelled on the loop.
    """

    def __init__(self, request: web.Request) -> None:
        self._registries = engine_of(request).registries
        self._loop = asyncio.get_running_loop()
        self._logins = {login_host(host): who for host, who in _logins(request).items()}
        self._pulling: Future[list[Image]] | None = None

    def __call__(self, ref: str, platform: str, emit: Emit) -> None:
        """Fetch an image; raises what a pull does, BuildError when it is cancelled."""
        reference = parse(ref)
        who = self._logins.get(login_host(reference.domain), NOBODY)
        try:
            wanted = parse_platform(platform) if platform else None
        except ValueError as error:
            raise BadReference(ref, str(error)) from error
        pulling = self._registries.pull(reference, who, platform=wanted, emit=emit)
        self._pulling = asyncio.run_coroutine_threadsafe(pulling, self._loop)
        try:
            self._pulling.result()
        except CancelledError:
            raise BuildError("build cancelled") from None

    def cancel(self) -> None:
        """End the pull that is under way, if there is one."""
        if self._pulling is not None:
            self._pulling.cancel()


def _logins(request: web.Request) -> dict[str, Credentials]:
    raw = request.headers.get("X-Registry-Config", "")
    if not raw:
        return {}
    try:
        decoded = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))
        found = msgspec.json.decode(decoded, type=dict[str, dict[str, Any]])
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument(f"X-Registry-Config: {error}") from error
    return {host: _credentials(value) for host, value in found.items()}


def _credentials(value: dict[str, Any]) -> Credentials:
    try:
        return credentials_of(value)
    except ValueError as error:
        raise InvalidArgument(f"credentials: {error}") from error


ROUTES = (
    Route(
        "POST",
        "/images/{name:.+}/push",
        push,
        (rest.text("tag"), rest.text("platform", "an image of another one is refused")),
        answer=answers.Object,
        content="stream",
    ),
    Route(
        "GET",
        "/images/search",
        search,
        (
            rest.text("term"),
            rest.integer("limit"),
            rest.filters("is-automated", "is-official", "stars"),
        ),
        answer=list[answers.SearchResult],
    ),
    Route("POST", "/auth", auth, body=answers.Object, answer=answers.LoggedIn),
    Route("GET", "/distribution/{name:.+}/json", distribution, answer=answers.Distribution),
)
