"""Servers take each other's place: what is open goes on for a while, what is new meets the new."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from manager.front import Front
from manager.generations import Generations
from swarmapi.identity import TLSMaterial, expect
from tests.fakes.pki import CertificateAuthority


async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """Say each message again."""
    async for request in requests:
        yield request


def new_server() -> grpc.aio.Server:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    return server


class House:
    """A front before servers in generations."""

    def __init__(self, path: Path, tls: TLSMaterial, **times: float) -> None:
        self.path, self.tls, self.generation = path, tls, 0
        self.servers = Generations(new_server, **times)
        self.front = Front("127.0.0.1", 0, {}, f"unix:{self.socket}")
        self.port = 0

    @property
    def socket(self) -> Path:
        return self.path / f"s{self.generation}.sock"

    async def start(self) -> None:
        await self.servers.listen(f"unix:{self.socket}", self.tls.server())
        self.port = await asyncio.to_thread(self.front.start)

    async def turn(self, tls: TLSMaterial) -> None:
        self.generation += 1
        await self.servers.listen(f"unix:{self.socket}", tls.server())
        self.front.switch({}, f"unix:{self.socket}")

    async def stop(self) -> None:
        await asyncio.to_thread(self.front.stop)
        await self.servers.stop(0.0)

    def channel(self, tls: TLSMaterial) -> grpc.aio.Channel:
        options = [expect("swarm-manager"), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", tls.client(), options=options)


async def said(call: Any, word: bytes) -> bytes:
    await call.write(word)
    async with asyncio.timeout(10):
        answer: bytes = await call.read()
        return answer


def begin(channel: grpc.aio.Channel) -> Any:
    method: Any = channel.stream_stream(  # the stubs want an iterator of requests
        "/test.Echo/Echo", request_serializer=bytes, response_deserializer=bytes
    )
    return method()


def test_a_call_goes_on_in_the_former_server_and_new_ones_meet_the_new(tmp_path: Path) -> None:
    old, new = CertificateAuthority(), CertificateAuthority()

    async def story() -> None:
        house = House(tmp_path, old.issue("a"), handshake_s=0.0)
        await house.start()
        async with house.channel(old.issue("b")) as channel:
            call = begin(channel)
            assert await said(call, b"before") == b"before"
            await house.turn(new.issue("a"))
            async with house.channel(new.issue("b")) as later:
                assert await said(begin(later), b"new") == b"new"
            async with house.channel(old.issue("b")) as stranger:
                with pytest.raises(grpc.aio.AioRpcError):
                    await said(begin(stranger), b"old")
            async with asyncio.timeout(10):
                while (tmp_path / "s0.sock").exists():  # noqa: ASYNC110 - files wake nobody
                    await asyncio.sleep(0.01)
            assert await said(call, b"after") == b"after"
            assert house.socket.stat().st_mode & 0o777 == 0o600
        await house.stop()

    asyncio.run(story())


def test_after_the_grace_a_call_of_a_former_server_is_ended(tmp_path: Path) -> None:
    authority = CertificateAuthority()

    async def story() -> None:
        house = House(tmp_path, authority.issue("a"), handshake_s=0.0, grace_s=0.05)
        await house.start()
        async with house.channel(authority.issue("b")) as channel:
            call = begin(channel)
            assert await said(call, b"before") == b"before"
            await house.turn(authority.issue("a"))
            async with asyncio.timeout(10):
                assert await call.code() != grpc.StatusCode.OK
            assert await said(begin(channel), b"again") == b"again"
        await house.stop()

    asyncio.run(story())


def test_stopping_ends_former_servers_too(tmp_path: Path) -> None:
    authority = CertificateAuthority()

    async def story() -> None:
        house = House(tmp_path, authority.issue("a"), handshake_s=3600.0)
        await house.start()
        async with house.channel(authority.issue("b")) as channel:
            call = begin(channel)
            assert await said(call, b"before") == b"before"
            await house.turn(authority.issue("a"))
            await house.turn(authority.issue("a"))
            async with asyncio.timeout(10):
                await house.stop()
                assert await call.code() != grpc.StatusCode.OK

    asyncio.run(story())
