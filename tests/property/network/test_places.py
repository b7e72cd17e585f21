"""Ports at places: what a node would give to two services is refused before."""

from hypothesis import given
from hypothesis import strategies as st

from manager.store.ports import overlap
from worker.network.family import IPV4, IPV6
from worker.network.mesh import addresses_at

LINKS = ("lo", "eth0", "eth1")
ADDRESSES = st.one_of(
    st.integers(0, 15).map(lambda n: f"10.0.0.{n}"),
    st.integers(0, 15).map(lambda n: f"fd00::{n:x}"),
)
PLACES = st.one_of(
    st.just(""),
    st.sampled_from(LINKS).map(lambda name: f"%{name}"),
    ADDRESSES,
    st.sampled_from(
        ["0.0.0.0/0", "::/0", "10.0.0.0/29", "10.0.0.8/30", "10.0.0.4/32", "fd00::8/125"]
    ),
)
OWN = st.dictionaries(ADDRESSES, st.sampled_from(LINKS))
"""Each address of a node is on one link."""


@given(PLACES, PLACES, OWN)
def test_places_with_an_address_in_common_overlap(
    one: str, other: str, own: dict[str, str]
) -> None:
    links = {link: [a for a, there in own.items() if there == link] for link in LINKS}
    assert overlap(one, other) == overlap(other, one)
    for family in (IPV4, IPV6):
        everything = set(family.of(own))
        first, second = (addresses_at(place, links, family) for place in (one, other))
        common = everything.intersection(
            everything if first is None else first, everything if second is None else second
        )
        assert overlap(one, other) or not common
