"""Requests to one registry: scheme, authentication, retries, proxies, errors in its words."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from runtime.image.registry.auth import (
    NOBODY,
    Challenge,
    Credentials,
    challenges,
    refresh_form,
    token_query,
)
from runtime.image.registry.endpoint import Endpoint
from runtime.image.registry.errors import RegistryError, RemoteNotFound, Unauthorized

Sleep = Callable[[float], Awaitable[None]]
Body = Callable[[], AsyncIterator[bytes] | bytes]

TRIES = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 20.0
_CONNECT_TIMEOUT_S, _SILENCE_TIMEOUT_S = 15.0, 60.0
_ERROR_MAX_BYTES = 64 << 10
_TOKEN_MAX_BYTES = 1 << 20
_CONNECTIONS = 8
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
_ON_THE_WAY = (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)


class Transport:
    """A session with one endpoint; use as a context manager.

    It may be entered several times at once: a download that others share outlives the pull that
    began it, and the last one out closes the connections.
    """

    def __init__(
        self, endpoint: Endpoint, credentials: Credentials, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.endpoint = endpoint
        # what belongs to Docker Hub is no business of its mirrors
        self._credentials = NOBODY if endpoint.mirror else credentials
        self._sleep = sleep
        self._scheme = endpoint.schemes[0] if len(endpoint.schemes) == 1 else ""
        self._reached = False  # who never answered is not waited for
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], str] = {}
        self._asking = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._users = 0

    async def __aenter__(self) -> Transport:
        self._users += 1
        if self._session is None:
            self._session = self._new_session()
        return self

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=_tls(self.endpoint.verify)),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_TIMEOUT_S
            ),
            headers={"User-Agent": "swarm"},
            auto_decompress=False,  # digests are of the bytes as stored
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=1 << 20,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._users -= 1
        if not self._users and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        scopes: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        tries: int = TRIES,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and hand over a good answer (below 400); `path` may be a whole URL.

        `body` is called once per try. Raises RemoteNotFound, Unauthorized, RegistryError.
        """
        response = await self._answered(method, path, scopes, dict(headers or {}), body, tries)
        async with response:
            yield response

    async def read(
        self,
        path: str,
        limit: int,
        *,
        scopes: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        """GET a document of at most `limit` bytes; return it and the headers."""
        for left in reversed(range(TRIES)):
            try:
                async with self.open("GET", path, scopes=scopes, headers=headers) as response:
                    return await _bounded(response, limit), response.headers
            except _BROKEN as error:
                if not left:
                    raise RegistryError(self._words("GET", path, error)) from error
        raise AssertionError("unreachable")

    def url(self, path: str) -> str:
        """Return the URL of a path, for messages."""
        return self.endpoint.url(self._scheme or self.endpoint.schemes[0], path)

    async def check_login(self) -> None:
        """Ask the version endpoint with our credentials.

        Raises Unauthorized where they are wrong, RegistryError where it is no registry.
        """
        async with self.open("GET", "/v2/") as response:
            await response.read()

    # -- one request -----------------------------------------------------------------------

    async def _answered(
        self,
        method: str,
        path: str,
        scopes: tuple[str, ...],
        headers: dict[str, str],
        body: Body | None,
        tries: int,
    ) -> aiohttp.ClientResponse:
        await self._choose_scheme()
        refused = False
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._send(method, path, scopes, headers, body)
            except _BROKEN as error:
                if attempt >= tries or not (self._reached or isinstance(error, _ON_THE_WAY)):
                    raise RegistryError(self._words(method, path, error)) from error
                await self._sleep(_pause_s(attempt, ""))
                continue
            self._reached = True
            if response.status < 400:
                return response
            if response.status == 401 and not refused:
                refused = True
                attempt -= 1
                async with response:
                    await self._answer_challenge(response, scopes)
                continue
            if response.status in _AGAIN and attempt < tries:
                pause_s = _pause_s(attempt, response.headers.get("Retry-After", ""))
                response.close()
                await self._sleep(pause_s)
                continue
            async with response:
                raise await self._refusal(method, path, response)

    async def _send(
        self,
        method: str,
        path: str,
        scopes: tuple[str, ...],
        headers: dict[str, str],
        body: Body | None,
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        url = path if "://" in path else self.endpoint.url(self._scheme, path)
        sent = dict(headers)
        if url.startswith(self.endpoint.url(self._scheme, "/")):  # others get no credentials
            authorization = await self._authorization(scopes)
            if authorization:
                sent["Authorization"] = authorization
        return await self._session.request(
            method,
            url,
            headers=sent,
            data=body() if body else None,
            proxy=_proxy(url),
            allow_redirects=method in ("GET", "HEAD"),
        )

    async def _choose_scheme(self) -> None:
        """Find out once whether an insecure registry speaks TLS."""
        async with self._asking:
            if not self._scheme:
                self._scheme = await self._probe()

    async def _probe(self) -> str:
        assert self._session is not None
        problem = RegistryError(f"no way to ask {self.endpoint.host}")
        for scheme in self.endpoint.schemes:
            url = self.endpoint.url(scheme, "/v2/")
            try:
                async with self._session.get(url, proxy=_proxy(url)) as response:
                    if response.status == 401:
                        self._challenge = _offered(response)
                    return scheme
            except _BROKEN as error:
                problem = RegistryError(self._words("GET", url, error))
        raise problem

    # -- authentication --------------------------------------------------------------------

    async def _answer_challenge(
        self, response: aiohttp.ClientResponse, scopes: tuple[str, ...]
    ) -> None:
        challenge = _offered(response)
        self._challenge = challenge
        if challenge is None:
            raise Unauthorized("unauthorized: authentication required")
        if challenge.scheme == "basic":
            if not self._credentials.basic:
                raise Unauthorized("no basic auth credentials")
            if "Authorization" in response.request_info.headers:
                raise Unauthorized("unauthorized: authentication required")
            return
        used = response.request_info.headers.get("Authorization", "")
        if used == f"Bearer {self._tokens.get(scopes, '')}":
            del self._tokens[scopes]  # expired, or for less than this needs

    async def _authorization(self, scopes: tuple[str, ...]) -> str:
        challenge = self._challenge
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            return self._credentials.basic
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        async with self._asking:
            if scopes not in self._tokens:
                self._tokens[scopes] = await self._fetch_token(challenge, scopes)
            return f"Bearer {self._tokens[scopes]}"

    async def _fetch_token(self, challenge: Challenge, scopes: tuple[str, ...]) -> str:
        assert self._session is not None
        realm = challenge.parameters.get("realm", "")
        self._check_realm(realm)
        who = self._credentials
        headers: dict[str, str] = {}
        form = None
        method, url = "GET", realm
        if who.identity_token:
            method, form = "POST", refresh_form(challenge, scopes, who.identity_token)
        else:
            url += ("&" if "?" in realm else "?") + token_query(challenge, scopes, who.username)
            if who.basic:
                headers["Authorization"] = who.basic
        for attempt in range(1, TRIES + 1):
            try:
                async with self._session.request(
                    method,
                    url,
                    headers=headers,
                    data=form,
                    proxy=_proxy(url),
                    allow_redirects=method == "GET",  # no other server is sent the token
                ) as response:
                    if response.status in _AGAIN and attempt < TRIES:
                        pause_s = _pause_s(attempt, response.headers.get("Retry-After", ""))
                    elif response.status >= 300:
                        raise await self._refusal(method, realm, response)
                    else:
                        return _token_in(await _bounded(response, _TOKEN_MAX_BYTES))
            except _BROKEN as error:
                if attempt == TRIES:
                    raise RegistryError(self._words(method, realm, error)) from error
                pause_s = _pause_s(attempt, "")
            await self._sleep(pause_s)
        raise AssertionError("unreachable")

    def _check_realm(self, realm: str) -> None:
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(f"registry {self.endpoint.host} names no token server: {realm!r}")
        secret = self._credentials.basic or self._credentials.identity_token
        if secret and parts.scheme == "http" and self.endpoint.verify:
            raise RegistryError(
                f"registry {self.endpoint.host} wants its credentials sent in the clear to {realm}"
            )

    # -- errors ----------------------------------------------------------------------------

    async def _refusal(
        self, method: str, path: str, response: aiohttp.ClientResponse
    ) -> RegistryError:
        try:
            text = (await _bounded(response, _ERROR_MAX_BYTES)).decode(errors="replace")
        except (*_BROKEN, RegistryError):
            text = ""
        words = error_words(text)
        if response.status == 401:
            return Unauthorized(words or "unauthorized: authentication required")
        if response.status == 403:
            return Unauthorized(words or "denied: requested access to the resource is denied")
        if response.status == 404:
            return RemoteNotFound(words or f"not found: {urlsplit(str(response.url)).path}")
        reason = f"{response.status} {response.reason or ''}".strip()
        target = path if "://" in path else self.endpoint.url(self._scheme, path)
        return RegistryError(
            words or f"received unexpected HTTP status {reason}: {method} {target}"
        )

    def _words(self, method: str, path: str, error: BaseException) -> str:
        target = path if "://" in path else self.endpoint.url(self._scheme or "https", path)
        return f"{method} {target}: {error or type(error).__name__}"


def _offered(response: aiohttp.ClientResponse) -> Challenge | None:
    """Return the challenge we can answer, tokens before passwords."""
    offered = challenges(response.headers.getall("WWW-Authenticate", []))
    for scheme in ("bearer", "basic"):
        for challenge in offered:
            if challenge.scheme == scheme:
                return challenge
    return None


def error_words(text: str) -> str:
    """Return a registry's error document as Docker prints it: `code: message` of the first."""
    try:
        errors = json.loads(text)["errors"]
        parts = []
        for item in errors[:3]:
            code = str(item.get("code", "")).lower().replace("_", " ")
            parts.append(f"{code}: {item.get('message') or code}")
        return "; ".join(parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _token_in(document: bytes) -> str:
    try:
        value: Any = json.loads(document)
        token = value.get("token") or value.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str) or not token or not token.isascii() or "\n" in token:
        raise RegistryError("authorization server did not include a token in the response")
    return token


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body; raises RegistryError where it is larger than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > limit:
            raise RegistryError(f"{response.url} sent more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def _pause_s(attempt: int, retry_after: str) -> float:
    if retry_after.isdecimal():
        return min(float(retry_after), _LONGEST_PAUSE_S)
    base = min(_FIRST_PAUSE_S * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S)
    return base * random.uniform(0.75, 1.25)


def _tls(verify: bool) -> ssl.SSLContext | bool:
    if verify:
        return True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _proxy(url: str) -> str | None:
    """Return the proxy the environment names for a URL; loopback is never asked through one."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        return None
    if urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)
