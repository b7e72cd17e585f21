"""The first manager of a cluster: its identity before there is a log, and its first entry."""

import datetime
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from manager.ca.certificates import create_root, new_request, sign_request
from manager.config import InitConfig, Paths
from manager.control.cluster import first_changes
from manager.raft.disk import make_directory, sync_directory
from manager.replica import Store
from swarmapi.errors import AlreadyExists
from swarmapi.ids import new_id
from swarmapi.model.objects import Cluster, Node
from swarmapi.model.spec import NodeRole, NodeSpec

log = logging.getLogger(__name__)


class Founding(msgspec.Struct, frozen=True, kw_only=True):
    """`bootstrap.json`: msgpack of what the first entry will hold, the CA's key among it."""

    node_id: str
    cluster_id: str
    cluster: bytes
    node: bytes
    ingress_id: str


def prepare_first(config: InitConfig, random_bytes: Callable[[int], bytes]) -> dict[str, str]:
    """Make root CA, certificate and `bootstrap.json`; return node id and cluster id.

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
    write_durably(paths.bootstrap, msgspec.json.encode(founding))
    write_durably(paths.ca, root.cert_pem)
    write_durably(paths.key, key_pem)
    write_durably(paths.cert, certificate)
    return {"node_id": node_id, "cluster_id": cluster_id}


def load_founding(paths: Paths) -> Founding | None:
    """Return what `prepare_first` left, None when there is nothing to found."""
    try:
        return msgspec.json.decode(paths.bootstrap.read_bytes(), type=Founding)
    except FileNotFoundError:
        return None


async def found(store: Store, paths: Paths, founding: Founding) -> None:
    """Commit the cluster's first entry, unless it is there, and forget the file."""
    if store.view.cluster is None:
        cluster = msgspec.msgpack.decode(founding.cluster, type=Cluster)
        node = msgspec.msgpack.decode(founding.node, type=Node)
        changes = first_changes(cluster, node, founding.ingress_id)
        await store.propose(changes, f"found-{founding.cluster_id}")
        log.info("cluster %s founded", founding.cluster_id)
    paths.bootstrap.unlink(missing_ok=True)


def write_durably(path: Path, body: bytes) -> None:
    """Write a file that a power cut leaves whole or absent; readable by root alone."""
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(fd)
    fresh.rename(path)
    sync_directory(path.parent)
