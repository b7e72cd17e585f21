"""A registry in the test's own loop: the distribution protocol, logging in, and faults."""

import asyncio
import base64
import hashlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class Faults:
    """What goes wrong, and how often still."""

    cut_blobs: int = 0
    """So many answers with a blob end in the middle."""
    no_ranges: bool = False
    """A range is ignored and the whole blob sent."""
    statuses: list[int] = field(default_factory=list)
    """What the next requests for a manifest or blob are answered with."""
    retry_after: str = ""
    corrupt_blobs: bool = False
    cut_uploads: int = 0
    refuse_mounts: bool = False


class FakeRegistry:
    """Repositories in memory; use `serving()`."""

    def __init__(self, auth: str = "none") -> None:
        self.auth = auth  # none, basic, bearer
        self.user, self.password = "alice", "sekret"
        self.faults = Faults()
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.gate: asyncio.Event | None = None
        """Blobs of more than a kilobyte wait for it where it is set."""
        self.token = "token-1"
        self.token_moved_to = ""
        """Where who brings an identity token is sent."""
        self.scopes: list[list[str]] = []
        self.address = ""
        self.upload_host = ""
        """Where uploads are sent, by default here."""
        self.authorizations: list[str] = []
        self._uploads = 0
        self.has_search = False

    def put_blob(self, repository: str, content: bytes) -> str:
        """Store a blob; return its digest."""
        self.blobs[repository, digest_of(content)] = content
        return digest_of(content)

    def put_manifest(
        self, repository: str, tag: str, value: dict[str, Any] | bytes, media_type: str = MANIFEST
    ) -> str:
        """Store a manifest under a tag and its digest; return the digest."""
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        digest = digest_of(raw)
        self.manifests[repository, tag] = self.manifests[repository, digest] = (media_type, raw)
        return digest

    @asynccontextmanager
    async def serving(
        self, port: int = 0, host: str = "127.0.0.1"
    ) -> AsyncIterator["FakeRegistry"]:
        """Listen, on loopback by default, for the length of the block; on any port without one."""
        app = web.Application(middlewares=[self._checked], client_max_size=1 << 30)
        app.router.add_get("/v2/", self._version)
        app.router.add_get("/token", self._token)
        app.router.add_post("/token", self._exchange)
        app.router.add_get("/v2/{name:.+}/manifests/{ref}", self._manifest, allow_head=True)
        app.router.add_put("/v2/{name:.+}/manifests/{ref}", self._put_manifest)
        app.router.add_get("/v2/{name:.+}/tags/list", self._tags)
        app.router.add_post("/v2/{name:.+}/blobs/uploads/", self._begin)
        app.router.add_put("/v2/{name:.+}/blobs/uploads/{id}", self._upload)
        app.router.add_get("/v2/{name:.+}/blobs/{digest}", self._blob, allow_head=True)
        app.router.add_get("/v1/search", self._search)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    # -- authentication --------------------------------------------------------------------

    @web.middleware
    async def _checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests[f"{request.method} {request.path}"] += 1
        given = request.headers.get("Authorization", "")
        self.authorizations.append(given)
        if request.path != "/token":
            if self.auth == "basic" and given != self._basic():
                return self._refuse('Basic realm="fake"')
            if self.auth == "bearer" and given != f"Bearer {self.token}":
                realm = f"http://{self.address}/token"
                return self._refuse(f'Bearer realm="{realm}",service="fake"')
        answer: web.StreamResponse = await handler(request)
        return answer

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def _refuse(self, challenge: str) -> web.Response:
        errors = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        return web.json_response(errors, status=401, headers={"WWW-Authenticate": challenge})

    async def _token(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization", "") != self._basic():
            return web.json_response({"details": "incorrect username or password"}, status=401)
        self.scopes.append(request.query.getall("scope", []))
        return web.json_response({"token": self.token})

    async def _exchange(self, request: web.Request) -> web.Response:
        if self.token_moved_to:
            return web.Response(status=307, headers={"Location": self.token_moved_to})
        assert (await request.post())["refresh_token"] == "identity"
        return web.json_response({"access_token": self.token})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({})

    # -- reading ---------------------------------------------------------------------------

    def _fault(self) -> web.Response | None:
        if not self.faults.statuses:
            return None
        headers = {"Retry-After": self.faults.retry_after} if self.faults.retry_after else {}
        return web.Response(status=self.faults.statuses.pop(0), headers=headers)

    async def _manifest(self, request: web.Request) -> web.Response:
        found = self.manifests.get((request.match_info["name"], request.match_info["ref"]))
        if fault := self._fault():
            return fault
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return web.Response(body=found[1], content_type=found[0])

    async def _tags(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        tags = sorted(ref for repo, ref in self.manifests if repo == name and ":" not in ref)
        after = request.query.get("last", "")
        page = [tag for tag in tags if tag > after][:1]  # pages of one
        more = bool(page) and page[-1] != tags[-1]
        link = f'</v2/{name}/tags/list?last={page[-1]}&n=1>; rel="next"' if more else ""
        return web.json_response(
            {"name": name, "tags": page}, headers={"Link": link} if link else {}
        )

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        content = self.blobs.get((request.match_info["name"], request.match_info["digest"]))
        if content is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(content))})
        if fault := self._fault():
            return fault
        if self.gate is not None and len(content) > 1000:
            await self.gate.wait()
        if self.faults.corrupt_blobs:
            content = bytes(len(content))
        wanted = request.headers.get("Range", "")
        status, headers, start = 200, {}, 0
        if wanted:
            self.ranges.append(wanted)
        if wanted and not self.faults.no_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status = 206
        response = web.StreamResponse(status=status, headers=headers)
        body = content[start:]
        response.content_length = len(body)
        await response.prepare(request)
        if self.faults.cut_blobs and len(content) > 1000:
            self.faults.cut_blobs -= 1
            await response.write(body[: len(body) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        with suppress(ConnectionError):  # the client died in the middle
            await response.write(body)
        return response

    async def _search(self, request: web.Request) -> web.Response:
        if not self.has_search:
            return web.Response(status=404, text="404 page not found")
        row = {"name": request.query["q"], "description": "d", "star_count": 7}
        return web.json_response({"results": [row, {"name": "other"}]})

    # -- writing ---------------------------------------------------------------------------

    async def _begin(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        digest, origin = request.query.get("mount", ""), request.query.get("from", "")
        if digest and (origin, digest) in self.blobs and not self.faults.refuse_mounts:
            self.blobs[name, digest] = self.blobs[origin, digest]
            return web.Response(status=201)
        self._uploads += 1
        host = f"http://{self.upload_host}" if self.upload_host else ""
        where = f"{host}/v2/{name}/blobs/uploads/{self._uploads}?_state=s"
        return web.Response(status=202, headers={"Location": where})

    async def _upload(self, request: web.Request) -> web.Response:
        if self.faults.cut_uploads:
            self.faults.cut_uploads -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        content = await request.read()
        if digest_of(content) != request.query["digest"]:
            return _error(400, "DIGEST_INVALID", "provided digest did not match")
        self.put_blob(request.match_info["name"], content)
        return web.Response(status=201)

    async def _put_manifest(self, request: web.Request) -> web.Response:
        name, raw = request.match_info["name"], await request.read()
        value = json.loads(raw)
        for item in (value["config"], *value["layers"]):
            if (name, item["digest"]) not in self.blobs:
                return _error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
        digest = self.put_manifest(name, request.match_info["ref"], raw, request.content_type)
        return web.Response(status=201, headers={"Docker-Content-Digest": digest})


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status)


async def _serve(port: int, auth: str, host: str = "127.0.0.1") -> None:
    async with FakeRegistry(auth).serving(port, host):
        sys.stdout.write("up\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":  # `PORT AUTH [HOST]`: serves until standard input ends
    asyncio.run(_serve(int(sys.argv[1]), *sys.argv[2:]))
