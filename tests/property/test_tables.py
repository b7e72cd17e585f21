"""Endpoint tables: a delta turns the old table into the new one, whatever they are."""

from hypothesis import given
from hypothesis import strategies as st

from swarmapi.model.tables import (
    EndpointState,
    NetworkTable,
    NodeEntry,
    ServiceEntry,
    TaskEndpoint,
    apply_delta,
    delta_between,
)

_KEYS = st.sampled_from(["a", "b", "c"])
_WORDS = st.sampled_from(["", "x", "y"])
_SERVICES = st.dictionaries(_KEYS, st.builds(ServiceEntry, service_id=_KEYS, name=_WORDS))
_ENDPOINTS = st.dictionaries(
    _KEYS,
    st.builds(
        TaskEndpoint,
        task_id=_KEYS,
        service_id=_KEYS,
        node_id=_KEYS,
        name=_WORDS,
        address=_WORDS,
        state=st.sampled_from(EndpointState),
    ),
)
_NODES = st.dictionaries(_KEYS, st.builds(NodeEntry, node_id=_KEYS, data_path=_WORDS))
_TABLES = st.builds(
    NetworkTable,
    network_id=st.just("n"),
    name=st.just("net"),
    revision=st.integers(1, 5),
    subnet=st.sampled_from(["10.0.1.0/24", "10.0.2.0/24"]),
    gateway=st.just("10.0.1.1"),
    vni=st.just(4097),
    services=_SERVICES,
    endpoints=_ENDPOINTS,
    nodes=_NODES,
)


@given(_TABLES, _TABLES)
def test_a_delta_turns_the_old_table_into_the_new(old: NetworkTable, new: NetworkTable) -> None:
    assert apply_delta(old, delta_between(old, new)) == new


@given(_TABLES)
def test_without_an_old_table_the_delta_is_full(new: NetworkTable) -> None:
    assert apply_delta(None, delta_between(None, new)) == new


@given(_TABLES, _TABLES, _TABLES)
def test_a_gap_asks_for_a_full_table(
    held: NetworkTable, old: NetworkTable, new: NetworkTable
) -> None:
    delta = delta_between(old, new)
    if delta.full is None and held.revision != old.revision:
        assert apply_delta(held, delta) is None
        assert apply_delta(None, delta) is None
