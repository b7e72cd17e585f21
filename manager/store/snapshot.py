"""Snapshots: a View as bounded chunks of msgpack, and back."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from manager.store.view import View
from swarmapi.model.objects import (
    Cluster,
    Config,
    Network,
    NetworkLease,
    Node,
    Quarantined,
    Secret,
    Service,
    SpecVersion,
    Story,
    Task,
)

FORMAT: Final = 1
CHUNK_OBJECTS: Final = 500


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    index: int = 0
    now_ns: int = 0
    requests: tuple[tuple[str, int, bytes], ...] = ()


class _Chunk(msgspec.Struct, frozen=True, kw_only=True):
    kind: str = ""
    objects: tuple[msgspec.Raw, ...] = ()


_TYPES: Final[dict[str, type[msgspec.Struct]]] = {
    "cluster": Cluster,
    "network": Network,
    "node": Node,
    "lease": NetworkLease,
    "secret": Secret,
    "config": Config,
    "spec": SpecVersion,
    "service": Service,
    "task": Task,
    "quarantined": Quarantined,
    "story": Story,
}


def dump(view: View) -> Iterator[bytes]:
    """Yield a header, then chunks of at most 500 objects, in the order `restore` needs."""
    encode = msgspec.msgpack.encode
    requests = tuple((key, *value) for key, value in view.requests.items())
    yield encode(_Header(index=view.index, now_ns=view.now_ns, requests=requests))
    tables: tuple[tuple[str, list[Any]], ...] = (
        ("cluster", [view.cluster] if view.cluster is not None else []),
        ("network", _by_key(view.networks)),
        ("node", _by_key(view.nodes)),
        ("lease", _by_key(view.leases)),
        ("secret", _by_key(view.secrets)),
        ("config", _by_key(view.configs)),
        ("spec", _by_key(view.specs)),
        ("service", _by_key(view.services)),
        ("task", _by_key(view.tasks)),
        ("story", [Story(id=i, lines=lines) for i, lines in sorted(view.stories.items())]),
        ("quarantined", sorted(view.quarantined.values(), key=lambda q: (q.index, q.id))),
    )
    for kind, objects in tables:
        for start in range(0, len(objects), CHUNK_OBJECTS):
            part = objects[start : start + CHUNK_OBJECTS]
            yield encode(_Chunk(kind=kind, objects=tuple(msgspec.Raw(encode(o)) for o in part)))


def restore(chunks: Iterable[bytes]) -> View:
    """Return the View that `dump` wrote; kinds and fields not known are passed over.

    Raises:
        msgspec.DecodeError: when a chunk is damaged.
        ValueError: when there is no header or its format is newer than this program's.
    """
    view = View()
    parts = iter(chunks)
    first = next(parts, None)
    if first is None:
        raise ValueError("snapshot is empty: take it again from another manager")
    header = msgspec.msgpack.decode(first, type=_Header)
    if header.format > FORMAT:
        raise ValueError(f"snapshot format {header.format} is newer than {FORMAT}: upgrade first")
    view.index, view.now_ns = header.index, header.now_ns
    for request_id, index, conflict in header.requests:
        view.requests[request_id] = (index, conflict)
    for part in parts:
        chunk = msgspec.msgpack.decode(part, type=_Chunk)
        kind = _TYPES.get(chunk.kind)
        if kind is not None:
            for raw in chunk.objects:
                _put(view, msgspec.msgpack.decode(raw, type=kind))
    return view


def _by_key(table: Any) -> list[Any]:
    return [table[key] for key in sorted(table)]


def _put(view: View, record: Any) -> None:
    match record:
        case Cluster():
            view.cluster = record
        case Network():
            view.put_network(record)
        case Node():
            view.put_node(record)
        case NetworkLease():
            view.put_lease(record)
        case Secret():
            view.put_secret(record)
        case SpecVersion():
            view.put_spec(record)
        case Service():
            view.put_service(record)
        case Task():
            view.put_task(record)
        case Story():
            view.stories[record.id] = record.lines
        case Quarantined():
            view.put_quarantined(record)
