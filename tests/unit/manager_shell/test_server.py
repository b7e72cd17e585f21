"""Whole managers on loopback, over logs of a single copy."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from manager.bootstrap import load_founding, prepare_first
from manager.ca.certificates import new_request
from manager.config import InitConfig, Paths, RunConfig, load
from manager.front import server_name
from manager.keys import load_keyring, load_tls
from manager.lock import lock
from manager.replica import LogStatus, Replica
from manager.server import Manager
from manager.store.level import LEVEL
from swarmapi.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from swarmapi.identity import JOIN_SERVER_NAME, LiveTLS, TLSMaterial, expect
from swarmapi.ids import new_id
from swarmapi.model.spec import NodeRole
from swarmapi.v1 import ca_pb2, ca_pb2_grpc, forward_pb2_grpc
from tests.fakes.manager_log import SingleCopyLog
from tests.unit.manager_shell.wire import Agent, material

stubs: Any = ca_pb2_grpc
POOLS = ("10.0.0.0/8",)


class Started:
    """A running manager with its log in the test's hand."""

    def __init__(self, paths: Paths, tls: TLSMaterial, founder: bool) -> None:
        self.paths = paths
        self.tls = tls
        self.node_id = tls.identity.node_id
        self.logs: list[SingleCopyLog] = []

        def new_log(replica: Replica) -> SingleCopyLog:
            self.logs.append(SingleCopyLog(replica, self.node_id))
            return self.logs[0]

        config = RunConfig(paths, self.node_id, "127.0.0.1:0", "127.0.0.1:0", "")
        self.manager = Manager(
            config,
            LiveTLS(tls),
            new_log,
            lambda: new_id(os.urandom),
            load_founding(paths, load_keyring(paths)) if founder else None,
        )

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.manager.port}"

    async def rest(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(str(self.paths.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://manager{path}", json=body) as response,
        ):
            text = await response.text()
            return response.status, await response.json() if text else None

    async def founded(self) -> None:
        """Wait until the cluster's first entry is applied."""
        applied = asyncio.Event()
        end = self.manager.store.replica.subscribe(lambda _: applied.set())
        while self.manager.store.view.cluster is None:
            await asyncio.wait_for(applied.wait(), 10)
        end()


def read(paths: Paths) -> TLSMaterial:
    return load_tls(paths, load_keyring(paths))


@asynccontextmanager
async def first_manager(root: Path) -> AsyncIterator[Started]:
    paths = Paths(root / "state", root / "run")
    prepare_first(InitConfig(paths, "127.0.0.1:2377", POOLS, 24), os.urandom)
    started = Started(paths, read(paths), founder=True)
    await started.manager.start()
    try:
        await started.founded()
        yield started
    finally:
        await started.manager.stop()


def play(story: Any) -> None:
    asyncio.run(asyncio.wait_for(story, 40))


def test_founds_serves_and_takes_in_a_worker_by_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with first_manager(tmp_path) as first:
            status, cluster = await first.rest("GET", "/v1.50/swarm")
            assert status == 200
            assert not first.paths.bootstrap.exists()
            assert first.paths.socket.stat().st_mode & 0o777 == 0o600
            root = first.tls.ca_pem
            credentials = grpc.ssl_channel_credentials(root)
            key_pem, csr_pem = new_request()
            request = ca_pb2.IssueRequest(
                csr_pem=csr_pem, join_token=cluster["JoinTokens"]["Worker"], hostname="w"
            )
            async with grpc.aio.secure_channel(
                first.target, credentials, options=[expect(JOIN_SERVER_NAME)]
            ) as channel:
                told = await stubs.CertificateAuthorityStub(channel).GetRoot(
                    ca_pb2.GetRootRequest()
                )
                assert told.root_pem == root
                reply = await stubs.CertificateAuthorityStub(channel).IssueCertificate(request)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stubs.MembershipStub(channel).Join(
                        ca_pb2.JoinRequest(address="x:1", level=LEVEL)
                    )
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
            tls = TLSMaterial(root, reply.certificate_pem, key_pem)
            agent = Agent(first.target, tls, reply.node_id)
            welcome = await agent.hello()
            assert welcome.role == "worker"
            await agent.close()
            _, nodes = await first.rest("GET", "/nodes")
            assert sorted(n["Spec"]["Role"] for n in nodes) == ["manager", "worker"]

    play(story())


def test_leaf_of_the_join_server_can_be_fetched_unverified(tmp_path: Path) -> None:
    async def story() -> None:
        async with first_manager(tmp_path) as first:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            _, writer = await asyncio.open_connection(
                "127.0.0.1", first.manager.port, ssl=context, server_hostname=JOIN_SERVER_NAME
            )
            peer: ssl.SSLObject = writer.get_extra_info("ssl_object")
            der = peer.getpeercert(binary_form=True)
            writer.close()
            assert der == ssl.PEM_cert_to_DER_cert(first.tls.cert_pem.decode())

    play(story())


def test_follower_forwards_to_the_leader_over_tls(tmp_path: Path) -> None:
    async def story() -> None:
        async with first_manager(tmp_path / "a") as first:
            _, cluster = await first.rest("GET", "/swarm")
            root = first.manager.store.view.cluster
            assert root is not None
            assert root.root_ca is not None
            joined = await _join_as_manager(first, cluster["JoinTokens"]["Manager"])
            paths = Paths(tmp_path / "b" / "state", tmp_path / "b" / "run")
            second = Started(paths, joined, founder=False)
            leader = LogStatus(False, True, first.node_id, first.target)
            second.logs[0].become(leader)
            await second.manager.start()
            try:
                spec = {
                    "Name": "web",
                    "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}},
                }
                status, made = await second.rest("POST", "/v1.50/services/create", spec)
                assert status == 201
                assert made["ID"] in first.manager.store.view.services
                assert (await second.rest("POST", "/services/create", spec))[0] == 409
                _, own = await second.rest("GET", "/nodes/self")
                assert own["ID"] == second.node_id
                first.logs[0].become(LogStatus(False, True, "m9", "127.0.0.1:1"))
                late = asyncio.create_task(second.rest("POST", "/services/create", spec))
                second.logs[0].become(LogStatus(True, True, second.node_id))
                assert (await late)[0] == 201
                assert len(second.manager.store.view.services) == 1
            finally:
                await second.manager.stop()

    play(story())


async def _join_as_manager(first: Started, token: str) -> TLSMaterial:
    key_pem, csr_pem = new_request()
    request = ca_pb2.IssueRequest(csr_pem=csr_pem, join_token=token, address="127.0.0.1:1")
    async with grpc.aio.secure_channel(
        first.target,
        grpc.ssl_channel_credentials(first.tls.ca_pem),
        options=[expect(JOIN_SERVER_NAME)],
    ) as channel:
        reply = await stubs.CertificateAuthorityStub(channel).IssueCertificate(request)
    return TLSMaterial(first.tls.ca_pem, reply.certificate_pem, key_pem)


def test_worker_certificate_may_not_forward(tmp_path: Path) -> None:
    async def story() -> None:
        async with first_manager(tmp_path) as first:
            cluster = first.manager.store.view.cluster
            assert cluster is not None
            assert cluster.root_ca is not None
            tls = material(cluster.root_ca, first.node_id, NodeRole.WORKER, cluster.id)
            forward: Any = forward_pb2_grpc
            async with grpc.aio.secure_channel(
                first.target, tls.client(), options=[expect("swarm-manager")]
            ) as channel:
                call = forward.ForwardStub(channel).Call()
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call.read()
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

    play(story())


def test_init_twice_and_two_processes_are_refused(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "state", tmp_path / "run")
    made = prepare_first(InitConfig(paths, "127.0.0.1:2377", POOLS, 24), os.urandom)
    assert read(paths).identity.node_id == made["node_id"]
    assert paths.key.stat().st_mode & 0o777 == 0o600
    assert not [p.name for p in paths.state_dir.iterdir() if b"PRIVATE KEY" in p.read_bytes()]
    with pytest.raises(AlreadyExists):
        prepare_first(InitConfig(paths, "127.0.0.1:2377", POOLS, 24), os.urandom)
    with lock(paths), pytest.raises(FailedPrecondition, match="another swarm-manager"):
        lock(paths)
    lock(paths).close()


def test_command_line() -> None:
    base = ["--state-dir", "/s", "--run-dir", "/r", "--advertise-addr", "10.0.0.1:2377"]
    init = load(["init", *base, "--default-addr-pool", "10.20.0.0/16", "--subnet-size", "26"])
    assert isinstance(init, InitConfig)
    assert (init.pools, init.subnet_size) == (("10.20.0.0/16",), 26)
    run = load(["run", *base, "--join", "10.0.0.2:2377"])
    assert isinstance(run, RunConfig)
    assert (run.join, run.listen) == ("10.0.0.2:2377", "0.0.0.0:2377")
    with pytest.raises(InvalidArgument, match="subnet-size"):
        load(["init", *base, "--default-addr-pool", "10.20.0.0/16", "--subnet-size", "8"])
    with pytest.raises(InvalidArgument, match="host:port"):
        load(["run", *base[:-1], "nowhere"])


def test_server_name_of_a_client_hello() -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(incoming, outgoing, server_hostname="Swarm-CA")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    record = outgoing.read()
    assert server_name(record) == "swarm-ca"
    for cut in range(len(record)):
        assert "swarm-ca".startswith(server_name(record[:cut]))
    assert server_name(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00") == ""
