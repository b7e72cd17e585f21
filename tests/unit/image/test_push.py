"""Push: what the registry has is not sent, what it lacks arrives as it is here."""

import asyncio
import gzip
import io
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtime.image import archive
from runtime.image.bounds import Readable
from runtime.image.errors import BadArchive, ImageNotFound
from runtime.image.reference import parse
from runtime.image.registry.auth import NOBODY, Credentials
from runtime.image.registry.endpoint import RegistrySettings
from runtime.image.registry.errors import Interrupted, Unauthorized
from runtime.image.registry.pull import Puller
from runtime.image.registry.push import Pusher
from runtime.image.store import ImageStore
from runtime.image.tarstream import decompress
from tests.fakes.registry import FakeRegistry
from tests.unit.image.registry_images import publish
from tests.unit.image.tars import file_member, tar_of


class Bench:
    def __init__(self, root: Path, registry: FakeRegistry) -> None:
        self.registry = registry
        self.store = ImageStore(root)
        self.lines: list[dict[str, Any]] = []
        self.pusher = Pusher(self.store, RegistrySettings(), self._pause)
        self.puller = Puller(self.store, RegistrySettings(), self._pause)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def name(self, rest: str) -> str:
        return f"{self.registry.address}/{rest}"

    def make(self, rest: str, content: bytes) -> None:
        archive.import_rootfs(self.store, tar_of(file_member("f", content)), self.name(rest))

    async def push(self, rest: str, who: Credentials = NOBODY, **options: Any) -> list[str]:
        self.lines.clear()
        done = await self.pusher.push(
            parse(self.name(rest)), who, emit=self.lines.append, **options
        )
        return [item.descriptor.digest for item in done]

    def statuses(self) -> list[str]:
        return [str(line.get("status", "")) for line in self.lines]

    def uploads(self) -> int:
        return sum(
            count for what, count in self.registry.requests.items() if what.startswith("PUT")
        )


def play(tmp_path: Path, story: Callable[[Bench], Awaitable[None]], *, auth: str = "none") -> None:
    async def main() -> None:
        async with FakeRegistry(auth).serving() as registry:
            await story(Bench(tmp_path / "images", registry))

    asyncio.run(main())


def test_a_local_image_is_compressed_sent_once_and_comes_back_equal(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.make("app:1", b"x" * 5000)
        (digest,) = await bench.push("app:1")
        media_type, raw = bench.registry.manifests["app", "1"]
        assert media_type == "application/vnd.docker.distribution.manifest.v2+json"
        blob = bench.registry.blobs["app", json.loads(raw)["layers"][0]["digest"]]
        assert b"x" * 5000 in gzip.decompress(blob)
        aux = {"Tag": "1", "Digest": digest, "Size": len(raw)}
        assert bench.lines[-1] == {"progressDetail": {}, "aux": aux}
        assert "Pushed" in bench.statuses()
        image = bench.store.resolve(bench.name("app:1"))
        assert image.repo_digests == (bench.name(f"app@{digest}"),)
        sent = bench.uploads()
        assert await bench.push("app:1") == [digest]
        assert bench.uploads() == sent + 1  # the manifest
        assert "Layer already exists" in bench.statuses()
        other = ImageStore(tmp_path / "other")
        (back,) = await Puller(other, RegistrySettings()).pull(parse(bench.name("app:1")))
        assert back.id == image.id

    play(tmp_path, story)


def test_a_pulled_image_is_pushed_byte_for_byte(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        files = {"a": b"1", "b": b"2"}
        digest = publish(bench.registry, "from/here", "1", files, annotations={"kept": "yes"})
        await bench.puller.pull(parse(bench.name("from/here:1")))
        bench.store.tag(bench.name("from/here:1"), bench.name("to/there:2"))
        bench.registry.faults.refuse_mounts = True
        assert await bench.push("to/there:2") == [digest]
        assert (
            bench.registry.manifests["to/there", "2"] == bench.registry.manifests["from/here", "1"]
        )

    play(tmp_path, story)


def test_layers_of_another_repository_are_mounted(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "from/here", "1", {"a": b"1", "b": b"2"})
        await bench.puller.pull(parse(bench.name("from/here:1")))
        bench.store.tag(bench.name("from/here:1"), bench.name("to/there:2"))
        await bench.push("to/there:2")
        assert bench.statuses().count("Mounted from from/here") == 2
        assert bench.uploads() == 2  # config and manifest

    play(tmp_path, story)


def test_an_upload_that_breaks_is_begun_again(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.make("app:1", b"y" * 5000)
        bench.registry.faults.cut_uploads = 2
        await bench.push("app:1")
        assert ("app", "1") in bench.registry.manifests
        bench.make("app:2", b"z" * 5000)
        bench.registry.faults.cut_uploads = 1000
        with pytest.raises(Interrupted):
            await bench.push("app:2")
        assert ("app", "2") not in bench.registry.manifests
        assert list(bench.store.blobs.temporary.iterdir()) == []

    play(tmp_path, story)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_closed_registry_wants_credentials(tmp_path: Path, auth: str) -> None:
    async def story(bench: Bench) -> None:
        bench.make("app:1", b"1")
        with pytest.raises(Unauthorized):
            await bench.push("app:1")
        await bench.push("app:1", Credentials("alice", "sekret"))
        assert ("app", "1") in bench.registry.manifests
        if auth == "bearer":
            assert bench.registry.scopes[0] == ["repository:app:pull,push"]

    play(tmp_path, story, auth=auth)


def test_all_tags_of_a_repository_and_none(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.make("app:1", b"1")
        bench.make("app:2", b"2")
        bench.make("other:3", b"3")
        await bench.push("app", all_tags=True)
        assert {tag for _, tag in bench.registry.manifests if ":" not in tag} == {"1", "2"}
        with pytest.raises(ImageNotFound):
            await bench.push("nothing", all_tags=True)

    play(tmp_path, story)


def test_equal_layers_give_equal_archives(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.make("app:1", b"1" * 3000)
        await bench.push("app:1")
        fresh = Pusher(bench.store, RegistrySettings())
        bench.lines.clear()
        await fresh.push(parse(bench.name("app:1")), emit=bench.lines.append)
        assert "Layer already exists" in bench.statuses()

    play(tmp_path, story)


def drain(stream: Readable) -> bytes:
    return b"".join(iter(partial(stream.read, 10_007), b""))


def test_gzip_reads_what_the_module_writes() -> None:
    for size in (0, 1, 1 << 20, 3_000_001):
        content = bytes(range(256)) * (size // 256) + b"e" * (size % 256)
        packed = gzip.compress(content)
        plain, kind = decompress(io.BytesIO(packed))
        assert kind == "gzip"
        assert drain(plain) == content
        if size:
            broken, _ = decompress(io.BytesIO(packed[:-9]))
            with pytest.raises(BadArchive, match="ends early"):
                drain(broken)


def test_an_upload_that_goes_elsewhere_takes_no_credentials_along(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.make("app:1", b"1")
        async with FakeRegistry().serving() as elsewhere:
            bench.registry.upload_host = elsewhere.address
            bench.registry.blobs = elsewhere.blobs
            await bench.push("app:1", Credentials("alice", "sekret"))
            assert ("app", "1") in bench.registry.manifests
            assert len(elsewhere.authorizations) == 2
            assert set(elsewhere.authorizations) == {""}

    play(tmp_path, story, auth="basic")
