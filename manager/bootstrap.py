"""The first manager of a cluster: its identity before there is a log, and its first entry."""

import datetime
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from manager.ca.certificates import create_root, new_request, sign_request
from manager.config import InitConfig, Paths
from manager.control.cluster import first_changes
from manager.keys import load_keyring
from manager.raft.disk import make_directory
from manager.replica import Store
from swarmapi.durable import write_durably
from swarmapi.errors import AlreadyExists, Internal
from swarmapi.identity import TLSMaterial
from swarmapi.ids import new_id
from swarmapi.keyring import Keyring, WrongKey, seal_key
from swarmapi.model.objects import Cluster, Node
from swarmapi.model.spec import NodeRole, NodeSpec

log = logging.getLogger(__name__)
_BOUND: Final = b"swarm founding 1"


class Founding(msgspec.Struct, frozen=True, kw_only=True):
    """`bootstrap.sealed`: msgpack of what the first entry will hold, the CA's key among it.

    Sealed with the node's keyring: when that is locked, what is left of it on the disk is, too.
    """

    node_id: str
    cluster_id: str
    cluster: bytes
    node: bytes
    ingress_id: str


def prepare_first(config: InitConfig, random_bytes: Callable[[int], bytes]) -> dict[str, str]:
    """Make root CA, certificate and `bootstrap.sealed`; return node id and cluster id.

    Raises:
        AlreadyExists: when the state directory holds a manager already.
    """
    paths = config.paths
    if paths.cert.exists() or paths.raft.exists():
        raise AlreadyExists(f"{paths.state_dir} belongs to a cluster already: leave it first")
    make_directory(paths.state_dir)
    now = datetime.datetime.now(datetime.UTC)
    node_id, cluster_id = new_id(random_bytes), new_id(random_bytes)
    root = create_root(now, random_bytes)
    key_pem, csr_pem = new_request()
    certificate = sign_request(
        root, csr_pem, node_id=node_id, role=NodeRole.MANAGER, cluster_id=cluster_id, now=now
    )
    cluster = Cluster(
        id=cluster_id,
        root_ca=root,
        address_pools=config.pools,
        subnet_size=config.subnet_size,
    )
    host = config.advertise.rpartition(":")[0]
    node = Node(
        id=node_id,
        spec=NodeSpec(role=NodeRole.MANAGER),
        address=host,
        manager_address=config.advertise,
    )
    founding = Founding(
        node_id=node_id,
        cluster_id=cluster_id,
        cluster=msgspec.msgpack.encode(cluster),
        node=msgspec.msgpack.encode(node),
        ingress_id=new_id(random_bytes),
    )
    keyring = load_keyring(paths)
    write_durably(paths.bootstrap, keyring.seal(msgspec.json.encode(founding), _BOUND))
    tls = TLSMaterial(root.cert_pem, certificate, key_pem)
    paths.tls.save(tls, lambda key: seal_key(key, keyring))  # last: with it the directory is taken
    return {"node_id": node_id, "cluster_id": cluster_id}


def load_founding(paths: Paths, keyring: Keyring) -> Founding | None:
    """Return what `prepare_first` left, None when there is nothing to found.

    Raises Internal when it is damaged.
    """
    try:
        body, _ = keyring.open(paths.bootstrap.read_bytes(), _BOUND)
    except FileNotFoundError:
        return None
    except WrongKey:
        if not paths.raft.exists():
            raise Internal(
                f"{paths.bootstrap} cannot be read: remove {paths.state_dir} and found the cluster"
            ) from None
        paths.bootstrap.unlink()  # of before the ring was new, when the cluster was there already
        return None
    return msgspec.json.decode(body, type=Founding)


async def found(store: Store, paths: Paths, founding: Founding) -> None:
    """Commit the cluster's first entry, unless it is there, and forget the file."""
    if store.view.cluster is None:
        cluster = msgspec.msgpack.decode(founding.cluster, type=Cluster)
        node = msgspec.msgpack.decode(founding.node, type=Node)
        changes = first_changes(cluster, node, founding.ingress_id)
        await store.propose(changes, f"found-{founding.cluster_id}")
        log.info("cluster %s founded", founding.cluster_id)
    paths.bootstrap.unlink(missing_ok=True)
