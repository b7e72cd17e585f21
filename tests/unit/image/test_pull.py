"""Pull against a registry with faults: what arrives is whole, what fails leaves nothing."""

import asyncio
import errno
import gzip
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.image.errors import DiskFull, ImageNotFound
from runtime.image.model import Image
from runtime.image.reference import parse
from runtime.image.registry.auth import NOBODY, Credentials
from runtime.image.registry.endpoint import Endpoint, RegistrySettings, endpoints
from runtime.image.registry.errors import RegistryError, RemoteNotFound, Unauthorized
from runtime.image.registry.manifest import DOCKER_INDEX, MANIFEST_MAX_BYTES, Platform
from runtime.image.registry.pull import Puller, host_platform
from runtime.image.registry.repository import Repository
from runtime.image.registry.transport import Transport
from runtime.image.store import ImageStore
from tests.fakes.registry import FakeRegistry
from tests.unit.image.registry_images import CONFIG, LAYER, descriptor, layer, publish

ALICE = Credentials("alice", "sekret")
BIG = os.urandom(300_000)
FILES = {"etc/a": b"alpha", "big": BIG, "etc/b": b"beta"}


class Bench:
    """A store, a puller that does not wait between tries, and a registry."""

    def __init__(self, root: Path, registry: FakeRegistry) -> None:
        self.registry = registry
        self.root = root
        self.store = ImageStore(root)
        self.pauses: list[float] = []
        self.lines: list[dict[str, Any]] = []
        self.puller = Puller(self.store, RegistrySettings(), self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def pull(self, name: str, who: Credentials = NOBODY, **options: Any) -> list[Image]:
        reference = parse(f"{self.registry.address}/{name}")
        return await self.puller.pull(reference, who, emit=self.lines.append, **options)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - it is the code under test that moves
                await asyncio.sleep(0)

    def statuses(self) -> list[str]:
        return [line["status"] for line in self.lines]

    def content(self, name: str) -> dict[str, bytes]:
        """The files of an image as its layers show them."""
        image = self.store.resolve(f"{self.registry.address}/{name}")
        found: dict[str, bytes] = {}
        for directory in reversed(self.store.lower_dirs(image)):
            for path in sorted(directory.rglob("*")):
                if path.is_file():
                    found[str(path.relative_to(directory))] = path.read_bytes()
        return found

    def asked_for_big_blobs(self) -> int:
        big = {digest for (_, digest), blob in self.registry.blobs.items() if len(blob) > 5000}
        return sum(self.registry.requests[f"GET /v2/app/blobs/{digest}"] for digest in big)

    def sharing(self) -> int:
        return sum(len(flight.listeners) for flight in self.puller.flights._flights.values())

    def downloading(self) -> bool:
        return any((self.root / "tmp").iterdir())

    def nothing_stayed(self) -> bool:
        places = ("blobs/sha256", "layers/sha256", "tmp")
        return not any(list((self.root / place).iterdir()) for place in places)


class Killed(BaseException):
    """The end of the process."""


def play(tmp_path: Path, story: Callable[[Bench], Awaitable[None]], *, auth: str = "none") -> None:
    async def main() -> None:
        async with FakeRegistry(auth).serving() as registry:
            await story(Bench(tmp_path / "images", registry))

    asyncio.run(main())


def test_an_image_arrives_whole_and_under_its_name_and_digest(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        digest = publish(bench.registry, "team/app", "1", FILES)
        (image,) = await bench.pull("team/app:1")
        name = f"{bench.registry.address}/team/app"
        assert image.repo_tags == (f"{name}:1",)
        assert image.repo_digests == (f"{name}@{digest}",)
        assert bench.content("team/app:1") == FILES
        assert bench.lines[0] == {"status": "Pulling from team/app", "id": "1"}
        assert bench.lines[-2] == {"status": f"Digest: {digest}"}
        assert bench.lines[-1] == {"status": f"Status: Downloaded newer image for {name}:1"}
        assert bench.statuses().count("Pull complete") == 3
        again = ImageStore(bench.root)
        assert again.resolve(f"{name}@{digest}").source_digest == digest
        bench.lines.clear()
        await bench.pull("team/app:1")
        assert bench.statuses().count("Already exists") == 3
        assert bench.lines[-1] == {"status": f"Status: Image is up to date for {name}:1"}

    play(tmp_path, story)


def test_a_broken_connection_is_resumed_where_it_broke(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        huge = os.urandom(8 << 20)  # more than a client buffers before it looks
        publish(bench.registry, "app", "1", {"big": huge})
        bench.registry.faults.cut_blobs = 3
        await bench.pull("app:1")
        assert bench.content("app:1") == {"big": huge}
        starts = [int(item.removeprefix("bytes=").rstrip("-")) for item in bench.registry.ranges]
        assert len(starts) == 3
        assert starts == sorted(starts)
        assert starts[0] > 0

    play(tmp_path, story)


def test_a_registry_without_ranges_sends_the_blob_again(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"big": BIG})
        bench.registry.faults.cut_blobs = 2
        bench.registry.faults.no_ranges = True
        await bench.pull("app:1")
        assert bench.content("app:1") == {"big": BIG}

    play(tmp_path, story)


def test_a_connection_that_always_breaks_ends_the_pull_with_nothing(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", FILES)
        bench.registry.faults.cut_blobs = 1000
        bench.registry.faults.no_ranges = True
        with pytest.raises(RegistryError, match="blob sha256:"):
            await bench.pull("app:1")
        assert bench.nothing_stayed()
        bench.registry.faults.cut_blobs = 0
        await bench.pull("app:1")
        assert bench.content("app:1") == FILES

    play(tmp_path, story)


def test_wrong_content_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"big": BIG})
        for (repository, digest), content in list(bench.registry.blobs.items()):
            if len(content) > 1000:
                bench.registry.blobs[repository, digest] = content[:-1] + b"?"
        with pytest.raises(RegistryError, match="verification failed for digest"):
            await bench.pull("app:1")
        assert bench.nothing_stayed()
        with pytest.raises(ImageNotFound):
            bench.content("app:1")

    play(tmp_path, story)


def test_a_layer_that_is_not_what_the_config_says_is_refused(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"f": b"1"})
        other, _ = layer("f", b"2")
        bench.registry.put_blob("app", other)
        raw = json.loads(bench.registry.manifests["app", "1"][1])
        raw["layers"] = [descriptor(LAYER, other)]
        bench.registry.put_manifest("app", "1", raw)
        with pytest.raises(RegistryError, match="has diff id"):
            await bench.pull("app:1")
        assert bench.nothing_stayed()

    play(tmp_path, story)


def test_more_bytes_than_announced_are_refused_at_once(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"big": BIG})
        raw = json.loads(bench.registry.manifests["app", "1"][1])
        raw["layers"][0]["size"] = 1000
        bench.registry.put_manifest("app", "1", raw)
        with pytest.raises(RegistryError, match="larger than the 1000 bytes announced"):
            await bench.pull("app:1")
        assert bench.nothing_stayed()

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b" " * (MANIFEST_MAX_BYTES + 1), "more than 4194304 bytes"),
        (b'{"schemaVersion": 1}', "schema version 1: only 2"),
        (b'{"schemaVersion": 2, "manifests": [], "layers": []}', "both an image and an index"),
        (b'{"schemaVersion": 2, "config": {}, "layers": []}', "unsupported digest"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, manifest: bytes, words: str) -> None:
    async def story(bench: Bench) -> None:
        bench.registry.put_manifest("app", "1", manifest)
        with pytest.raises(RegistryError, match=words):
            await bench.pull("app:1")

    play(tmp_path, story)


def test_a_manifest_asked_for_by_digest_must_have_it(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        digest = publish(bench.registry, "app", "1", {"f": b"1"})
        publish(bench.registry, "app", "2", {"f": b"2"})
        (image,) = await bench.pull(f"app@{digest}")
        assert image.repo_tags == ()
        assert image.repo_digests == (f"{bench.registry.address}/app@{digest}",)
        bench.registry.manifests["app", digest] = bench.registry.manifests["app", "2"]
        with pytest.raises(RegistryError, match="manifest verification failed"):
            await bench.pull(f"app@{digest}")

    play(tmp_path, story)


def test_an_index_gives_the_image_of_the_platform(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        here = host_platform().architecture
        entries = []
        for architecture in ("s390x", here):
            digest = publish(
                bench.registry, "app", architecture, {"arch": architecture.encode()},
                architecture=architecture,
            )  # fmt: skip
            raw = bench.registry.manifests["app", digest][1]
            entry = descriptor("application/vnd.docker.distribution.manifest.v2+json", raw)
            entries.append({**entry, "platform": {"os": "linux", "architecture": architecture}})
        index = {"schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": entries}
        top = bench.registry.put_manifest("app", "1", index, DOCKER_INDEX)
        await bench.pull("app:1")
        assert bench.content("app:1") == {"arch": here.encode()}
        (image,) = await bench.pull("app:1", platform=Platform("linux", "s390x"))
        assert bench.content("app:1") == {"arch": b"s390x"}
        assert image.repo_digests[0].endswith(top)
        with pytest.raises(RemoteNotFound, match="no matching manifest for linux/mips"):
            await bench.pull("app:1", platform=Platform("linux", "mips"))
        with pytest.raises(RemoteNotFound, match="does not match the specified platform"):
            await bench.pull("app:s390x", platform=Platform("linux", "mips"))

    play(tmp_path, story)


def test_all_tags_come_page_by_page(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        for tag in ("1", "2", "3"):
            publish(bench.registry, "app", tag, {"f": tag.encode()})
        assert len(await bench.pull("app", all_tags=True)) == 3
        assert bench.content("app:2") == {"f": b"2"}
        name = f"{bench.registry.address}/app"
        assert bench.lines[-1] == {"status": f"Status: Downloaded newer image for {name}"}

    play(tmp_path, story)


def test_a_missing_tag_is_told_in_dockers_words(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        words = "manifest for .*/none:9 not found: manifest unknown: manifest unknown"
        with pytest.raises(RemoteNotFound, match=words):
            await bench.pull("none:9")
        assert bench.lines == []

    play(tmp_path, story)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_credentials_open_a_closed_registry(tmp_path: Path, auth: str) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", FILES)
        with pytest.raises(Unauthorized):
            await bench.pull("app:1")
        with pytest.raises(Unauthorized):
            await bench.pull("app:1", Credentials("alice", "wrong"))
        await bench.pull("app:1", ALICE)
        assert bench.content("app:1") == FILES
        assert bench.registry.scopes in ([], [["repository:app:pull"]])

    play(tmp_path, story, auth=auth)


def test_an_identity_token_goes_to_the_named_server_alone(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", FILES)
        await bench.pull("app:1", Credentials(identity_token="identity"))
        assert bench.content("app:1") == FILES
        publish(bench.registry, "app", "2", FILES)
        bench.registry.token_moved_to = f"http://{bench.registry.address}/elsewhere"
        with pytest.raises(RegistryError, match="307"):
            await bench.pull("app:2", Credentials(identity_token="identity"))
        assert not any("/elsewhere" in path for path in bench.registry.requests)

    play(tmp_path, story, auth="bearer")


def test_a_token_that_expires_midway_is_renewed(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", FILES)
        bench.registry.gate = asyncio.Event()
        pulling = asyncio.ensure_future(bench.pull("app:1", ALICE))
        await bench.until(lambda: any("/blobs/" in path for path in bench.registry.requests))
        bench.registry.token = "token-2"
        bench.registry.gate.set()
        await pulling
        assert bench.content("app:1") == FILES
        assert len(bench.registry.scopes) == 2

    play(tmp_path, story, auth="bearer")


def test_a_registry_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"f": b"1"})
        bench.registry.faults.statuses = [503, 429, 502]
        bench.registry.faults.retry_after = "7"
        await bench.pull("app:1")
        assert bench.pauses == [7.0, 7.0, 7.0]
        bench.registry.faults.statuses = [500] * 10
        with pytest.raises(RegistryError, match="500 Internal Server Error"):
            await bench.pull("app:1")

    play(tmp_path, story)


def test_pulls_of_one_layer_share_it(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"base": BIG, "own": b"1"})
        publish(bench.registry, "app", "2", {"base": BIG, "own": b"2"})
        bench.registry.gate = asyncio.Event()
        pulls = [asyncio.ensure_future(bench.pull(f"app:{tag}")) for tag in "1212"]
        await bench.until(lambda: bench.statuses().count("Pulling fs layer") == 8)
        bench.registry.gate.set()
        await asyncio.gather(*pulls)
        assert bench.asked_for_big_blobs() == 1
        assert bench.content("app:2") == {"base": BIG, "own": b"2"}

    play(tmp_path, story)


def test_a_pull_that_leaves_does_not_take_the_others_layer(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"base": BIG})
        bench.registry.gate = asyncio.Event()
        leaving = asyncio.ensure_future(bench.pull("app:1"))
        staying = asyncio.ensure_future(bench.pull("app:1"))
        await bench.until(lambda: bench.sharing() == 2)
        leaving.cancel()
        await asyncio.wait([leaving])
        bench.registry.gate.set()
        await staying
        assert bench.content("app:1") == {"base": BIG}
        assert bench.asked_for_big_blobs() == 1

    play(tmp_path, story)


def test_a_cancelled_pull_leaves_nothing(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"base": BIG})
        bench.registry.gate = asyncio.Event()
        pulling = asyncio.ensure_future(bench.pull("app:1"))
        await bench.until(bench.downloading)
        pulling.cancel()
        await asyncio.wait([pulling])
        assert bench.nothing_stayed()

    play(tmp_path, story)


def test_a_full_disk_ends_the_pull_with_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"base": BIG})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(DiskFull, match="no space left on device"):
                await bench.pull("app:1")
        assert bench.nothing_stayed()
        await bench.pull("app:1")
        assert bench.content("app:1") == {"base": BIG}

    play(tmp_path, story)


def test_a_mirror_is_asked_first_and_never_given_credentials(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "library/app", "1", {"f": b"1"})
        settings = RegistrySettings(mirrors=(f"http://{bench.registry.address}",))
        puller = Puller(bench.store, settings, bench._pause)
        (image,) = await puller.pull(parse("app:1"))
        assert image.repo_tags == ("app:1",)
        mirror = endpoints("docker.io", settings)[0]
        bench.registry.auth = "basic"
        async with Transport(mirror, ALICE, bench._pause) as transport:
            with pytest.raises(Unauthorized, match="no basic auth credentials"):
                await Repository(transport, "library/app").manifest("1")

    play(tmp_path, story)


def test_an_image_config_over_the_limit_is_refused(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"f": b"1"})
        raw = json.loads(bench.registry.manifests["app", "1"][1])
        raw["config"] = {**descriptor(CONFIG, b"x"), "size": 1 << 30}
        bench.registry.put_manifest("app", "1", raw)
        with pytest.raises(RegistryError, match="1073741824 bytes, more than"):
            await bench.pull("app:1")

    play(tmp_path, story)


def test_gzip_members_and_padding_are_one_layer(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"big": BIG})
        blob, _ = layer("big", BIG)
        plain = gzip.decompress(blob)
        parts = gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]) + bytes(64)
        bench.registry.put_blob("app", parts)
        raw = json.loads(bench.registry.manifests["app", "1"][1])
        raw["layers"] = [descriptor(LAYER, parts)]
        bench.registry.put_manifest("app", "1", raw)
        await bench.pull("app:1")
        assert bench.content("app:1") == {"big": BIG}

    play(tmp_path, story)


def test_a_registry_that_does_not_listen_is_not_waited_for(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        async with FakeRegistry().serving() as gone:
            address = gone.address
        with pytest.raises(RegistryError, match=f"GET http://{address}/v2/"):
            await bench.puller.pull(parse(f"{address}/app:1"))
        settings = RegistrySettings(mirrors=(f"http://{address}",))
        (mirror, _) = endpoints("docker.io", settings)
        async with Transport(mirror, NOBODY, bench._pause) as transport:
            with pytest.raises(RegistryError, match="manifests/1"):
                await Repository(transport, "library/app").manifest("1")
        assert bench.pauses == []

    play(tmp_path, story)


def test_what_a_killed_pull_left_goes_away_when_the_store_opens(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"f": b"1"})
        publish(bench.registry, "app", "2", {"f": b"2"})
        await bench.pull("app:1")
        before = sorted(path.name for path in bench.root.rglob("*"))
        bench.store.put_image = killed  # type: ignore[method-assign]  # power is cut here
        bench.store.release = lambda names: None  # type: ignore[method-assign]
        with pytest.raises(Killed):
            await bench.pull("app:2")
        (bench.root / "tmp/blob-half").write_bytes(b"half")
        assert sorted(path.name for path in bench.root.rglob("*")) != before
        bench.store = ImageStore(bench.root)
        assert sorted(path.name for path in bench.root.rglob("*")) == before
        assert bench.content("app:1") == {"f": b"1"}

    def killed(*_: Any, **__: Any) -> Image:
        raise Killed

    play(tmp_path, story)


def test_a_removal_meanwhile_leaves_the_layers_of_a_pull(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"first": b"1", "big": BIG})
        publish(bench.registry, "other", "1", {"f": b"2"})
        (other,) = await bench.pull("other:1")
        bench.lines.clear()
        bench.registry.gate = asyncio.Event()
        pulling = asyncio.ensure_future(bench.pull("app:1"))
        await bench.until(lambda: "Pull complete" in bench.statuses())
        bench.store.remove(other.id, in_use=lambda _: [])
        bench.registry.gate.set()
        await pulling
        assert bench.content("app:1") == {"first": b"1", "big": BIG}

    play(tmp_path, story)


def test_a_config_without_its_digest_is_refused(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"f": b"1"})
        digest = json.loads(bench.registry.manifests["app", "1"][1])["config"]["digest"]
        bench.registry.blobs["app", digest] += b" "
        with pytest.raises(RegistryError, match="config verification failed"):
            await bench.pull("app:1")
        assert bench.nothing_stayed()

    play(tmp_path, story)


def test_a_password_is_not_sent_in_the_clear_for_a_registry_that_is_verified(
    tmp_path: Path,
) -> None:
    async def story(bench: Bench) -> None:
        publish(bench.registry, "app", "1", {"f": b"1"})
        verified = Endpoint(bench.registry.address, ("http",), verify=True)
        async with Transport(verified, ALICE, bench._pause) as transport:
            with pytest.raises(RegistryError, match="in the clear"):
                await Repository(transport, "app").manifest("1")

    play(tmp_path, story, auth="bearer")
