"""A manager takes a new certificate while it runs: what is connected stays connected."""

import asyncio
import ssl
from pathlib import Path

from swarmapi.identity import JOIN_SERVER_NAME
from swarmapi.keyring import CERTIFICATE_PATH
from swarmapi.model.spec import NodeRole
from tests.unit.manager_shell.test_server import Started, first_manager, play
from tests.unit.manager_shell.wire import Agent, material


def renew(first: Started, role: NodeRole = NodeRole.MANAGER) -> bytes:
    """Put another certificate of this node on its disk."""
    cluster = first.manager.store.view.cluster
    assert cluster is not None
    assert cluster.root_ca is not None
    fresh = material(cluster.root_ca, first.node_id, role, cluster.id)
    first.paths.key.write_bytes(fresh.key_pem)
    first.paths.cert.write_bytes(fresh.cert_pem)
    return fresh.cert_pem


async def shown(first: Started, name: str) -> str:
    """Return the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(
        "127.0.0.1", first.manager.port, ssl=context, server_hostname=name
    )
    peer: ssl.SSLObject = writer.get_extra_info("ssl_object")
    der = peer.getpeercert(binary_form=True)
    writer.close()
    assert der is not None
    return ssl.DER_cert_to_PEM_cert(der)


def test_a_session_outlives_the_certificate_it_began_with(tmp_path: Path) -> None:
    async def story() -> None:
        async with first_manager(tmp_path) as first:
            agent = Agent(first.target, first.tls, first.node_id)
            await agent.hello()
            before = await shown(first, JOIN_SERVER_NAME)
            fresh = renew(first)
            assert await shown(first, JOIN_SERVER_NAME) == before, "until it is told"
            assert (await first.rest("POST", CERTIFICATE_PATH))[0] == 200
            for name in (JOIN_SERVER_NAME, "swarm-manager"):
                assert await shown(first, name) == fresh.decode()
            await agent.beat()
            await agent.close()

    play(story())


def test_another_identity_is_not_taken(tmp_path: Path) -> None:
    async def story() -> None:
        async with first_manager(tmp_path) as first:
            before = await shown(first, JOIN_SERVER_NAME)
            renew(first, NodeRole.WORKER)
            assert (await first.rest("POST", CERTIFICATE_PATH))[0] >= 400
            assert await shown(first, JOIN_SERVER_NAME) == before

    play(story())
