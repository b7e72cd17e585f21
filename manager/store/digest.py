"""A digest of the View that costs what a change touches: the XOR over all its objects.

Members that applied the same entries have the same digest. The cluster, stories, quarantined
addresses and a network's table revision are outside of it: changes do not tell of each move.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from manager.store.effects import Moved, Object
from manager.store.expect import Key
from manager.store.view import View
from swarmapi.model.objects import Network

DIGEST_BYTES: Final = 16
_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode
_KINDS: Final = frozenset(("node", "service", "network", "lease", "secret", "config", "task"))


def digest_of(view: View) -> int:
    """Return the digest of everything in a View."""
    tables: tuple[tuple[str, Iterable[Object]], ...] = (
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
    return found


def moved_by(changed: Mapping[Key, Moved]) -> int:
    """Return what a transaction changes the digest by: XOR it in."""
    found = 0
    for (kind, _), moved in changed.items():
        if kind in _KINDS:
            found ^= _of(kind, moved.before) ^ _of(kind, moved.after)
    return found


def _of(kind: str, item: Object | None) -> int:
    if item is None:
        return 0
    if isinstance(item, Network):
        item = replace(item, table_index=0)
    data = kind.encode() + _encode(item)
    return int.from_bytes(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), "big")
