"""Local address management."""

import pytest

from worker.network.attachments import BridgeNetwork, NetworkError
from worker.network.ipam import AddressPool, check_subnet, choose_ipv6_subnet, choose_subnet
from worker.network.localnets import LocalNetworks


def test_the_gateway_is_the_first_address_and_never_handed_out() -> None:
    pool = AddressPool("172.17.0.0/29", "")
    assert str(pool.gateway) == "172.17.0.1"
    assert [pool.take() for _ in range(5)] == [f"172.17.0.{i}" for i in range(2, 7)]
    with pytest.raises(NetworkError, match="no free address"):
        pool.take()


def test_a_released_address_is_reused_last() -> None:
    pool = AddressPool("172.17.0.0/29", "")
    first = pool.take()
    pool.release(first)
    assert pool.take() != first
    assert [pool.take() for _ in range(4)][-1] == first


@pytest.mark.parametrize("wanted", ["172.17.0.1", "172.17.0.0", "172.17.0.7", "10.0.0.1", "x"])
def test_unusable_addresses_are_refused(wanted: str) -> None:
    with pytest.raises(NetworkError, match=wanted):
        AddressPool("172.17.0.0/29", "").take(wanted)


def test_an_address_in_use_is_refused() -> None:
    pool = AddressPool("172.17.0.0/24", "")
    assert pool.take("172.17.0.9") == "172.17.0.9"
    with pytest.raises(NetworkError, match=r"172.17.0.9 is in use"):
        pool.take("172.17.0.9")


def test_the_range_limits_choices_only() -> None:
    pool = AddressPool("172.17.0.0/24", "172.17.0.254", "172.17.0.128/30")
    assert pool.take() == "172.17.0.128"
    assert pool.take("172.17.0.5") == "172.17.0.5"


def test_subnets_do_not_overlap() -> None:
    assert choose_subnet("172.16.0.0/12", ["172.16.0.0/16", "172.17.5.0/24"]) == "172.18.0.0/16"
    assert choose_subnet("172.17.0.0/16, 172.18.0.0/15", ["172.17.0.0/16"]) == "172.18.0.0/16"
    with pytest.raises(NetworkError, match="no free subnet"):
        choose_subnet("10.0.0.0/16", ["10.0.0.0/8"])
    with pytest.raises(NetworkError, match="overlaps"):
        check_subnet("10.1.0.0/16", ["10.0.0.0/8"])
    with pytest.raises(NetworkError, match="invalid subnet"):
        check_subnet("10.1.0.1/16", [])


def test_unique_local_subnets_are_the_machines_own() -> None:
    first = choose_ipv6_subnet("a", ["10.0.0.0/8"])
    assert first.startswith("fd")
    assert first.endswith("::/64")
    assert choose_ipv6_subnet("a", [first]) != first
    assert choose_ipv6_subnet("b", []) != first


def test_a_network_takes_an_address_of_each_family_or_none() -> None:
    own = LocalNetworks("172.16.0.0/12", "seed")
    spec = BridgeNetwork("n", "red", "br", ipv6=True, ipv6_subnet="fd00::/64")
    whole = own.complete(spec, [], list)
    assert (whole.subnet, whole.gateway, whole.ipv6_gateway) == (
        "172.16.0.0/16",
        "172.16.0.1",
        "fd00::1",
    )
    own.add(whole)
    assert own.take("n", ["fd00::9"]) == ("172.16.0.2", "fd00::9")
    with pytest.raises(NetworkError, match="fd00::9 is in use"):
        own.take("n", ["172.16.0.7", "fd00::9"])
    assert own.take("n", ["172.16.0.7"])[0] == "172.16.0.7"  # given back by the refusal
    with pytest.raises(NetworkError, match="overlaps"):
        own.complete(BridgeNetwork("m", "m", "b", ipv6=True, ipv6_subnet="fd00::/48"), [], list)
    alone = own.complete(BridgeNetwork("o", "o", "b", ipv4=False, ipv6=True), [], list)
    assert (alone.subnet, alone.gateway) == ("", "")
    own.add(alone)
    with pytest.raises(NetworkError, match="in no subnet of network o"):
        own.take("o", ["10.0.0.1"])
