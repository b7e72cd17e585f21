"""The pure parts of the registry client: endpoints, challenges, platforms, progress."""

import asyncio
import socket

import pytest

from runtime.image import blobs as oci
from runtime.image.registry.auth import Credentials, challenges, credentials_of, token_query
from runtime.image.registry.endpoint import (
    HUB_HOST,
    BadRegistry,
    RegistrySettings,
    endpoints,
    is_insecure,
    login_host,
)
from runtime.image.registry.errors import NoSearch, RegistryError
from runtime.image.registry.flights import Flights
from runtime.image.registry.manifest import decode, normal, parse_platform, suits
from runtime.image.registry.nearby import by_address
from runtime.image.registry.progress import bar, human
from runtime.image.registry.search import place, search
from runtime.image.registry.transport import error_words
from tests.fakes.registry import FakeRegistry


def test_docker_hub_is_asked_behind_its_mirrors_but_pushed_to_directly() -> None:
    settings = RegistrySettings(mirrors=("https://near.example/hub/", "http://127.0.0.1:5000"))
    near, local, hub = endpoints("docker.io", settings)
    assert near.url("https", "/v2/") == "https://near.example/hub/v2/"
    assert near.verify
    assert local.schemes == ("http",)
    assert (hub.host, hub.schemes, hub.verify) == (HUB_HOST, ("https",), True)
    assert [item.host for item in endpoints("docker.io", settings, push=True)] == [HUB_HOST]
    assert [item.host for item in endpoints("r.example", settings)] == ["r.example"]


@pytest.mark.parametrize(
    ("host", "insecure"),
    [
        ("127.0.0.1:5000", True),
        ("localhost:5000", True),
        ("[::1]:5000", True),
        ("10.1.2.3:5000", True),
        ("10.2.2.3:5000", False),
        ("plain.example", True),
        ("plain.example:99", True),
        ("ported.example:99", True),
        ("ported.example:98", False),
        ("r.example", False),
    ],
)
def test_only_loopback_and_what_is_named_is_asked_insecurely(host: str, insecure: bool) -> None:
    named = ("10.1.0.0/16", "plain.example", "ported.example:99")
    assert is_insecure(host, RegistrySettings(insecure=named)) is insecure


@pytest.mark.parametrize(
    ("host", "insecure"),
    [("localnode.test:5000", True), ("faraway.test", False), ("nobody.test", False)],
)
def test_a_name_is_as_insecure_as_its_address(
    host: str, insecure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = {"localnode.test": "10.1.7.7", "faraway.test": "192.0.2.1"}

    def resolve(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name not in addresses:
            raise socket.gaierror("unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[name], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    settings = RegistrySettings(insecure=("10.1.0.0/16",))
    found = asyncio.run(by_address(host, settings))
    assert (is_insecure(host, found), found == settings) == (insecure, not insecure)


@pytest.mark.parametrize(
    "settings",
    [
        {"mirrors": ("near.example",)},
        {"mirrors": ("ftp://near.example",)},
        {"mirrors": ("https://u:p@near.example",)},
        {"insecure": ("http://near.example",)},
        {"insecure": ("10.0.0.0/33",)},
        {"insecure": ("",)},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(BadRegistry):
        RegistrySettings(**settings)


def test_login_addresses() -> None:
    assert login_host("https://index.docker.io/v1/") == HUB_HOST
    assert login_host("") == HUB_HOST
    assert login_host("https://r.example:5000/v2/") == "r.example:5000"
    assert login_host("127.0.0.1:5001") == "127.0.0.1:5001"


def test_challenges_are_read_as_the_rfc_allows_them() -> None:
    both = 'Basic realm="a, b", Bearer realm="https://t.example/x",service="s",scope="a b"'
    basic, bearer = challenges([both])
    assert (basic.scheme, basic.parameters) == ("basic", {"realm": "a, b"})
    assert bearer.parameters["scope"] == "a b"
    assert challenges(['Bearer Realm="q\\"q"'])[0].parameters == {"realm": 'q"q'}
    assert challenges(["", "Negotiate"])[0].scheme == "negotiate"
    query = token_query(bearer, ("repository:x:pull", "a"), "me")
    assert query == "service=s&scope=repository%3Ax%3Apull&scope=a&scope=b&account=me"


def test_credentials_come_in_dockers_spellings_and_hide_their_secret() -> None:
    assert credentials_of({"auth": "YWxpY2U6czpl"}) == Credentials("alice", "s:e")
    assert credentials_of({}) == Credentials()
    assert "sekret" not in repr(Credentials("alice", "sekret"))
    for wrong in ({"auth": "!"}, {"auth": "YWxpY2U="}, {"username": 5}):
        with pytest.raises(ValueError):
            credentials_of(wrong)


def test_platforms() -> None:
    assert str(parse_platform("linux/arm64/v8")) == "linux/arm64"
    assert str(parse_platform("x86_64")) == "linux/amd64"
    assert suits(normal("linux", "arm", "v7"), parse_platform("linux/arm"))
    assert not suits(normal("linux", "arm", "v6"), parse_platform("linux/arm/v7"))
    assert suits(normal("linux", "s390x", ""), parse_platform("linux"))
    for wrong in ("", "a/b/c/d", "linux/am d64"):
        with pytest.raises(ValueError):
            parse_platform(wrong)


def test_a_manifest_may_not_be_two_things() -> None:
    raw = oci.encode({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": []})
    with pytest.raises(RegistryError, match="calls itself"):
        decode(raw, oci.MANIFEST)
    artifact = {"mediaType": "application/x.chart", "digest": oci.digest_of(b""), "size": 0}
    raw = oci.encode({"schemaVersion": 2, "config": artifact, "layers": []})
    with pytest.raises(RegistryError, match="not an image"):
        decode(raw, oci.MANIFEST)
    huge = oci.encode({"schemaVersion": 2, "config": artifact, "layers": [{}] * 600})
    with pytest.raises(RegistryError, match="600 layers"):
        decode(huge, oci.MANIFEST)


def test_progress_in_words() -> None:
    assert human(999) == "999B"
    assert human(45_300_000) == "45.3MB"
    assert bar(0, 0) == "0B"
    assert bar(50, 100) == f"[{'=' * 25}>{' ' * 24}]  50B/100B"
    assert bar(100, 100) == f"[{'=' * 50}]  100B/100B"


def test_a_registrys_errors_in_words() -> None:
    text = '{"errors":[{"code":"DENIED","message":"no"},{"code":"X_Y"}]}'
    assert error_words(text) == "denied: no; x y: x y"
    assert error_words("<html>") == ""
    assert error_words('{"errors":[5]}') == ""


async def _search_both_ways() -> None:
    async with FakeRegistry().serving() as registry:
        with pytest.raises(NoSearch, match="has no search"):
            await search(f"{registry.address}/box", 5, RegistrySettings())
        registry.has_search = True
        (row,) = await search(f"{registry.address}/box", 1, RegistrySettings())
        assert (row["name"], row["star_count"], row["is_official"]) == ("box", 7, False)


def test_search_is_refused_where_there_is_none() -> None:
    asyncio.run(_search_both_ways())
    endpoint, words = asyncio.run(place("library/box", RegistrySettings()))
    assert (endpoint.host, words) == ("index.docker.io", "box")


async def _a_failure_is_not_shared() -> None:
    flights: Flights[str] = Flights()
    go = asyncio.Event()

    async def fails(report: object) -> str:
        await go.wait()
        raise RegistryError("theirs")

    async def works(report: object) -> str:
        return "ours"

    first = asyncio.ensure_future(flights.join("k", fails, lambda *_: None))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(flights.join("k", works, lambda *_: None))
    await asyncio.sleep(0)
    go.set()
    assert await second == "ours"
    with pytest.raises(RegistryError):
        await first


def test_who_joined_a_flight_that_failed_tries_its_own() -> None:
    asyncio.run(_a_failure_is_not_shared())
