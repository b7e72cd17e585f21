"""Who may open a stream, and what becomes of one that talks nonsense."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from manager.raft import messages
from manager.raft.driver import Connected, Disconnected, Event, Received
from manager.raft.messages import TermHint
from manager.raft.ports import Member
from manager.raft.transport import GrpcLinks
from swarmapi.identity import WORKER, LiveTLS, TLSMaterial, expect
from swarmapi.v1 import raft_pb2, raft_pb2_grpc
from tests.fakes.pki import CertificateAuthority
from tests.fakes.raft_cluster import free_address

_GUARD_S = 30


class Side:
    """One end of links, with what happened to it."""

    def __init__(self, authority: CertificateAuthority, name: str, members: set[str]) -> None:
        self.name = name
        self.address = free_address()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.members = members
        tls = authority.issue(name)
        self.links = GrpcLinks(
            name, LiveTLS(tls), self.events.put_nowait, lambda peer: peer in self.members
        )

    async def until(self, kind: type[Event]) -> Any:
        while not isinstance(event := await self.events.get(), kind):
            pass
        return event


@asynccontextmanager
async def sides(authority: CertificateAuthority, *names: str) -> AsyncIterator[list[Side]]:
    members = set(names)
    found = [Side(authority, name, members) for name in names]
    async with asyncio.timeout(_GUARD_S):
        try:
            for side in found:
                await side.links.listen(side.address)
            yield found
        finally:
            for side in found:
                await side.links.close()


@asynccontextmanager
async def stream(side: Side, tls: TLSMaterial) -> AsyncIterator[Any]:
    channel = grpc.aio.secure_channel(side.address, tls.client(), options=[expect(side.name)])
    async with channel:
        yield raft_pb2_grpc.RaftStub(channel).Stream()  # type: ignore[no-untyped-call]  # generated


def refusal(issue: Callable[[CertificateAuthority], TLSMaterial]) -> tuple[grpc.StatusCode, str]:
    async def work() -> tuple[grpc.StatusCode, str]:
        authority = CertificateAuthority()
        async with sides(authority, "m1") as (side,), stream(side, issue(authority)) as call:
            code = await call.code()
            assert side.events.empty()
            return code, await call.details()

    return asyncio.run(work())


def test_a_worker_is_refused() -> None:
    code, words = refusal(lambda authority: authority.issue("m1", WORKER))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "no manager" in words


def test_a_stranger_is_refused() -> None:
    code, words = refusal(lambda authority: authority.issue("m9"))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "not a member" in words


def test_another_clusters_manager_is_refused() -> None:
    def issue(authority: CertificateAuthority) -> TLSMaterial:
        authority.cluster_id = "another"
        return authority.issue("m1")

    code, words = refusal(issue)
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "no manager of this cluster" in words


def test_a_certificate_of_another_authority_is_refused() -> None:
    code, _ = refusal(lambda authority: CertificateAuthority().issue("m1"))
    assert code is grpc.StatusCode.UNAVAILABLE


def both_ways(first: str, second: str) -> None:
    async def work() -> None:
        async with sides(CertificateAuthority(), first, second) as (one, other):
            one.links.add(Member((other.name, other.address)))
            await one.until(Connected)
            await other.until(Connected)
            one.links.send(other.name, [TermHint(1)])
            assert await other.until(Received) == Received(one.name, [TermHint(1)])
            other.links.send(one.name, [TermHint(2)])
            assert await one.until(Received) == Received(other.name, [TermHint(2)])
            one.links.drop(other.name)
            await one.until(Disconnected)
            await other.until(Disconnected)

    asyncio.run(work())


def test_the_larger_id_dials() -> None:
    both_ways("m2", "m1")


def test_the_smaller_id_dials_where_the_larger_does_not() -> None:
    both_ways("m1", "m2")


def test_a_link_comes_back() -> None:
    async def work() -> None:
        async with sides(CertificateAuthority(), "m2", "m1") as (dialler, listener):
            dialler.links.add(Member(("m1", listener.address)))
            await dialler.until(Connected)
            await listener.links.close()
            await dialler.until(Disconnected)
            await listener.links.listen(listener.address)
            await dialler.until(Connected)

    asyncio.run(work())


def test_nonsense_ends_the_link() -> None:
    frames = [
        raft_pb2.RaftFrame(format=messages.FORMAT, messages=b"\xc1garbage"),
        raft_pb2.RaftFrame(format=99, messages=messages.encode([TermHint(1)])),
    ]

    async def nonsense(frame: raft_pb2.RaftFrame) -> None:
        authority = CertificateAuthority()
        async with (
            sides(authority, "m1", "m2") as (side, _),
            stream(side, authority.issue("m2")) as call,
        ):
            await side.until(Connected)
            await call.write(frame)
            assert isinstance(await side.events.get(), Disconnected)

    for frame in frames:
        asyncio.run(nonsense(frame))


def test_an_address_that_cannot_be_served() -> None:
    async def work() -> None:
        side = Side(CertificateAuthority(), "m1", set())
        with pytest.raises(OSError, match="cannot listen"):
            await side.links.listen("127.0.0.1:1:1")
        await side.links.close()

    asyncio.run(work())
