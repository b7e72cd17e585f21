"""A certificate authority over real TLS on loopback, with a root that a test may swap."""

from typing import NoReturn, Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from swarmapi.identity import MANAGER, WORKER
from swarmapi.v1 import ca_pb2 as pb
from swarmapi.v1 import ca_pb2_grpc as rpc
from tests.fakes.pki import CertificateAuthority


class Aborting(Protocol):
    """The part of a call's context that is used."""

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn: ...


class FakeAuthority:
    """Signs for whoever holds a token of `tokens` (token → role); remembers every request.

    `mutual` asks for a client certificate, as managers do of renewals.
    """

    def __init__(self, ca: CertificateAuthority, tokens: dict[str, str]) -> None:
        self.ca = ca
        self.tokens = tokens
        self.root_pem = ca.ca_pem
        self.role_of_node: dict[str, str] = {}
        self.requests: list[pb.IssueRequest] = []
        self._servers: list[grpc.aio.Server] = []

    async def start(self, *, mutual: bool = False) -> str:
        """Listen on a free port of loopback; return `host:port`."""
        tls = self.ca.sign(_subject("m1", MANAGER), ["m1", MANAGER, "swarm-ca"])
        server = grpc.aio.server()
        # generated code has no types
        rpc.add_CertificateAuthorityServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        port = server.add_secure_port("127.0.0.1:0", tls.server(require_client_auth=mutual))
        await server.start()
        self._servers.append(server)
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        for server in self._servers:
            await server.stop(None)

    async def GetRoot(self, request: pb.GetRootRequest, context: object) -> pb.GetRootReply:  # noqa: N802 - gRPC's name
        return pb.GetRootReply(root_pem=self.root_pem)

    async def IssueCertificate(  # noqa: N802 - gRPC's name
        self, request: pb.IssueRequest, context: Aborting
    ) -> pb.IssueReply:
        self.requests.append(request)
        if request.join_token:
            role = self.tokens.get(request.join_token, "")
            if not role:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "invalid join token")
            node_id = f"node{len(self.requests)}"
        else:
            node_id = request.node_id
            role = self.role_of_node[node_id]
        unit = MANAGER if role == "manager" else WORKER
        return pb.IssueReply(
            node_id=node_id,
            cluster_id="cluster1",
            role=role,
            certificate_pem=self._sign(request.csr_pem, node_id, unit),
            managers=["127.0.0.1:1"],
        )

    def _sign(self, csr_pem: bytes, node_id: str, unit: str) -> bytes:
        csr = x509.load_pem_x509_csr(csr_pem)
        key = csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return self.ca.certify(_subject(node_id, unit), [node_id, unit], key)


def _subject(node_id: str, unit: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, node_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cluster1"),
        ]
    )
