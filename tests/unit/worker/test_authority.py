"""The door of the API over real TLS and a real unix socket: who gets in, and as what."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from swarmapi.access import ApiRole
from swarmapi.errors import Unauthenticated
from swarmapi.identity import TLSMaterial
from swarmapi.query import add_routes, runner_of
from swarmapi.ratelimit import MOST
from tests.fakes.pki import CertificateAuthority
from tests.hostile import Mark, Port, attack
from worker.api.app import build_app
from worker.api.callers import CALLER, Callers
from worker.listening import Endpoint, TlsFiles, TlsSplice, listen
from worker.main import Listeners
from worker.strangers import Strangers

TOKEN = "SWMAPI-1-known"


async def whoami(request: web.Request) -> web.StreamResponse:
    caller = request[CALLER]
    body = (await request.read()).decode()
    return web.json_response(
        {"by": caller.by, "name": caller.name, "role": caller.role.word, "body": body}
    )


async def check_token(token: str) -> tuple[str, ApiRole]:
    if token != TOKEN:
        raise Unauthenticated("no such token")
    return "ci", ApiRole.VIEWER


@dataclass
class Door:
    """One served API: its authority, its files and its addresses."""

    authority: CertificateAuthority
    place: Path
    port: int = 0

    def write(self, name: str, pem: bytes) -> str:
        """Replace a file at once, as a careful writer does."""
        path = self.place / name
        (self.place / "new").write_bytes(pem)
        os.replace(self.place / "new", path)
        return str(path)

    async def ask(
        self,
        shown: TLSMaterial | None,
        method: str = "GET",
        path: str = "/services",
        token: str = "",
        body: str = "",
    ) -> tuple[int, Any]:
        """Return status and JSON of an answer; raises ClientError where TLS is refused."""
        context = ssl.create_default_context(cadata=self.authority.ca_pem.decode())
        if shown is not None:
            (self.place / "client.pem").write_bytes(shown.cert_pem + shown.key_pem)
            context.load_cert_chain(self.place / "client.pem")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as client,
            client.request(
                method,
                f"https://localhost:{self.port}{path}",
                headers=headers,
                data=body or None,
            ) as answer,
        ):
            return answer.status, await answer.json(content_type=None)


@asynccontextmanager
async def served(
    place: Path, default: ApiRole | None, strangers: Strangers, stranger_s: float
) -> AsyncIterator[Door]:
    authority = CertificateAuthority()
    door = Door(authority, place)
    server = authority.client("localhost")
    ca, cert = door.write("ca", authority.ca_pem), door.write("cert", server.cert_pem)
    key, crl = door.write("key", server.key_pem), door.write("crl", authority.revoke())
    callers = Callers(default, check_token)
    paths = ("/services", "/services/{id}/update", "/swarm/unlockkey", "/volumes/create")
    app = build_app(
        cast(Any, None),
        cluster_routes=lambda app: add_routes(app, [("*", path, whoami) for path in paths]),
        callers=callers,
        audit_directory=place / "audit",
    )
    runner = runner_of(app, 1.0)
    await runner.setup()
    listeners = Listeners(cast(Any, None), runner, callers)
    splice = TlsSplice(
        TlsFiles(ca, cert, key, crl).now,
        listeners._serve,
        strangers=strangers,
        stranger_s=stranger_s,
    )
    listener = listen(Endpoint("tcp", "127.0.0.1", 0))
    door.port = listener.getsockname()[1]
    await splice.start(listener)
    await web.SockSite(runner, listen(Endpoint("unix", str(place / "sock")))).start()
    try:
        yield door
    finally:
        await splice.close()
        await runner.cleanup()


def play(
    place: Path,
    story: Callable[[Door], Awaitable[None]],
    default: ApiRole | None = ApiRole.OPERATOR,
    strangers: Strangers | None = None,
    stranger_s: float = 60.0,
) -> None:
    async def main() -> None:
        async with served(place, default, strangers or Strangers(), stranger_s) as door:
            await asyncio.wait_for(story(door), 20)

    asyncio.run(main())


def test_a_certificate_says_who_and_as_what(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        for unit, role in (("swarm-viewer", "viewer"), ("swarm-deployer", "deployer"),
                           ("", "operator"), ("swarm-operator", "operator")):  # fmt: skip
            status, told = await door.ask(door.authority.client("alice", unit))
            assert (status, told["by"], told["name"]) == (200, "certificate", "alice")
            assert told["role"] == role
        status, told = await door.ask(door.authority.client("node7", "swarm-manager"))
        assert (status, "names no role" in told["message"]) == (403, True)

    play(tmp_path, story)


def test_each_role_gets_as_far_as_it_may(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        asked = (
            ("GET", "/services", ""),
            ("POST", "/v1.50/volumes/create", "{}"),
            ("POST", "/volumes/create", '{"DriverOpts":{"o":"bind"}}'),
            ("GET", "/swarm/unlockkey", ""),
        )
        for unit, wanted in (
            ("swarm-viewer", [200, 403, 403, 403]),
            ("swarm-deployer", [200, 200, 403, 403]),
            ("swarm-operator", [200, 200, 200, 200]),
        ):
            shown = door.authority.client("alice", unit)
            answers = [await door.ask(shown, m, path, body=body) for m, path, body in asked]
            assert [status for status, _ in answers] == wanted
            for status, told in answers:
                assert status == 200 or "needs the role" in told["message"]
        shown = door.authority.client("alice", "swarm-deployer")
        status, told = await door.ask(shown, "POST", "/volumes/create", body='{"Name":"v"}')
        assert (status, told["body"]) == (200, '{"Name":"v"}'), "what was looked into is handed on"

    play(tmp_path, story)


def test_a_certificate_without_a_role_may_be_nobodys(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        assert (await door.ask(door.authority.client("alice")))[0] == 403
        assert (await door.ask(door.authority.client("alice", "swarm-viewer")))[0] == 200

    play(tmp_path, story, None)


def test_a_token_counts_without_a_certificate_and_before_one(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        status, told = await door.ask(None, token=TOKEN)
        assert (status, told["by"], told["name"], told["role"]) == (200, "token", "ci", "viewer")
        operator = door.authority.client("alice", "swarm-operator")
        assert (await door.ask(operator, token=TOKEN))[1]["role"] == "viewer"
        for token in ("", "SWMAPI-1-wrong", "known"):
            assert (await door.ask(None, token=token))[0] == 401
        assert (await door.ask(operator, token="SWMAPI-1-wrong"))[0] == 401

    play(tmp_path, story)


def test_who_has_shown_nothing_finds_a_bounded_number_of_places(tmp_path: Path) -> None:
    strangers = Strangers(most=9, most_of_source=2)

    async def story(door: Door) -> None:
        token = {"Authorization": f"Bearer {TOKEN}"}
        context = ssl.create_default_context(cadata=door.authority.ca_pem.decode())
        url = f"https://localhost:{door.port}/services"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as kept:
            async with kept.get(url, headers=token) as answer:
                assert answer.status == 200
            silent = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(2)]
            await _until(lambda: bool(strangers.refusal("127.0.0.1")))
            with pytest.raises(aiohttp.ClientError):
                await door.ask(door.authority.client("alice", "swarm-viewer"))
            async with kept.get(url, headers=token) as answer:
                assert answer.status == 200, "who has shown a token stays"
            silent[0][1].close()
            await _until(lambda: not strangers.refusal("127.0.0.1"))
            for _ in range(3):
                assert (await door.ask(door.authority.client("alice", "swarm-viewer")))[0] == 200
            silent[1][1].close()
        await _until(lambda: not strangers._count)
        assert not strangers._of

    play(tmp_path, story, strangers=strangers)


def test_who_shows_nothing_is_sent_away_and_who_does_may_stay(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        context = ssl.create_default_context(cadata=door.authority.ca_pem.decode())
        reader, writer = await asyncio.open_connection("localhost", door.port, ssl=context)
        other, shows = await asyncio.open_connection("localhost", door.port, ssl=context)
        asked = f"GET /services HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        shows.write(asked.encode())
        assert b" 200 " in await other.readline()
        assert await reader.read() == b""
        shows.write(asked.encode())
        while b" 200 " not in (line := await other.readline()):
            assert line, "its connection was closed"
        writer.close()
        shows.close()

    play(tmp_path, story, stranger_s=1.0)


def test_one_source_of_strangers_leaves_others_room() -> None:
    strangers = Strangers(most=3, most_of_source=2)
    strangers.came("a")
    strangers.came("a")
    assert "2 connections of its address" in strangers.refusal("a")
    assert strangers.refusal("b") == ""
    strangers.came("b")
    assert strangers.refusal("c") == "3 connections have shown nothing yet"
    strangers.went("a")
    assert strangers.refusal("a") == strangers.refusal("c") == ""


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_strangers_of_one_ipv6_network_are_one_source(first: str, second: str, same: bool) -> None:
    strangers = Strangers(most_of_source=1)
    strangers.came(first)
    assert bool(strangers.refusal(second)) == same
    strangers.went(first)
    assert not strangers._of


@pytest.mark.parametrize("which", ["expired", "foreign", "revoked"])
def test_a_certificate_that_is_none_ends_in_the_handshake(tmp_path: Path, which: str) -> None:
    async def story(door: Door) -> None:
        good = door.authority.client("alice", "swarm-operator")
        assert (await door.ask(good))[0] == 200
        bad = {
            "expired": door.authority.client("alice", "swarm-operator", age_h=30),
            "foreign": CertificateAuthority().client("alice", "swarm-operator"),
            "revoked": good,
        }[which]
        other = door.authority.client("bob")
        if which == "revoked":
            door.write("crl", door.authority.revoke(good.cert_pem))
        for token in ("", TOKEN):
            with pytest.raises(aiohttp.ClientError):
                await door.ask(bad, token=token)
        assert (await door.ask(other))[0] == 200
        door.write("crl", b"torn")
        assert (await door.ask(other))[0] == 200, "the list as it was goes on"
        if which == "revoked":
            with pytest.raises(aiohttp.ClientError):
                await door.ask(bad)

    play(tmp_path, story)


def test_who_opens_the_unix_socket_is_an_operator_and_is_named(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        connector = aiohttp.UnixConnector(str(tmp_path / "sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.get("http://swarm/swarm/unlockkey") as answer,
        ):
            told = await answer.json()
        assert (told["by"], told["name"], told["role"]) == (
            "socket",
            f"uid {os.getuid()}",
            "operator",
        )

    play(tmp_path, story)


def test_calls_are_written_down_with_who_made_them(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        viewer = door.authority.client("vera", "swarm-viewer")
        operator = door.authority.client("olaf", "swarm-operator")
        await door.ask(viewer, "GET", "/services")
        await door.ask(viewer, "POST", "/v1.50/volumes/create", body="{}")
        await door.ask(operator, "POST", "/volumes/create", body='{"Data":"hunter2"}')
        await door.ask(operator, "GET", "/swarm/unlockkey")
        await door.ask(operator, "POST", "/services/web/update?version=hunter2", body="hunter2")
        await door.ask(None, "GET", "/services", token="SWMAPI-1-hunter2")
        await door.ask(None, "POST", "/swarm/unlockkey", token=TOKEN)
        raw = (tmp_path / "audit" / "engine.log").read_text()
        assert "hunter2" not in raw, "bodies, queries and tokens are not written down"
        entries = [json.loads(line) for line in raw.splitlines()]
        told = [(e["By"], e["Who"], e["Role"], e["Object"], e["Status"]) for e in entries]
        assert told == [
            ("certificate", "vera", "viewer", "", 403),
            ("certificate", "olaf", "operator", "", 200),
            ("certificate", "olaf", "operator", "", 200),
            ("certificate", "olaf", "operator", "web", 200),
            ("", "", "", "", 401),
            ("token", "ci", "viewer", "", 403),
        ]
        assert [e["Outcome"] for e in entries] == ["refused", *["done"] * 3, *["refused"] * 2]
        assert all(e["Peer"].startswith("127.0.0.1:") for e in entries)
        assert len({e["RequestId"] for e in entries}) == 6
        status, told = await door.ask(viewer, "GET", "/swarm/v1/audit")
        assert status == 403
        since = entries[3]["TimeNs"] / 1e9 - 1e-6
        filters = '{"who":["olaf"],"object":["web"]}'
        path = f"/swarm/v1/audit?since={since:.9f}&filters={filters}"
        assert (await door.ask(operator, path=path))[1]["Object"] == "web"

    play(tmp_path, story)


def test_a_followed_log_goes_on(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        connector = aiohttp.UnixConnector(str(tmp_path / "sock"))
        async with (
            aiohttp.ClientSession("http://swarm", connector=connector) as client,
            client.get("/swarm/v1/audit?follow=1") as answer,
        ):
            for name in ("one", "two"):
                async with client.post(f"/services/{name}/update"):
                    found = json.loads(await answer.content.readline())
                assert (found["Object"], found["By"], found["Uid"]) == (name, "socket", os.getuid())
                assert found["Pid"] == os.getpid()

    play(tmp_path, story)


def test_hundreds_of_tries_open_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mark = Mark(tmp_path / "mark")

    async def story(door: Door) -> None:
        bad = {
            "expired": door.authority.client("alice", "swarm-operator", age_h=30),
            "foreign": CertificateAuthority().client("alice", "swarm-operator"),
            "revoked": door.authority.client("alice", "swarm-operator"),
        }
        door.write("crl", door.authority.revoke(bad["revoked"].cert_pem))
        wrong = "SWMAPI-1-wrong"
        port = Port("127.0.0.1", door.port, "localhost", bad, answers_nobody=True, token=wrong)
        kinds = {await asyncio.to_thread(attack, port, number, mark) for number in range(200)}
        assert {"plaintext", "pickle", "nobody", *bad} <= kinds
        assert (await door.ask(door.authority.client("olaf", "swarm-operator")))[0] == 200

    play(tmp_path, story)
    told = [line for line in caplog.messages if line.startswith("TLS from 127.0.0.1:")]
    assert 0 < len(told) <= MOST
    refused = (tmp_path / "audit" / "engine.log").read_text().splitlines()
    told_of = [json.loads(line) for line in refused]
    assert {one["Status"] for one in told_of} == {401}
    assert len(refused) <= MOST + 1, "strangers do not turn the log over"
    assert sum(one["More"] for one in told_of[:-1]) == 0
    assert told_of[-1]["More"] > 0, "how many more there were is told at the end"


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - counters wake nobody
            await asyncio.sleep(0.005)
