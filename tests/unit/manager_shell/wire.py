"""Loopback gRPC with mutual TLS for the manager's services, and an agent that speaks by hand."""

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec

from manager.ca.certificates import new_request, sign_request
from manager.ca.service import CertificateService, MembershipService
from manager.dispatcher.dispatcher import Dispatcher
from manager.dispatcher.service import DispatcherService
from swarmapi.identity import MANAGER, TLSMaterial, expect
from swarmapi.model.objects import NodeDescription, RootCA, Task, TaskState, TaskStatus
from swarmapi.model.spec import NodeRole
from swarmapi.v1 import ca_pb2_grpc, dispatcher_pb2_grpc
from swarmapi.v1 import dispatcher_pb2 as pb
from tests.unit.manager_shell.cluster import MemoryCluster


def root_of(cluster: MemoryCluster) -> RootCA:
    found = cluster.store.view.cluster
    assert found is not None
    assert found.root_ca is not None
    return found.root_ca


def material(
    root: RootCA,
    node_id: str,
    role: NodeRole = NodeRole.WORKER,
    cluster_id: str = "cluster1",
    now: datetime.datetime | None = None,
) -> TLSMaterial:
    key_pem, csr_pem = new_request()
    now = now or datetime.datetime.now(datetime.UTC)
    pem = sign_request(root, csr_pem, node_id=node_id, role=role, cluster_id=cluster_id, now=now)
    return TLSMaterial(root.cert_pem, pem, key_pem)


@asynccontextmanager
async def served(cluster: MemoryCluster, dispatcher: Dispatcher) -> AsyncIterator[str]:
    """Serve all services with mutual TLS; yields `host:port`."""
    root = root_of(cluster)
    server = grpc.aio.server()
    # The generated modules are untyped.
    dispatcher_rpc: Any = dispatcher_pb2_grpc
    ca_rpc: Any = ca_pb2_grpc
    dispatcher_rpc.add_DispatcherServicer_to_server(DispatcherService(dispatcher), server)
    authority = CertificateService(cluster.store, root.cert_pem)
    ca_rpc.add_CertificateAuthorityServicer_to_server(authority, server)
    ca_rpc.add_MembershipServicer_to_server(MembershipService(cluster.store), server)
    tls = material(root, "m1", NodeRole.MANAGER)
    port = server.add_secure_port("127.0.0.1:0", tls.server())
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Agent:
    """One session; the test says each message."""

    def __init__(self, target: str, tls: TLSMaterial, node_id: str) -> None:
        self.node_id = node_id
        self._channel = grpc.aio.secure_channel(target, tls.client(), options=[expect(MANAGER)])
        stubs: Any = dispatcher_pb2_grpc
        self.call = stubs.DispatcherStub(self._channel).Session()

    async def hello(self, tables: dict[str, int] | None = None) -> pb.Welcome:
        description = NodeDescription(hostname=f"host-{self.node_id}", cpu_nanos=10**9)
        message = pb.Hello(
            format=1,
            description=msgspec.msgpack.encode(description),
            address="127.0.0.1",
            tables=tables or {},
        )
        await self.call.write(pb.AgentMessage(hello=message))
        reply = await self.read()
        assert reply.WhichOneof("message") == "welcome"
        return reply.welcome

    async def read(self) -> pb.DispatcherMessage:
        message = await asyncio.wait_for(self.call.read(), 10)
        assert isinstance(message, pb.DispatcherMessage)
        return message

    async def assignments(self) -> pb.Assignments:
        while True:
            message = await self.read()
            if message.WhichOneof("message") == "assignments":
                return message.assignments

    async def stored(self) -> list[str]:
        while True:
            message = await self.read()
            if message.WhichOneof("message") == "stored":
                return list(message.stored.task_ids)

    async def report(self, task_id: str, state: TaskState) -> None:
        status = msgspec.msgpack.encode(TaskStatus(state=state, timestamp_ns=1))
        report = pb.TaskReport(task_id=task_id, status=status)
        await self.call.write(pb.AgentMessage(reports=pb.TaskReports(reports=[report])))

    async def beat(self) -> None:
        """Beat and wait until the leader has answered."""
        await self.call.write(pb.AgentMessage(beat=pb.Beat()))
        while (await self.read()).WhichOneof("message") != "beat":
            continue

    async def ack(self, revisions: dict[str, int]) -> None:
        await self.call.write(pb.AgentMessage(ack=pb.TableAck(revisions=revisions)))

    async def failure(self) -> tuple[str, str, dict[str, str]]:
        """Wait for the end; returns code, message and trailing metadata."""
        try:
            while isinstance(await asyncio.wait_for(self.call.read(), 10), pb.DispatcherMessage):
                continue
        except grpc.aio.AioRpcError as error:
            pairs: Any = error.trailing_metadata()
            return error.code().name, error.details() or "", dict(pairs or ())
        raise AssertionError("the session ended without an error")

    async def refused(self) -> tuple[str, str, dict[str, str]]:
        """Say Hello and wait for the refusal (see `failure`)."""
        await self.call.write(pb.AgentMessage(hello=pb.Hello(format=1)))
        return await self.failure()

    async def close(self) -> None:
        self.call.cancel()
        await self._channel.close(None)


def tasks_in(message: pb.Assignments) -> list[Task]:
    return [msgspec.msgpack.decode(t.task, type=Task) for t in message.tasks]
