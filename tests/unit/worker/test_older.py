"""Differences of API versions, by the version that brought them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from runtime.image.store import ImageStore
from swarmapi.errors import InvalidArgument
from tests.fakes.engine import FakeClock, FakeNetworking, FakeSupervisor
from worker.api import older
from worker.api.app import build_app
from worker.api.version import spoken_with
from worker.engine.engine import Engine, EngineParts

IMAGE: dict[str, Any] = {"Id": "sha256:1", "RepoTags": [], "RepoDigests": [], "Size": 7}
DETAILS: dict[str, Any] = {**IMAGE, "Config": {"Cmd": ["x"], "Hostname": "h", "Tty": False}}


def test_images_without_a_name() -> None:
    assert older.image_summary(IMAGE, 43)["RepoTags"] == []
    shown = older.image_summary(IMAGE, 42)
    assert (shown["RepoTags"], shown["RepoDigests"]) == (["<none>:<none>"], ["<none>@<none>"])
    named = older.image_summary({**IMAGE, "RepoTags": ["a:1"]}, 41)
    assert (named["RepoTags"], named["RepoDigests"]) == (["a:1"], [])


@pytest.mark.parametrize(("minor", "has"), [(41, True), (43, True), (44, False), (50, False)])
def test_virtual_size_went_with_44(minor: int, has: bool) -> None:
    assert older.image_summary(IMAGE, minor).get("VirtualSize") == (7 if has else None)
    assert older.image_details(DETAILS, minor).get("VirtualSize") == (7 if has else None)


def test_an_images_config_is_its_own_from_50_on() -> None:
    assert older.image_details(DETAILS, 50)["Config"] == {"Cmd": ["x"]}
    config = older.image_details(DETAILS, 49)["Config"]
    assert config["Cmd"] == ["x"]
    assert config["AttachStdin"] is False
    assert config["Image"] == config["Hostname"] == ""
    assert "ContainerConfig" in older.image_details(DETAILS, 44)
    assert "ContainerConfig" not in older.image_details(DETAILS, 45)


def test_endpoints() -> None:
    endpoint = {"Aliases": ["db"], "DNSNames": ["c", "db", "0123456789ab"], "GwPriority": 0}
    details = {"Id": "0123456789abcdef", "NetworkSettings": {"Networks": {"n": endpoint}}}

    def at(minor: int) -> dict[str, Any]:
        found: dict[str, Any] = older.container(details, minor)["NetworkSettings"]["Networks"]["n"]
        return found

    assert at(50) == endpoint
    assert set(at(47)) == {"Aliases", "DNSNames"}
    assert at(44)["Aliases"] == ["db", "0123456789ab"]
    assert at(45)["Aliases"] == ["db"]
    assert set(at(43)) == {"Aliases"}
    assert endpoint["Aliases"] == ["db"]


def test_networks_say_that_they_have_ipv4_from_48_on() -> None:
    details = {"Name": "n", "EnableIPv4": True}
    assert older.network(details, 48) == details
    assert older.network(details, 47) == {"Name": "n"}


@pytest.mark.parametrize(
    ("prefix", "status", "words"),
    [
        ("", 200, ""),
        ("/v1.50", 200, ""),
        ("/v1.24", 200, ""),
        ("/v1.51", 400, "client version 1.51 is too new. Maximum supported API version is 1.50"),
        ("/v2.0", 400, "client version 2.0 is too new. Maximum supported API version is 1.50"),
        ("/v1.23", 400, "client version 1.23 is too old. Minimum supported API version is 1.24"),
        ("/v1.123456789123456789", 400, "too new"),
        ("/vx", 404, "page not found"),
    ],
)
def test_versions_are_negotiated(tmp_path: Path, prefix: str, status: int, words: str) -> None:
    async def main() -> None:
        parts = EngineParts(
            data_root=tmp_path,
            supervisor=FakeSupervisor(),
            networking=FakeNetworking(),
            images=ImageStore(tmp_path / "images"),
            clock=FakeClock(),
        )
        async with TestClient(TestServer(build_app(Engine(parts)))) as client:
            answer = await client.get(prefix + "/images/json")
            assert answer.status == status
            assert words in await answer.text()
            assert answer.headers["Api-Version"] == "1.50"
            assert answer.headers["Content-Type"] == "application/json"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("agent", "named"),
    [
        ("docker-compose/1.29.2 docker-py/5.0.3 Linux/6.1", "1.41"),
        ("docker-sdk-python/7.1.0", "1.50"),
        ("", "1.50"),
    ],
)
def test_compose_v1_takes_the_version_it_is_told(agent: str, named: str) -> None:
    request = make_mocked_request("GET", "/version", {"User-Agent": agent})
    assert spoken_with(request) == named


@pytest.mark.parametrize(
    ("key", "since", "value", "before"),
    [
        ("IpcMode", 40, "", "shareable"),
        ("CgroupnsMode", 41, "", "host"),
        ("ConsoleSize", 42, [1, 2], None),
        ("Annotations", 43, {"a": "b"}, None),
    ],
)
def test_a_create_means_what_its_version_knew(
    key: str, since: int, value: object, before: object
) -> None:
    body = {"Image": "x", "HostConfig": {key: value}}
    assert older.creation(body, since)["HostConfig"].get(key) == value
    assert older.creation(body, since - 1)["HostConfig"].get(key) == before
    assert body["HostConfig"] == {key: value}


def test_options_of_a_mount_by_the_version_that_brought_them() -> None:
    def at(minor: int, **mount: object) -> dict[str, Any]:
        body = {"HostConfig": {"Mounts": [mount]}}
        found: dict[str, Any] = older.creation(body, minor)["HostConfig"]["Mounts"][0]
        return found

    bind = {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}
    assert at(44, **bind) == bind
    assert at(43, **bind)["BindOptions"] == {"ReadOnlyNonRecursive": True}
    memory = {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Mode": 7, "Options": [["exec"]]}}
    assert at(46, **memory) == memory
    assert at(45, **memory)["TmpfsOptions"] == {"Mode": 7}
    part = {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {"Subpath": "d"}}
    assert at(45, **part) == part
    with pytest.raises(InvalidArgument, match=r"Subpath needs API v1\.45 or newer"):
        at(44, **part)


def test_a_health_check_starts_slowly_before_44() -> None:
    body = {"HostConfig": {}, "Healthcheck": {"Test": ["NONE"], "StartInterval": 5}}
    assert older.creation(body, 44) == body
    assert older.creation(body, 43)["Healthcheck"] == {"Test": ["NONE"]}
    assert older.creation({"HostConfig": None}, 24) == {"HostConfig": None}
