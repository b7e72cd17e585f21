"""What one session has told its node, and the next message that brings it up to date."""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from manager.ca.certificates import trust_of
from manager.dispatcher.tables import TableCache, unchanged
from manager.orchestrator.rotation import issuer_wanted
from manager.store.tables import tables_of_node
from manager.store.view import View, is_live
from swarmapi.model import defaults
from swarmapi.model.objects import (
    Config,
    Meta,
    SpecVersion,
    Task,
    TaskEndpointLease,
    TaskState,
    TaskStatus,
)
from swarmapi.model.tables import NetworkTable
from swarmapi.v1 import dispatcher_pb2 as pb

_encode = msgspec.msgpack.encode
_NO_STATUS = TaskStatus(state=TaskState.ASSIGNED)


SECRETS_BYTES: Final = 8 << 20
"""With more secrets and configs than that, a message is cut: gRPC bounds each."""
RENEWAL_MS: Final = 100
"""Ten nodes in a second renew their certificates for another root."""
SecretKey = tuple[str, str]
"""`secret` or `config`, and its id."""


def _used(task: Task, record: SpecVersion | None) -> frozenset[SecretKey]:
    if record is None or not is_live(task) or task.desired > TaskState.COMPLETE:
        return frozenset()
    return frozenset((kind, r.id) for kind, r in defaults.references(record.spec))


def spec_in_force(view: View, task: Task) -> SpecVersion | None:
    """Return what a task runs: its spec version, with what is swapped as its service has it now."""
    record, service = view.spec_of(task), view.services.get(task.service_id)
    if record is None or service is None or service.spec_version == record.version:
        return record
    return replace(record, spec=defaults.in_force(record.spec, service.spec))


def stable_part(task: Task) -> Task:
    """Return what of a task its agent acts on; a change of the rest is not sent."""
    return replace(
        task,
        status=_NO_STATUS,
        meta=Meta(),
        explanation=b"",
        running_ns=0,
        endpoint=TaskEndpointLease(drained=task.endpoint.drained),
    )


class Assigner:
    """Makes the messages of one session, numbered 1, 2, 3 …"""

    def __init__(
        self,
        node_id: str,
        cache: TableCache,
        held: Mapping[str, int],
        secrets_bytes: int = SECRETS_BYTES,
    ) -> None:
        self._node_id = node_id
        self._cache = cache
        self._held = held
        """Table revisions the node said it holds."""
        self._tasks: dict[str, Task] = {}
        self._tables: dict[str, NetworkTable] = {}
        self._uses: dict[str, frozenset[SecretKey]] = {}
        """Task id to what its container reads."""
        self._secrets: set[SecretKey] = set()
        """What the node has."""
        self._secrets_bytes = secrets_bytes
        self._ahead: list[pb.Assignments] = []
        self._managers: list[str] = []
        self._trust: tuple[bytes, str] | None = None
        self._chain = 0

    def complete(self, view: View) -> pb.Assignments:
        """Return the whole set: what is not in it must go."""
        message = pb.Assignments(kind=pb.Assignments.COMPLETE)
        for task in view.tasks_of_node(self._node_id):
            self._add_task(view, task, message)
        for network_id in tables_of_node(view, self._node_id):
            table = self._cache.table(view, network_id)
            if table is None:
                continue
            holds = self._held.get(network_id) == table.revision
            message.tables.append(unchanged(table) if holds else self._cache.delta(None, table))
            self._tables[network_id] = table
        self._add_secrets(view, message)
        self._add_managers(view, message)
        self._add_trust(view, message)
        return self._numbered(message)

    def incremental(self, view: View, dirty_tasks: set[str]) -> pb.Assignments | None:
        """Return what changed since the last message; None when nothing did."""
        message = pb.Assignments(kind=pb.Assignments.INCREMENTAL)
        for task_id in sorted(dirty_tasks):
            task = view.tasks.get(task_id)
            if task is not None and task.node_id == self._node_id:
                self._add_task(view, task, message)
            elif self._tasks.pop(task_id, None) is not None:
                self._uses.pop(task_id, None)
                message.removed_tasks.append(task_id)
        self._add_secrets(view, message)
        present = tables_of_node(view, self._node_id)
        for network_id in present:
            table = self._cache.table(view, network_id)
            old = self._tables.get(network_id)
            if table is not None and (old is None or old.revision != table.revision):
                message.tables.append(self._cache.delta(old, table))
                self._tables[network_id] = table
        for network_id in [i for i in self._tables if i not in present]:
            del self._tables[network_id]
            message.removed_tables.append(network_id)
        self._add_managers(view, message)
        self._add_trust(view, message)
        if not message.ByteSize():
            return None
        return self._numbered(message)

    def take_ahead(self) -> list[pb.Assignments]:
        """Return what goes before the message last made: secrets that have no room in it."""
        ahead, self._ahead = self._ahead, []
        return ahead

    def _add_task(self, view: View, task: Task, message: pb.Assignments) -> None:
        if task.status.state < TaskState.ASSIGNED:
            return
        stable = stable_part(task)
        record = spec_in_force(view, task)
        before, uses = self._uses.get(task.id), _used(task, record)
        self._uses[task.id] = uses
        swapped = bool(before and uses) and before != uses
        if record is None or (self._tasks.get(task.id) == stable and not swapped):
            return
        self._tasks[task.id] = stable
        # The status travels along, so that a node that lost its memory starts from it.
        message.tasks.append(pb.AssignedTask(task=_encode(task), spec=_encode(record)))

    def _add_secrets(self, view: View, message: pb.Assignments) -> None:
        """Add what its tasks began to use; one that is gone is missing, and the task tells so."""
        used = set().union(*self._uses.values())
        size_bytes = 0
        for kind, secret_id in sorted(used - self._secrets):
            secret = view.table_of(kind).get(secret_id)
            if secret is None:
                continue
            encoded = _encode(secret)
            (message.configs if kind == Config.kind else message.secrets).append(encoded)
            self._secrets.add((kind, secret_id))
            size_bytes += len(encoded)
            if size_bytes > self._secrets_bytes:
                ahead = pb.Assignments(secrets=message.secrets, configs=message.configs)
                self._ahead.append(self._numbered(ahead))
                del message.secrets[:], message.configs[:]
                size_bytes = 0
        for key in sorted(self._secrets - used):
            self._secrets.remove(key)
            message.removed_secrets.append(key[1])

    def _add_managers(self, view: View, message: pb.Assignments) -> None:
        managers = view.manager_addresses()
        if managers != self._managers:
            self._managers = managers
            message.managers.extend(managers)

    def _add_trust(self, view: View, message: pb.Assignments) -> None:
        root = view.cluster.root_ca if view.cluster is not None else None
        if root is None:
            return
        trust = (trust_of(root), issuer_wanted(root))
        if trust != self._trust:
            self._trust = trust
            message.trust.roots_pem, message.trust.issuer = trust
            message.trust.renew_within_ms = len(view.nodes) * RENEWAL_MS

    def _numbered(self, message: pb.Assignments) -> pb.Assignments:
        self._chain += 1
        message.chain = self._chain
        return message
