"""A mapping, an index and queues that can lie over another one and leave it unwritten."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Final, Generic, TypeVar

from swarmapi.override import override

K = TypeVar("K")
V = TypeVar("V")
_ABSENT: Final = object()


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
    def get(self, key: K, default: Any = None) -> Any:
        found = self._own.get(key, _ABSENT)
        if found is not _ABSENT:
            return found
        return default if key in self._gone else self._base.get(key, default)

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
    """Key to a set of ids; over a base, a key's set is copied when it is read after a write."""

    __slots__ = ("_base", "_sets", "_unread")

    def __init__(self, base: "Index[K] | None" = None) -> None:
        self._base = base
        self._sets: dict[K, set[str]] = {}
        self._unread: dict[K, dict[str, bool]] = {}
        """Writes over the base by key: the member is in it now, or not."""

    def of(self, key: K) -> set[str]:
        """Return the ids under `key`; read only."""
        found = self._sets.get(key)
        if found is not None:
            return found
        if self._base is None:
            return set()
        unread = self._unread.pop(key, None)
        if unread is None:
            return self._base.of(key)
        copy = self._sets[key] = set(self._base.of(key))
        for member, is_in in unread.items():
            (copy.add if is_in else copy.discard)(member)
        return copy

    def add(self, key: K, member: str) -> None:
        """Put an id under a key."""
        own = self._sets.get(key)
        if own is not None:
            own.add(member)
        elif self._base is None:
            self._sets[key] = {member}
        else:
            self._unread.setdefault(key, {})[member] = True

    def discard(self, key: K, member: str) -> None:
        """Take an id from under a key."""
        own = self._sets.get(key)
        if own is not None:
            own.discard(member)
            if not own and self._base is None:
                del self._sets[key]
        elif self._base is not None:
            self._unread.setdefault(key, {})[member] = False


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
