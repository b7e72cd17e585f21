"""Endpoint tables as deltas, computed once for all sessions."""

import msgspec

from manager.store.tables import network_table
from manager.store.view import View
from swarmapi.model.tables import NetworkTable, TableDelta, delta_between

_encode = msgspec.msgpack.encode
_KEPT_DELTAS = 1024


class TableCache:
    """Remembers each network's newest table and the deltas made of it."""

    def __init__(self) -> None:
        self._tables: dict[str, NetworkTable] = {}
        self._deltas: dict[tuple[str, int, int], bytes] = {}

    def clear(self) -> None:
        """Forget everything: the View was replaced."""
        self._tables.clear()
        self._deltas.clear()

    def table(self, view: View, network_id: str) -> NetworkTable | None:
        """Return the present table of a network; None while it has no subnet."""
        network = view.networks.get(network_id)
        known = self._tables.get(network_id)
        if network is not None and known is not None and known.revision == network.table_index:
            return known
        table = network_table(view, network_id)
        if table is None:
            self._tables.pop(network_id, None)
        else:
            self._tables[network_id] = table
        return table

    def delta(self, old: NetworkTable | None, new: NetworkTable) -> bytes:
        """Return the encoded delta between two tables of a network."""
        key = (new.network_id, old.revision if old is not None else 0, new.revision)
        found = self._deltas.get(key)
        if found is None:
            if len(self._deltas) >= _KEPT_DELTAS:
                self._deltas.clear()
            found = self._deltas[key] = _encode(delta_between(old, new))
        return found


def unchanged(table: NetworkTable) -> bytes:
    """Return the delta that says: what you hold is right."""
    same = TableDelta(network_id=table.network_id, revision=table.revision, base=table.revision)
    return _encode(same)
