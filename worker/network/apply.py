"""Makes nf_tables equal to the plan, one transaction per table, and reads the kernel back."""

from typing import Protocol

from worker.network import nftexpr as nx


class TableStore(Protocol):
    """Where tables live: the kernel, or a fake of it."""

    def apply(self, family: int, table: str, operations: list[nx.Operation]) -> int:
        """Run one transaction and return the number of operations."""
        ...

    def read(self, family: int, name: str) -> nx.TableState | None:
        """Return a table, or None."""
        ...


class TableKeeper:
    """Keeps one table of one namespace as planned.

    Knows what it applied last, so an update costs the difference only; `verify` compares with
    what the kernel really holds.
    """

    def __init__(self, store: TableStore, family: int, name: str) -> None:
        self._store = store
        self._family = family
        self._name = name
        self._applied: nx.TableState | None = None
        self._known = False

    def settle(self, desired: nx.TableState | None) -> int:
        """Apply the difference and return its size; on refusal the kernel is read anew."""
        if self._known and self._applied is desired:
            return 0
        if not self._known:
            self._applied = self._store.read(self._family, self._name)
            self._known = True
        operations = nx.difference(self._applied, desired)
        self._known = False
        changed = self._store.apply(self._family, self._name, operations)
        self._applied, self._known = desired, True
        return changed

    def verify(self) -> int:
        """Repair what differs from the last applied state; return the number of repairs."""
        if not self._known:
            return 0
        desired = self._applied
        self._known = False
        return self.settle(desired)
