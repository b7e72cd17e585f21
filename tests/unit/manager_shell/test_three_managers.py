"""Three managers with their real logs on loopback: joining, forwarding, losing the leader."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import msgspec
import pytest

from manager.bootstrap import load_founding, prepare_first
from manager.ca.certificates import new_request
from manager.config import InitConfig, Paths, RunConfig
from manager.keys import load_keyring, load_tls
from manager.logbroker.tails import Tails
from manager.raft.journal import Corrupt
from manager.raftlog import EXIT_ANEW, RaftLog, open_log
from manager.returning import Aside
from manager.server import Manager
from swarmapi.identity import JOIN_SERVER_NAME, LiveTLS, TLSMaterial, expect
from swarmapi.ids import new_id
from swarmapi.v1 import ca_pb2, ca_pb2_grpc
from tests.unit.manager_shell.wire import Agent

stubs: Any = ca_pb2_grpc


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Place:
    """One manager's directories and address; may run several times."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(root / "s", root / "r")
        self.address = free_address()
        self.join = ""
        self.manager: Manager | None = None

    @property
    def node_id(self) -> str:
        return self.tls.identity.node_id

    @property
    def tls(self) -> TLSMaterial:
        return load_tls(self.paths, load_keyring(self.paths))

    async def start(self, *known: str) -> None:
        tls, founding = LiveTLS(self.tls), load_founding(self.paths, load_keyring(self.paths))
        config = RunConfig(
            self.paths, self.node_id, self.address, self.address, self.join, known=known
        )
        self.manager = Manager(
            config,
            tls,
            lambda replica: open_log(
                config, tls, replica, load_keyring(self.paths), first=founding is not None
            ),
            lambda: new_id(os.urandom),
            founding,
        )
        await self.manager.start()

    async def stop(self) -> None:
        if self.manager is not None:
            await self.manager.stop()
            self.manager = None

    async def rest(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(str(self.paths.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://manager{path}", json=body) as response,
        ):
            text = await response.text()
            return response.status, await response.json() if text else None

    async def until(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """Ask until the answer holds what is wanted."""
        while True:
            status, body = await self.rest("GET", path)
            if status == 200 and holds(body):
                return body
            await asyncio.sleep(0.02)

    async def knows(self, task_id: str) -> None:
        """Wait until this manager itself knows a task."""
        assert self.manager is not None
        view, told = self.manager.store.view, asyncio.Event()
        self.manager.store.replica.subscribe(lambda applied: told.set())
        while task_id not in view.tasks:
            told.clear()
            await told.wait()

    async def enter(self, through: "Place", token: str) -> None:
        """Obtain a manager's certificate with a token."""
        key_pem, csr_pem = new_request()
        request = ca_pb2.IssueRequest(csr_pem=csr_pem, join_token=token, address=self.address)
        ca_pem = through.tls.ca_pem
        async with grpc.aio.secure_channel(
            through.address,
            grpc.ssl_channel_credentials(ca_pem),
            options=[expect(JOIN_SERVER_NAME)],
        ) as channel:
            reply = await stubs.CertificateAuthorityStub(channel).IssueCertificate(request)
        self.paths.state_dir.mkdir(parents=True)
        self.paths.ca.write_bytes(ca_pem)
        self.paths.cert.write_bytes(reply.certificate_pem)
        self.paths.key.write_bytes(key_pem)
        self.join = through.address


def members(count: int) -> Callable[[Any], bool]:
    def holds(nodes: Any) -> bool:
        reachable = [n for n in nodes if n["ManagerStatus"]["Reachability"] == "reachable"]
        return len(reachable) == count

    return holds


def test_join_forward_lose_the_leader_and_come_back(tmp_path: Path) -> None:
    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}

    async def story(places: list[Place]) -> None:
        first, second, third = places
        init = InitConfig(first.paths, first.address, ("10.0.0.0/8",), 24)
        prepare_first(init, os.urandom)
        await first.start()
        cluster = await first.until("/swarm", lambda body: "JoinTokens" in body)
        token = cluster["JoinTokens"]["Manager"]
        await second.enter(first, token)
        await second.start()
        await first.until("/nodes", members(2))
        # A follower carries the token to the leader, and the new member through to Raft.
        await second.until("/swarm", lambda body: True)
        await third.enter(second, token)
        await third.start()
        await first.until("/nodes", members(3))
        status, made = await third.rest("POST", "/v1.50/services/create", spec)
        assert status == 201
        task = (await first.until("/tasks", bool))[0]["ID"]
        assert first.manager is not None
        for place in (second, third):
            await place.knows(task)
        await first.manager._share_log(task, msgspec.msgpack.encode([(5, 1, b"last words", "")]))
        for place in (second, third):
            assert [line.data for line in Tails(place.paths.tails).read(task)] == [b"last words"]
        index = first.manager.store.view.index
        told = await first.manager._ask_digests(index)
        digest = first.manager.store.replica.digest_at(index)
        assert digest
        assert told == {second.node_id: digest, third.node_id: digest}
        agent = Agent(second.address, second.tls, second.node_id)
        code, _, metadata = await agent.refused()
        assert (code, metadata["swarm-leader"]) == ("UNAVAILABLE", first.address)
        await agent.close()
        await first.stop()
        found = await second.until("/services/web", lambda body: True)
        assert found["ID"] == made["ID"]
        status, _ = await third.rest("POST", "/services/create", {**spec, "Name": "two"})
        assert status == 201
        await first.start()
        names = await first.until("/services", lambda body: len(body) == 2)
        assert sorted(s["Spec"]["Name"] for s in names) == ["two", "web"]
        nodes = await first.until("/nodes", members(3))
        leader = next(n["ID"] for n in nodes if n["ManagerStatus"].get("Leader"))
        assert leader != first.node_id

    async def main() -> None:
        places = [Place(tmp_path / name) for name in "abc"]
        try:
            await asyncio.wait_for(story(places), 50)
        finally:
            for place in places:
                await place.stop()

    asyncio.run(main())


def damage(place: Place) -> None:
    """Flip a bit in the first frame of the log."""
    (segment, *_) = sorted((place.paths.raft / "log").iterdir())
    data = bytearray(segment.read_bytes())
    data[60] ^= 1
    segment.write_bytes(data)


def test_a_manager_with_a_damaged_log_comes_back_by_itself(tmp_path: Path) -> None:
    async def story(places: list[Place]) -> None:
        first, second, third = places
        prepare_first(InitConfig(first.paths, first.address, ("10.0.0.0/8",), 24), os.urandom)
        await first.start()
        cluster = await first.until("/swarm", lambda body: "JoinTokens" in body)
        for number, place in enumerate((second, third), start=2):
            await place.enter(first, cluster["JoinTokens"]["Manager"])
            await place.start()
            await first.until("/nodes", members(number))
        # The founder: it never joined anybody, and led the term in which it is lost.
        await first.stop()
        damage(first)
        with pytest.raises(Corrupt, match="restore this member"):
            await first.start()  # knows of no other manager: what is left may be all there is
        await first.stop()
        assert not (first.paths.state_dir / "damaged").exists()
        spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
        status, _ = await second.rest("POST", "/v1.50/services/create", spec)
        assert status == 201
        await first.start(third.address, second.address)
        usage = await first.until("/swarm/v1/raft", lambda body: not body["Returning"])
        assert sorted(usage["Members"]) == sorted(place.node_id for place in places)
        assert (first.paths.state_dir / "damaged" / "log").is_dir()
        found = await first.until("/services", bool)
        assert [service["Spec"]["Name"] for service in found] == ["web"]
        assert not (first.paths.state_dir / "returning").exists()
        await first.stop()
        await first.start(third.address)
        await first.until("/services", bool)

    async def main() -> None:
        places = [Place(tmp_path / name) for name in "abc"]
        try:
            await asyncio.wait_for(story(places), 50)
        finally:
            for place in places:
                await place.stop()

    asyncio.run(main())


def test_the_founder_starts_anew_once_there_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    monkeypatch.setattr("manager.raftlog.os._exit", ends.append)

    async def story(first: Place, second: Place) -> None:
        prepare_first(InitConfig(first.paths, first.address, ("10.0.0.0/8",), 24), os.urandom)
        await first.start()
        cluster = await first.until("/swarm", lambda body: "JoinTokens" in body)
        assert first.manager is not None
        log = first.manager.store.log
        assert isinstance(log, RaftLog)
        assert not log.start_anew()
        assert (ends, log.returning) == ([], False)
        await second.enter(first, cluster["JoinTokens"]["Manager"])
        await second.start()
        await first.until("/nodes", members(2))
        log.start_anew()
        assert (ends, log.returning) == ([EXIT_ANEW], True)

    play(tmp_path, story)


def test_who_comes_back_without_knowing_others_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(first: Place, second: Place) -> None:
        prepare_first(InitConfig(first.paths, first.address, ("10.0.0.0/8",), 24), os.urandom)
        await first.start()
        await first.until("/swarm", lambda body: "JoinTokens" in body)
        await first.stop()
        Aside(first.paths.state_dir, first.paths.raft).set_aside()
        await first.start()
        await first.until("/swarm/v1/raft", lambda body: body["Returning"])
        assert "no other manager is known" in caplog.text
        assert "leader is of a version" not in caplog.text

    play(tmp_path, story)


def play(tmp_path: Path, story: Callable[[Place, Place], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        first, second = Place(tmp_path / "a"), Place(tmp_path / "b")
        try:
            await asyncio.wait_for(story(first, second), 50)
        finally:
            await second.stop()
            await first.stop()

    asyncio.run(main())
