"""Every gRPC method for every kind of caller: what is not in the table is denied to all."""

import asyncio
import dataclasses
import datetime
import importlib
import os
import pkgutil
from pathlib import Path
from typing import Final

import grpc

import swarmapi.v1
from manager.bootstrap import prepare_first
from manager.ca.certificates import BACK_DATED, NODE_LIFETIME, create_root
from manager.config import InitConfig
from manager.store.changes import Delete, PutNode
from swarmapi.identity import JOIN_SERVER_NAME, MANAGER, expect
from swarmapi.model.objects import Node
from swarmapi.model.spec import NodeRole, NodeSpec
from tests.unit.manager_shell.test_three_managers import Place
from tests.unit.manager_shell.wire import material

CALLERS: Final = (
    "nobody",
    "worker",
    "manager",
    "removed worker",
    "demoted manager",
    "promoted worker",
    "manager of another cluster",
    "manager of a foreign root",
    "manager whose certificate is over",
)
STRANGERS: Final = {"manager of a foreign root", "manager whose certificate is over"}
ALLOWED: Final[dict[tuple[str, str], set[str]]] = {
    ("CertificateAuthority", "GetRoot"): set(CALLERS) - STRANGERS,
    ("CertificateAuthority", "IssueCertificate"): {
        "worker",
        "manager",
        "demoted manager",
        "promoted worker",
    },
    ("Membership", "Join"): {"manager"},
    ("Membership", "Digest"): {"manager"},
    ("Dispatcher", "Session"): {"worker", "manager", "demoted manager", "promoted worker"},
    **{
        ("Leases", method): {"worker", "manager", "demoted manager", "promoted worker"}
        for method in ("Find", "Take", "Keep")
    },
    ("Logs", "Publish"): {"worker", "manager", "demoted manager", "promoted worker"},
    ("Logs", "Keep"): {"manager"},
    ("Execs", "Attach"): {"worker", "manager", "demoted manager", "promoted worker"},
    ("Forward", "Call"): {"manager"},
    ("Raft", "Stream"): set(),  # its members alone
}
"""Who gets past the door; a body that means nothing is refused behind it."""
DENIED: Final = {"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "UNAVAILABLE"}
FILES: Final = [
    importlib.import_module(f"swarmapi.v1.{found.name}").DESCRIPTOR
    for found in pkgutil.iter_modules(swarmapi.v1.__path__)
    if found.name.endswith("_pb2")
]
METHODS: Final = [
    (service.full_name, service.name, method.name)
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
]
ANSWER_WAIT_S: Final = 1.0


class Door:
    """A manager, and somebody of each kind who knocks."""

    def __init__(self, place: Place) -> None:
        self.place = place
        manager = place.manager
        assert manager is not None
        self.store = manager.store
        cluster = self.store.view.cluster
        assert cluster is not None
        assert cluster.root_ca is not None
        self.cluster_id, self.root = cluster.id, cluster.root_ca

    async def people(self) -> None:
        """Put into the store what makes each caller what it is."""
        for node_id, role in (
            ("w", NodeRole.WORKER),
            ("gone", NodeRole.WORKER),
            ("m", NodeRole.MANAGER),
            ("demoted", NodeRole.WORKER),
            ("promoted", NodeRole.MANAGER),
        ):
            node = Node(id=node_id, spec=NodeSpec(role=role))
            await self.store.propose((PutNode(node=node, expect_version=0),))
        await self.store.propose((Delete(object="node", id="gone"),))

    def credentials(self, caller: str) -> grpc.ChannelCredentials:
        """Return what a caller shows."""
        worker, manager = NodeRole.WORKER, NodeRole.MANAGER
        foreign = create_root(datetime.datetime.now(datetime.UTC), os.urandom)
        if caller == "nobody":
            return grpc.ssl_channel_credentials(self.root.cert_pem)
        if caller == "manager of a foreign root":
            shown = material(foreign, "m", manager, self.cluster_id)
            return dataclasses.replace(shown, ca_pem=self.root.cert_pem).client()
        if caller == "manager whose certificate is over":
            begun = datetime.datetime.now(datetime.UTC) - NODE_LIFETIME - BACK_DATED
            return material(self.root, "m", manager, self.cluster_id, begun).client()
        cluster_id = "other" if caller == "manager of another cluster" else self.cluster_id
        node_id, role = {
            "worker": ("w", worker),
            "manager": ("m", manager),
            "removed worker": ("gone", worker),
            "demoted manager": ("demoted", manager),
            "promoted worker": ("promoted", worker),
            "manager of another cluster": ("m", manager),
        }[caller]
        return material(self.root, node_id, role, cluster_id).client()

    async def knock(self, caller: str, path: str, service: str) -> str:
        """Call with an empty body; return the code's name, OK when something is answered."""
        name = MANAGER
        if caller == "nobody":
            name = JOIN_SERVER_NAME
        elif service == "Raft":
            name = self.place.node_id
        async with grpc.aio.secure_channel(
            self.place.address, self.credentials(caller), options=[expect(name)]
        ) as channel:
            code = "INTERNAL"
            while code == "INTERNAL":  # the refusal met the body half-way and was lost
                code = await self._ask(channel, path)
            return code

    async def _ask(self, channel: grpc.aio.Channel, path: str) -> str:
        method = channel.stream_stream(path, request_serializer=bytes, response_deserializer=bytes)
        call = method(None, timeout=ANSWER_WAIT_S)
        try:
            await call.write(b"")
            await call.done_writing()
            await call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the code tells
        return (await call.code()).name


def test_every_method_is_in_the_table() -> None:
    assert {(service, method) for _, service, method in METHODS} == set(ALLOWED)


def test_every_method_for_every_caller(tmp_path: Path) -> None:
    async def story(place: Place) -> None:
        prepare_first(InitConfig(place.paths, place.address, ("10.0.0.0/8",), 24), os.urandom)
        await place.start()
        await place.until("/swarm", lambda body: "JoinTokens" in body)
        door = Door(place)
        await door.people()
        wrong = {}
        for full_name, service, method in METHODS:
            for caller in CALLERS:
                code = await door.knock(caller, f"/{full_name}/{method}", service)
                allowed = caller in ALLOWED[service, method]
                if (code not in DENIED) is not allowed:
                    wrong[service, method, caller] = code
        assert wrong == {}

    async def main() -> None:
        place = Place(tmp_path)
        try:
            await asyncio.wait_for(story(place), 100)
        finally:
            await place.stop()

    asyncio.run(main())
