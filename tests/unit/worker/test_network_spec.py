"""What a network may be asked to be, and what is refused."""

from typing import Any

import pytest

from swarmapi.errors import AlreadyExists, Forbidden, InvalidArgument, SwarmError, Unsupported
from worker.api.networks import render
from worker.bridge import BridgeOptions, kernel_bridge
from worker.engine.network_spec import decode_network


def pool(**config: Any) -> dict[str, Any]:
    return {"Name": "n1", "IPAM": {"Driver": "default", "Config": [config]}}


def test_what_the_docker_client_sends() -> None:
    body = {
        "Name": "n1",
        "Driver": "bridge",
        "Scope": "",
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [{"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.9"}],
        },
        "Internal": True,
        "Attachable": False,
        "Ingress": False,
        "ConfigOnly": False,
        "ConfigFrom": None,
        "EnableIPv6": False,
        "Options": {
            "com.docker.network.bridge.name": "brx",
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "FALSE",
            "com.docker.network.driver.mtu": "1400",
            "com.docker.network.bridge.gateway_mode_ipv4": "nat",
        },
        "Labels": {"q": "1"},
    }
    found = decode_network(body)
    assert (found.name, found.subnet, found.gateway) == ("n1", "10.1.0.0/24", "10.1.0.9")
    assert (found.internal, found.labels) == (True, {"q": "1"})
    bridge = kernel_bridge(found)
    assert (bridge.bridge, bridge.mtu) == ("brx", 1400)
    assert not bridge.talkative
    assert not bridge.masquerade


def test_a_network_of_both_families() -> None:
    pools = [
        {"Subnet": "fd00::/64", "Gateway": "fd00:0::9", "AuxiliaryAddresses": {"a": "fd00::5"}},
        {"Subnet": "10.1.0.0/24", "IPRange": "10.1.0.128/25"},
    ]
    found = decode_network({"Name": "n1", "EnableIPv6": True, "IPAM": {"Config": pools}})
    assert (found.subnet, found.ip_range) == ("10.1.0.0/24", "10.1.0.128/25")
    assert (found.ipv6_subnet, found.ipv6_gateway) == ("fd00::/64", "fd00::9")
    assert render(found)["IPAM"]["Config"] == [
        {"Subnet": "10.1.0.0/24", "IPRange": "10.1.0.128/25", "Gateway": "10.1.0.128"},
        {"Subnet": "fd00::/64", "Gateway": "fd00::9", "AuxiliaryAddresses": {"a": "fd00::5"}},
    ]
    with pytest.raises(Unsupported, match="one subnet of IPv4"):
        decode_network({"Name": "n1", "IPAM": {"Config": [pools[1], {"Subnet": "10.2.0.0/24"}]}})


def test_the_gateway_is_the_first_of_a_range_that_may_be_had() -> None:
    def gateway(ip_range: str, **reserved: str) -> str:
        pool = {"Subnet": "10.1.0.0/24", "IPRange": ip_range, "AuxiliaryAddresses": reserved}
        return decode_network({"Name": "n1", "IPAM": {"Config": [pool]}}).gateway

    assert gateway("10.1.0.0/25") == "10.1.0.1"
    assert gateway("10.1.0.64/26") == "10.1.0.64"
    assert gateway("10.1.0.64/26", a="10.1.0.64") == "10.1.0.65"


def test_a_network_without_wishes_gets_dockers_defaults() -> None:
    bridge = kernel_bridge(decode_network({"Name": "n1", "CheckDuplicate": True}))
    assert (bridge.talkative, bridge.masquerade, bridge.mtu, bridge.subnet) == (
        True,
        True,
        1500,
        "",
    )


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ({"Name": ""}, InvalidArgument, "invalid network name"),
        ({"Name": "a/b"}, InvalidArgument, "invalid network name"),
        ({"Name": "host"}, AlreadyExists, "already exists"),
        ({"Name": "n1", "Driver": "host"}, Forbidden, "only one instance"),
        ({"Name": "n1", "Driver": "macvlan"}, Unsupported, "macvlan"),
        ({"Name": "n1", "EnableIPv4": False}, InvalidArgument, "must be enabled"),
        ({"Name": "n1", "ConfigOnly": True}, Unsupported, "ConfigOnly"),
        ({"Name": "n1", "ConfigFrom": {"Network": "x"}}, Unsupported, "ConfigFrom"),
        ({"Name": "n1", "Colour": "red"}, Unsupported, "Colour"),
        ({"Name": "n1", "Options": {"parent": "eth0"}}, Unsupported, "parent"),
        ({"Name": "n1", "Options": {"com.docker.network.driver.mtu": "9"}}, InvalidArgument, "mtu"),
        (
            {"Name": "n1", "Options": {"com.docker.network.bridge.name": "x" * 16}},
            InvalidArgument,
            "at most 15",
        ),
        (
            {"Name": "n1", "Options": {"com.docker.network.bridge.enable_icc": "maybe"}},
            InvalidArgument,
            "enable_icc",
        ),
        (
            {"Name": "n1", "Options": {"com.docker.network.bridge.gateway_mode_ipv4": "routed"}},
            Unsupported,
            "gateway_mode_ipv4=routed",
        ),
        ({"Name": "n1", "IPAM": {"Driver": "dhcp"}}, Unsupported, "dhcp"),
        ({"Name": "n1", "IPAM": {"Options": {"a": "b"}}}, Unsupported, "IPAM options"),
        (pool(Gateway="10.1.0.1"), InvalidArgument, "needs a subnet"),
        (pool(Subnet="10.1.0.5/24"), InvalidArgument, r"it should be 10\.1\.0\.0/24"),
        (pool(Subnet="nonsense"), InvalidArgument, "nonsense"),
        (pool(Subnet="fd00::/64"), InvalidArgument, "--ipv6"),
        (
            {**pool(Subnet="10.1.0.0/24"), "EnableIPv4": False, "EnableIPv6": True},
            InvalidArgument,
            "--ipv4",
        ),
        (
            {**pool(Subnet="fd00::/64", Gateway="10.0.0.1"), "EnableIPv6": True},
            InvalidArgument,
            "parent subnet",
        ),
        (pool(Subnet="10.1.0.0/24", Gateway="10.2.0.1"), InvalidArgument, "parent subnet"),
        (pool(Subnet="10.1.0.0/24", IPRange="10.2.0.0/25"), InvalidArgument, "parent subnet"),
        (
            pool(Subnet="10.1.0.0/24", AuxiliaryAddresses={"a": "10.2.0.1"}),
            InvalidArgument,
            "parent subnet",
        ),
    ],
)
def test_refusals(body: dict[str, Any], kind: type[SwarmError], words: str) -> None:
    with pytest.raises(kind, match=words):
        decode_network(body)


def test_the_default_bridge_by_its_options() -> None:
    options = BridgeOptions(link="br9", address="10.9.0.1/24", talkative=False)
    network = options.network("172.17.0.1/16")
    assert (network.subnet, network.gateway) == ("10.9.0.0/24", "10.9.0.1")
    bridge = kernel_bridge(network)
    assert (bridge.bridge, bridge.default, bridge.talkative) == ("br9", True, False)
    assert BridgeOptions().network("172.18.0.1/16").subnet == "172.18.0.0/16"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BridgeOptions(link="x" * 16), "at most 15"),
        (BridgeOptions(host_address="::1"), "IPv4"),
        (BridgeOptions(address="10.1.0.1/33"), "bip"),
        (BridgeOptions(address="10.1.0.0/24"), "no address of a host"),
        (BridgeOptions(ip_range="10.1.0.0/25"), "needs bip"),
        (BridgeOptions(address="10.1.0.1/24", ip_range="10.2.0.0/25"), "is not in"),
    ],
)
def test_what_the_default_bridge_cannot_be(options: BridgeOptions, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        options.check()
    BridgeOptions(address="10.1.0.1/24", ip_range="10.1.0.128/25").check()
