"""A mapping, an index and queues that can lie over another one and leave it unwritten."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Generic, TypeVar

from swarmapi.override import override

K = TypeVar("K")
V = TypeVar("V")


class Layer(MutableMapping[K, V]):
    """A mapping that keeps its own writes and reads through to another one."""

    __slots__ = ("_base", "_gone", "_own")

    def __init__(self, base: MutableMapping[K, V]) -> None:
        self._base = base
        self._own: dict[K, V] = {}
        self._gone: set[K] = set()

    @override
    def __getitem__(self, key: K) -> V:
        if key in self._own:
            return self._own[key]
        if key in self._gone:
            raise KeyError(key)
        return self._base[key]

    @override
    def __setitem__(self, key: K, value: V) -> None:
        self._own[key] = value
        self._gone.discard(key)

    @override
    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._own.pop(key, None)
        self._gone.add(key)

    @override
    def __contains__(self, key: object) -> bool:
        return key in self._own or (key not in self._gone and key in self._base)

    @override
    def __iter__(self) -> Iterator[K]:
        for key in self._base:
            if key not in self._gone and key not in self._own:
                yield key
        yield from self._own

    @override
    def __len__(self) -> int:
        return sum(1 for _ in self)


class Index(Generic[K]):
    """Key to a set of ids; over a base, a key's set is copied at its first write."""

    __slots__ = ("_base", "_sets")

    def __init__(self, base: "Index[K] | None" = None) -> None:
        self._base = base
        self._sets: dict[K, set[str]] = {}

    def of(self, key: K) -> set[str]:
        """Return the ids under `key`; read only."""
        found = self._sets.get(key)
        if found is None:
            return self._base.of(key) if self._base is not None else set()
        return found

    def add(self, key: K, member: str) -> None:
        """Put an id under a key."""
        self._writable(key).add(member)

    def discard(self, key: K, member: str) -> None:
        """Take an id from under a key."""
        members = self._writable(key)
        members.discard(member)
        if not members and self._base is None:
            del self._sets[key]

    def _writable(self, key: K) -> set[str]:
        own = self._sets.get(key)
        if own is None:
            own = self._sets[key] = set(self._base.of(key)) if self._base is not None else set()
        return own


class Queues:
    """Key to ids with a number each, in the order of the numbers; copied at the first write."""

    __slots__ = ("_base", "_queues")

    def __init__(self, base: "Queues | None" = None) -> None:
        self._base = base
        self._queues: dict[str, dict[str, int]] = {}

    def filled(self) -> list[str]:
        """Return the keys whose queue is not empty, in order."""
        known = set(self._queues).union(self._base.filled() if self._base is not None else ())
        return sorted(key for key in known if self.of(key))

    def of(self, key: str) -> Mapping[str, int]:
        """Return the ids under `key` with their numbers, the lowest first; read only."""
        found = self._queues.get(key)
        if found is None:
            return self._base.of(key) if self._base is not None else {}
        return found

    def add(self, key: str, member: str, number: int) -> None:
        """Put an id into a queue: at its end, when the numbers grow as they do."""
        queue = self._writable(key)
        queue.pop(member, None)
        last = next(reversed(queue.values()), number)
        queue[member] = number
        if number < last:
            self._queues[key] = dict(sorted(queue.items(), key=lambda item: item[1]))

    def discard(self, key: str, member: str) -> None:
        """Take an id out of a queue."""
        queue = self._writable(key)
        queue.pop(member, None)
        if not queue and self._base is None:
            del self._queues[key]

    def _writable(self, key: str) -> dict[str, int]:
        own = self._queues.get(key)
        if own is None:
            own = self._queues[key] = dict(self._base.of(key)) if self._base is not None else {}
        return own
