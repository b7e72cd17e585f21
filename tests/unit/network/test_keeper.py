"""The keeper of one table: differences only, repair after drift, recovery from a refusal."""

import pytest

from tests.unit.network.fake_tables import FakeTables
from worker.network import nftexpr as nx
from worker.network.apply import TableKeeper


def state(**elements: bytes) -> nx.TableState:
    found: dict[bytes, nx.Value] = {k.encode(): v for k, v in elements.items()}
    return nx.table(2, "t", {}, {"m": nx.SetShape((4,), data_size=4)}, {"m": found})


def test_settling_twice_is_one_transaction() -> None:
    store = FakeTables()
    keeper = TableKeeper(store, 2, "t")
    assert keeper.settle(state(aaaa=b"1111"))
    assert keeper.settle(state(aaaa=b"1111")) == 0
    assert store.transactions == 1


def test_what_a_former_process_left_is_taken_over() -> None:
    store = FakeTables()
    TableKeeper(store, 2, "t").settle(state(aaaa=b"1111", bbbb=b"2222"))
    assert TableKeeper(store, 2, "t").settle(state(aaaa=b"1111")) == 1
    assert store.read(2, "t") == state(aaaa=b"1111")


def test_drift_is_seen_by_verify_only_and_repaired() -> None:
    store = FakeTables()
    keeper = TableKeeper(store, 2, "t")
    wanted = state(aaaa=b"1111")
    keeper.settle(wanted)
    store.tables[2, "t"] = state(aaaa=b"9999", bbbb=b"2222")
    assert keeper.settle(wanted) == 0
    assert keeper.verify() == 2
    assert store.read(2, "t") == wanted
    assert keeper.verify() == 0


def test_after_a_refusal_the_kernel_is_read_anew() -> None:
    store = FakeTables()
    keeper = TableKeeper(store, 2, "t")
    keeper.settle(state(aaaa=b"1111"))
    store.refuse = True
    with pytest.raises(OSError, match="no memory"):
        keeper.settle(state(bbbb=b"2222"))
    store.refuse = False
    assert keeper.settle(state(bbbb=b"2222")) == 2
    assert store.read(2, "t") == state(bbbb=b"2222")


def test_a_changed_hook_rebuilds_the_table_in_one_transaction() -> None:
    store = FakeTables()
    keeper = TableKeeper(store, 2, "t")
    old = nx.table(2, "t", {"c": nx.Chain((), "nat", 3, -100)}, {}, {})
    new = nx.table(2, "t", {"c": nx.Chain((), "nat", 3, -105)}, {}, {})
    keeper.settle(old)
    keeper.settle(new)
    assert store.read(2, "t") == new
    assert store.transactions == 2
    keeper.settle(None)
    assert store.read(2, "t") is None
