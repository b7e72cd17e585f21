"""nf_tables in memory: atomic transactions, and refusals where the kernel refuses."""

import errno
from collections.abc import Iterable

from worker.network import nftexpr as nx


class FakeTables:
    """A TableStore; `refuse` makes every transaction fail.

    `transactions` counts those that changed something.
    """

    def __init__(self) -> None:
        self.tables: dict[tuple[int, str], nx.TableState] = {}
        self.transactions = 0
        self.refuse = False

    def read(self, family: int, name: str) -> nx.TableState | None:
        return self.tables.get((family, name))

    def apply(self, family: int, table: str, operations: Iterable[nx.Operation]) -> int:
        wanted = list(operations)
        if self.refuse:
            raise _refuse(errno.ENOMEM, "no memory")
        if not wanted:
            return 0
        state = self.tables.get((family, table))
        for operation in wanted:
            state = _after(family, table, state, operation)
        if state is None:
            self.tables.pop((family, table), None)
        else:
            _check(state)
            self.tables[family, table] = state
        self.transactions += 1
        return len(wanted)


def _refuse(code: int, what: str) -> OSError:
    return OSError(code, what)


def _after(
    family: int, name: str, state: nx.TableState | None, operation: nx.Operation
) -> nx.TableState | None:
    if isinstance(operation, nx.AddTable):
        return state or nx.table(family, name, {}, {}, {})
    if state is None:
        raise _refuse(errno.ENOENT, f"no table {name}")
    if isinstance(operation, nx.RemoveTable):
        return None
    chains, shapes = dict(state.chains), dict(state.shapes)
    elements = {key: dict(found) for key, found in state.elements.items()}
    if isinstance(operation, nx.AddSet):
        shapes[operation.name] = operation.shape
    elif isinstance(operation, nx.AddElements | nx.RemoveElements):
        _change_elements(elements[operation.set_name], set(chains), operation)
    else:
        _change_chains(chains, elements, operation)
    return nx.table(family, name, chains, shapes, elements)


def _change_chains(
    chains: dict[str, nx.Chain],
    elements: dict[str, dict[bytes, nx.Value]],
    operation: nx.AddChain | nx.RewriteChain | nx.RemoveChain,
) -> None:
    name = operation.name
    if isinstance(operation, nx.AddChain):
        chains[name] = operation.chain
        return
    if name not in chains:
        raise _refuse(errno.ENOENT, f"no chain {name}")
    if isinstance(operation, nx.RewriteChain):
        chains[name] = operation.chain
        return
    if any(name in found.values() for found in elements.values()):
        raise _refuse(errno.EBUSY, f"chain {name} is in use")
    del chains[name]


def _change_elements(
    found: dict[bytes, nx.Value],
    chains: set[str],
    operation: nx.AddElements | nx.RemoveElements,
) -> None:
    if isinstance(operation, nx.RemoveElements):
        for key in operation.keys:
            if key not in found:
                raise _refuse(errno.ENOENT, f"no element of {operation.set_name}")
            del found[key]
        return
    for key, value in operation.elements.items():
        if found.get(key, value) != value:
            raise _refuse(errno.EEXIST, f"element of {operation.set_name} exists")
        if isinstance(value, str) and value not in chains:
            raise _refuse(errno.ENOENT, f"no chain {value}")
        found[key] = value


def _check(state: nx.TableState) -> None:
    for key, found in state.elements.items():
        for item in found:
            if len(item) != state.shapes[key].key_size:
                raise _refuse(errno.EINVAL, f"key size of {key}")
