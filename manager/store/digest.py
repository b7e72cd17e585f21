"""A digest of the View that costs what a change touches: the XOR over all its objects.

Members that applied the same entries have the same digest. Stories, quarantined addresses, a
network's table revision and the last VXLAN id are outside of it: changes do not tell of each move.
So are managers' levels and versions, which managers of before levels do not note.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from manager.store.apply import Applied
from manager.store.effects import Object
from manager.store.view import View
from swarmapi.model.objects import Cluster, Network, Node, SpecVersion

DIGEST_BYTES: Final = 16
_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode
_OUTSIDE: Final = "quarantined"


def digest_of(view: View) -> int:
    """Return the digest of everything in a View."""
    tables: tuple[tuple[str, Iterable[Object | SpecVersion]], ...] = (
        ("cluster", (view.cluster,) if view.cluster is not None else ()),
        ("spec", view.specs.values()),
        ("node", view.nodes.values()),
        ("service", view.services.values()),
        ("network", view.networks.values()),
        ("lease", view.leases.values()),
        ("secret", view.secrets.values()),
        ("config", view.configs.values()),
        ("task", view.tasks.values()),
    )
    found = 0
    for kind, objects in tables:
        for item in objects:
            found ^= _of(kind, item)
    for request_id, known in view.requests.items():
        found ^= _of("request", (request_id, *known))
    return found


def moved_by(applied: Applied) -> int:
    """Return what a transaction changes the digest by: XOR it in."""
    found = 0
    for (kind, _), moved in applied.changed.items():
        if kind != _OUTSIDE:
            found ^= _of(kind, moved.before) ^ _of(kind, moved.after)
    for spec in applied.specs:
        found ^= _of("spec", spec)
    for request in applied.requests:
        found ^= _of("request", request)
    return found


def agreed(told: Mapping[str, str], leader: str) -> tuple[str, bool]:
    """Return the digest that holds, and whether most managers have it.

    `told` has the digest of each, empty where it is not known. Without a majority of all of them
    the leader's word counts.
    """
    votes = Counter(digest for digest in told.values() if digest)
    for digest, count in votes.items():
        if 2 * count > len(told):
            return digest, True
    return told[leader], False


def _of(kind: str, item: object) -> int:
    if item is None:
        return 0
    if isinstance(item, Network):
        item = replace(item, table_index=0)
    elif isinstance(item, Cluster):
        item = replace(item, last_vni=0)
    elif isinstance(item, Node):
        item = replace(item, level=0, manager_version="")
    data = kind.encode() + _encode(item)
    return int.from_bytes(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), "big")
