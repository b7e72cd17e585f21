"""A cluster of one manager out of what one manager, or a backup, holds. Offline: no manager runs.

The manager that goes on alone keeps every entry of its log, also those it never saw committed: some
of them may have been acknowledged. What the other managers acknowledged and this one does not hold
is lost; `Recovered` tells how far this log reaches. The other managers are removed with their
certificates, so that none of them can come back with an older truth: they join again.
"""

import datetime
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from manager.ca.certificates import GRACE_NS, lifetime_of, new_request, sign_request, trust_of
from manager.config import Paths, RecoverConfig
from manager.keys import load_keyring
from manager.raft.disk import FileDisk, make_directory
from manager.raft.journal import Corrupt, Journal
from manager.raft.pinned import NO_OP, REGULAR
from manager.raft.snapshot import SnapshotHeader, pack_snapshot, read_snapshot, write_snapshot
from manager.replica import Replica
from manager.returning import Aside
from manager.store import changes as c
from manager.store import level, snapshot
from manager.store.apply import apply
from manager.store.view import View
from swarmapi.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument
from swarmapi.identity import TLSMaterial, identity_of, validity
from swarmapi.ids import new_id
from swarmapi.keyring import Keyring, seal_key, unlock_secret
from swarmapi.model.objects import Node
from swarmapi.model.spec import NodeRole, NodeSpec

log = logging.getLogger(__name__)
RandomBytes = Callable[[int], bytes]


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; times are of the cluster's clock."""

    node_id: str
    cluster_id: str
    index: int
    """The last entry of the log that goes on."""
    last_change_ns: int
    uncommitted: int
    """Entries that are kept, though this manager never saw them committed."""
    removed: tuple[str, ...]
    """Ids of the other managers."""


class _Held(msgspec.Struct, kw_only=True):
    view: View
    index: int
    term: int
    uncommitted: int


def recover(config: RecoverConfig) -> Recovered:
    """Make this manager's state a cluster of it alone.

    Raises:
        FailedPrecondition: there is no state, not a whole one, or one of a newer version.
        Corrupt, Locked, Internal: it cannot be read.
    """
    paths = config.paths
    if Aside(paths.state_dir, paths.raft).is_marked:
        raise FailedPrecondition(
            "the log of this manager was damaged and it has not come back yet: "
            "recover another manager, or restore a backup"
        )
    keyring = load_keyring(paths, config.unlock_key)
    disk = FileDisk(paths.raft / "log")
    try:
        journal = Journal(disk, keyring=keyring)
        held = _read_log(journal, paths.raft / "snapshot", keyring)
        node_id = identity_of(paths.cert.read_bytes()).node_id
        recovered = _alone(held, node_id, config.advertise)
        header = SnapshotHeader(held.index, held.term, ((node_id, config.advertise),))
        write_snapshot(paths.raft / "snapshot", header, snapshot.dump(held.view), keyring)
        journal.reset(NO_OP, held.index, held.term)
    finally:
        disk.close()
    _certify(paths, keyring, held.view, node_id, time.time_ns())
    return recovered


def restore(config: RecoverConfig, random_bytes: RandomBytes) -> Recovered:
    """Make a manager with a new identity out of a backup.

    Raises:
        AlreadyExists: the state directory holds a manager.
        InvalidArgument: the file is no backup, is damaged, or needs another unlock key or a newer
            version.
    """
    paths = config.paths
    if paths.cert.exists() or paths.raft.exists():
        raise AlreadyExists(f"{paths.state_dir} belongs to a cluster already: leave it first")
    try:
        opens = Keyring([unlock_secret(config.unlock_key)]) if config.unlock_key else None
        header, parts = read_snapshot(Path(config.backup).read_bytes(), opens)
        view = snapshot.restore(parts)
        level.check_view(view)
        held = _Held(view=view, index=header.index, term=header.term, uncommitted=0)
    except level.TooNew as error:
        raise InvalidArgument(f"backup cannot be restored: {error}") from error
    except (Corrupt, ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument(
            f"backup cannot be restored ({error}): check the file, and give the unlock key of a "
            "cluster with autolock"
        ) from error
    make_directory(paths.raft)
    keyring = load_keyring(paths)
    node_id = new_id(random_bytes)
    recovered = _alone(held, node_id, config.advertise)
    _certify(paths, keyring, held.view, node_id, time.time_ns())
    fresh = SnapshotHeader(held.index, held.term, ((node_id, config.advertise),))
    write_snapshot(paths.raft / "snapshot", fresh, snapshot.dump(held.view), keyring)
    return recovered


def certify_again(paths: Paths, keyring: Keyring, now_ns: int) -> None:
    """Give a manager whose certificate is over a new one, signed with the CA its own log holds.

    After months without power no manager could otherwise reach another.

    Raises:
        FailedPrecondition: it is over for too long, the log says it is no manager any more, or
            the log is of a newer version.
        Corrupt: the log is damaged.
    """
    cert_pem = paths.cert.read_bytes()
    over_ns = now_ns - validity(cert_pem)[1]
    if over_ns <= 0:
        return
    node_id = identity_of(cert_pem).node_id
    disk = FileDisk(paths.raft / "log")
    try:
        view = _read_log(Journal(disk, keyring=keyring), paths.raft / "snapshot", keyring).view
    finally:
        disk.close()
    node = view.nodes.get(node_id)
    if over_ns > GRACE_NS or node is None or not node.is_manager:
        raise FailedPrecondition(
            "this manager's certificate is over: leave the cluster by force and join it again"
        )
    log.warning("the certificate was over: this manager signs itself another one")
    _certify(paths, keyring, view, node_id, now_ns)


def backup(view: View, term: int, members: dict[str, str]) -> Iterator[bytes]:
    """Yield the state as a backup, sealed with the unlock key of a cluster with autolock."""
    key = view.cluster.unlock_key if view.cluster is not None else ""
    keyring = Keyring([unlock_secret(key)]) if key else None
    header = SnapshotHeader(view.index, term, tuple(sorted(members.items())))
    return pack_snapshot(header, tuple(snapshot.dump(view)), keyring)


def _read_log(journal: Journal, path: Path, keyring: Keyring) -> _Held:
    try:
        return _replay(journal, path, keyring)
    except level.TooNew as error:
        raise FailedPrecondition(str(error)) from error


def _replay(journal: Journal, path: Path, keyring: Keyring) -> _Held:
    replica, index, term = Replica(), 0, journal.term
    if path.exists():
        header, parts = read_snapshot(path.read_bytes(), keyring)
        replica.restore(parts)
        index, term = header.index, max(term, header.term)
    if not journal.entries and not index:
        raise FailedPrecondition("this manager holds no state: there is nothing to recover")
    for command, at, of_term in journal.entries:
        if at <= index:
            continue
        if at != index + 1 and index:
            raise Corrupt(f"log goes on at {at} after {index}; restore this member")
        index, term = at, max(term, of_term)
        if command[:1] == REGULAR:
            replica.apply([_LogEntry(index=at, payload=command[1:])])
    return _Held(
        view=replica.view, index=index, term=term, uncommitted=max(0, index - journal.commit)
    )


class _LogEntry(msgspec.Struct, frozen=True):
    index: int
    payload: bytes


def _alone(held: _Held, node_id: str, advertise: str) -> Recovered:
    """Change the state so that `node_id` is its one manager, at `advertise`."""
    view = held.view
    cluster = view.cluster
    if cluster is None:
        raise FailedPrecondition("this manager holds no cluster yet: there is nothing to recover")
    last_change_ns = view.now_ns
    others = sorted(n.id for n in view.nodes.values() if n.is_manager and n.id != node_id)
    present = view.nodes.get(node_id)
    node = replace(
        present or Node(id=node_id),
        spec=replace(present.spec if present else NodeSpec(), role=NodeRole.MANAGER),
        address=advertise.rpartition(":")[0],
        manager_address=advertise,
    )
    reason = "the cluster goes on with this manager alone"
    _apply(held, c.PutNode(node=node, reason=reason))
    for other in others:
        spec = replace(view.nodes[other].spec, role=NodeRole.WORKER)
        index = view.nodes[other].meta.version
        demote = c.SetNodeSpec(node_id=other, spec=spec, read_index=index, reason=reason)
        _apply(held, demote)
        _apply(held, c.Delete(object="node", id=other, reason=reason))
    return Recovered(
        node_id=node_id,
        cluster_id=cluster.id,
        index=held.index,
        last_change_ns=last_change_ns,
        uncommitted=held.uncommitted,
        removed=tuple(others),
    )


def _apply(held: _Held, change: c.Change) -> None:
    held.index += 1
    done = apply(
        held.view, held.index, held.view.now_ns, c.Transaction(request_id="", changes=(change,))
    )
    if done.conflict is not None:
        raise Internal(f"state cannot be recovered: {done.conflict.message}")


def _certify(paths: Paths, keyring: Keyring, view: View, node_id: str, now_ns: int) -> None:
    """Give the manager a certificate of now: its present one may be over."""
    cluster = view.cluster
    if cluster is None or cluster.root_ca is None:
        raise Internal("state has no certificate authority: it cannot be recovered")
    key_pem, csr_pem = new_request()
    certificate = sign_request(
        cluster.root_ca,
        csr_pem,
        node_id=node_id,
        role=NodeRole.MANAGER,
        cluster_id=cluster.id,
        now=datetime.datetime.fromtimestamp(now_ns / 1e9, datetime.UTC),
        lifetime=lifetime_of(cluster.spec),
    )
    tls = TLSMaterial(trust_of(cluster.root_ca), certificate, key_pem)
    paths.tls.save(tls, lambda key: seal_key(key, keyring))
