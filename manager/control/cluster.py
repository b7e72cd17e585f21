"""The cluster object: first contents, settings, join tokens, leaving."""

import datetime
import logging
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from manager.ca.certificates import new_token
from manager.ca.rotation import begin, same_root
from manager.control.nodes import check_demotion
from manager.control.validate import check_cluster
from manager.replica import OUT_OF_SEQUENCE, Store
from manager.store.changes import Change, PutCluster, PutNetwork, PutNode, SetNodeSpec
from manager.store.level import LEVEL
from manager.store.view import View
from swarmapi.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, Unavailable
from swarmapi.keyring import new_unlock_key
from swarmapi.model.objects import Cluster, Network, Node, NodeState, RootCA
from swarmapi.model.spec import CAConfig, ClusterSpec, NetworkSpec, NodeRole

log = logging.getLogger(__name__)
LOCK_WAIT_S: Final = 10.0
LEAVE_REFUSED = (
    "You are attempting to leave the swarm on a node that is participating as a manager. "
)


def first_changes(cluster: Cluster, node: Node, ingress_id: str) -> tuple[Change, ...]:
    """Return the transaction that founds a cluster: itself, its first manager, ingress."""
    ingress = NetworkSpec(name="ingress", driver="overlay", ingress=True, enable_ipv6=True)
    reason = "cluster founded"
    return (
        PutCluster(cluster=replace(cluster, level=LEVEL), expect_version=0, reason=reason),
        PutNode(node=replace(node, level=LEVEL), expect_version=0, reason=reason),
        PutNetwork(network=Network(id=ingress_id, spec=ingress), expect_version=0, reason=reason),
    )


def the_cluster(store: Store) -> Cluster:
    """Return the cluster object; raises Unavailable before it is there."""
    if store.view.cluster is None:
        raise Unavailable("the cluster is starting: try again")
    return store.view.cluster


async def update_cluster(
    store: Store,
    spec: ClusterSpec,
    version: int,
    random_bytes: Callable[[int], bytes],
    *,
    rotate_worker_token: bool = False,
    rotate_manager_token: bool = False,
    rotate_unlock_key: bool = False,
    skip_down: bool = False,
    request_id: str = "",
) -> None:
    """Change the cluster's settings, and rotate join tokens, unlock key or root; nodes stay.

    `skip_down` has a rotation of the root not wait for nodes that are down.

    Raises:
        SwarmError: a stale version or an invalid setting.
        FailedPrecondition: an unlock key is to be rotated that there is not.
    """
    cluster = the_cluster(store)
    if store.knows(request_id):
        return
    if cluster.meta.version != version:
        raise Internal(OUT_OF_SEQUENCE)
    check_cluster(spec)
    root = cluster.root_ca
    if root is None:
        raise Internal("the cluster has no certificate authority")
    root, spec = rotated(cluster, root, spec, skip_down, store.now_ns(), random_bytes)
    if rotate_worker_token:
        root = replace(root, join_token_worker=new_token(root.cert_pem, random_bytes))
    if rotate_manager_token:
        root = replace(root, join_token_manager=new_token(root.cert_pem, random_bytes))
    unlock_key = cluster.unlock_key
    if not (spec.encryption_config and spec.encryption_config.auto_lock_managers):
        if rotate_unlock_key:
            raise FailedPrecondition(
                "cannot rotate because autolock is not turned on: see swarm update --autolock"
            )
        unlock_key = ""
    elif rotate_unlock_key or not unlock_key:
        unlock_key = new_unlock_key(random_bytes)
    new = replace(cluster, spec=spec, root_ca=root, unlock_key=unlock_key)
    change = PutCluster(cluster=new, expect_version=version, reason="cluster updated")
    await store.propose((change,), request_id)


async def await_lock(store: Store, limit_s: float = LOCK_WAIT_S) -> list[str]:
    """Wait until every ready manager's keys follow the unlock key on its disk; return warnings.

    A manager that starts anew before wants the key of before. One that is away, or does not follow
    in time, follows once it can, and has a warning.
    """

    def late(view: View) -> list[Node]:
        index = view.cluster.lock_index if view.cluster is not None else 0
        return [n for n in view.nodes.values() if n.is_manager and n.lock_index < index]

    def settled(view: View) -> bool:
        return not any(node.state == NodeState.READY for node in late(view))

    await store.until(settled, limit_s)
    names = sorted(node.description.hostname or node.id for node in late(store.view))
    warnings = [f"manager {name} still wants the unlock key of before: keep it" for name in names]
    for warning in warnings:
        log.warning("%s", warning)
    return warnings


def rotated(
    cluster: Cluster,
    root: RootCA,
    spec: ClusterSpec,
    skip_down: bool,
    now_ns: int,
    random_bytes: Callable[[int], bytes],
) -> tuple[RootCA, ClusterSpec]:
    """Return the authority as a spec wants it, and the spec without the key it brings.

    Raises:
        InvalidArgument: it brings what cannot be the cluster's root.
        FailedPrecondition: nodes are to be left out of a rotation that there is not.
    """
    wanted, present = spec.ca_config or CAConfig(), cluster.spec.ca_config or CAConfig()
    if spec.ca_config is None:  # who says nothing of it asks for no rotation, nor forgets one
        wanted = CAConfig(force_rotate=present.force_rotate)
        spec = replace(spec, ca_config=wanted) if wanted != CAConfig() else spec
    brings = wanted.signing_ca_cert
    if wanted.signing_ca_key and not brings:
        raise InvalidArgument("CAConfig.SigningCAKey: SigningCACert is needed, too")
    if same_root(brings, root) if brings else wanted.force_rotate == present.force_rotate:
        rotation = root.rotation
        if skip_down and rotation is None:
            raise FailedPrecondition("no rotation of the root certificate is in progress")
    else:
        now = datetime.datetime.fromtimestamp(now_ns / 1e9, datetime.UTC)
        rotation = begin(root, now, random_bytes, brings, wanted.signing_ca_key)
    if rotation is not None and skip_down:
        rotation = replace(rotation, skip_down=True)
    if spec.ca_config is not None:
        bare = replace(wanted, signing_ca_cert="", signing_ca_key="")
        spec = replace(spec, ca_config=bare)
    return replace(root, rotation=rotation), spec


async def leave(store: Store, node_id: str, force: bool, request_id: str = "") -> None:
    """Take a manager out of the control plane, so that its node can go.

    Raises:
        Unavailable: without `force`, as Docker does (status 503, with the consequences).
        Internal: somebody changed the node's spec at the same time.
    """
    node = store.view.nodes.get(node_id)
    if node is None:
        raise NotFound(f"node {node_id} not found")
    managers = [n for n in store.view.nodes.values() if n.is_manager]
    if not force and node.is_manager:
        raise Unavailable(LEAVE_REFUSED + leave_warning(node, managers))
    if not node.is_manager or len(managers) == 1:
        return
    check_demotion(store.view, node)
    worker = replace(node.spec, role=NodeRole.WORKER)
    change = SetNodeSpec(
        node_id=node_id, spec=worker, read_index=node.meta.version, reason="node left"
    )
    await store.propose((change,), request_id)


def leave_warning(node: Node, managers: Sequence[Node]) -> str:
    """Say what it means that a manager leaves, in Docker's words."""
    if len(managers) == 1:
        return (
            "Removing the last manager erases all current state of the swarm. "
            "Use `--force` to ignore this message. "
        )
    ready = sum(n.state == NodeState.READY for n in managers if n.id != node.id)
    if ready <= len(managers) // 2:
        consequence = (
            f"Removing this node leaves {ready} managers out of {len(managers)}. "
            "Without a Raft quorum your swarm will be inaccessible. "
        )
    else:
        consequence = "Doing so may lose the consensus of your cluster. "
    return consequence + (
        "The only way to restore a swarm that has lost consensus is to reinitialize it with "
        "`--force-new-cluster`. Use `--force` to suppress this message."
    )
