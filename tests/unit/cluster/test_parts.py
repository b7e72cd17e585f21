"""Addresses, stored state, and what the machine's networking refuses before it touches anything."""

import asyncio
from pathlib import Path

import pytest

from swarmapi.errors import Internal, InvalidArgument, NotFound, Unsupported
from worker.cluster import addresses
from worker.cluster.description import describe, ipv6_routes_in, routes_in
from worker.cluster.requests import decode_init, decode_join
from worker.cluster.state import ClusterFiles, Membership
from worker.config import Config
from worker.engine.endpoints import EndpointSpec
from worker.engine.ports import JoinRequest
from worker.networking import open_networking, upstream_resolvers

HERE = Membership(
    node_id="n1",
    cluster_id="c1",
    role="worker",
    managers=["10.0.0.1:2377"],
    listen_addr="0.0.0.0:2377",
    advertise_addr="10.0.0.7:2400",
    data_path_addr="10.0.0.7",
)


@pytest.mark.parametrize(
    ("wanted", "listen", "chosen"),
    [
        ("10.0.0.7", "0.0.0.0:2377", "10.0.0.7:2377"),
        ("10.0.0.7:99", "0.0.0.0:2377", "10.0.0.7:99"),
        ("10.0.0.7", "0.0.0.0:2400", "10.0.0.7:2400"),
        ("", "10.0.0.8:2400", "10.0.0.8:2400"),
        ("lo", "0.0.0.0:2377", "127.0.0.1:2377"),
    ],
)
def test_the_advertised_address(wanted: str, listen: str, chosen: str) -> None:
    assert addresses.advertised(wanted, listen) == chosen


@pytest.mark.parametrize("wanted", ["0.0.0.0", "no-such-if", "10.0.0.7:0", "::1", "10.0.0.7:x"])
def test_an_address_nobody_can_reach_is_refused(wanted: str) -> None:
    with pytest.raises(InvalidArgument, match=r"address|interface"):
        addresses.advertised(wanted, "0.0.0.0:2377")


def test_an_ipv6_underlay_is_refused_by_name() -> None:
    for refused in (
        lambda: addresses.resolve("fd00::1"),
        lambda: addresses.advertised("fd00::1", "0.0.0.0:2377"),
        lambda: addresses.listening("[::]:2377"),
        lambda: addresses.split("[fd00::1]:2377"),
    ):
        with pytest.raises(InvalidArgument, match="is IPv6"):
            refused()


def test_state_is_read_back_and_erased(tmp_path: Path) -> None:
    files = ClusterFiles(tmp_path / "cluster")
    assert files.load() is None
    files.save(HERE)
    assert files.load() == HERE
    assert HERE.address == "10.0.0.7"
    files.erase()
    assert files.load() is None


def test_damaged_state_is_told_with_its_path(tmp_path: Path) -> None:
    files = ClusterFiles(tmp_path)
    files.save(HERE)
    (tmp_path / "cluster.json").write_text("{")
    with pytest.raises(Internal, match=r"cluster\.json cannot be read"):
        files.load()


def test_the_description_has_what_the_scheduler_needs() -> None:
    found = describe({"rack": "7"})
    assert found.hostname
    assert found.platform.os == "linux"
    assert found.cpu_nanos >= 1_000_000_000
    assert found.cpu_nanos % 1_000_000_000 == 0
    assert found.memory_bytes > 1 << 20
    assert found.labels == {"rack": "7"}
    assert found.generic == ()
    config = Config(node_generic_resource=("gpu=a", "gpu=b", "ssd=3"))
    offered = describe({}, config.generic).generic
    assert [(s.kind, s.names, s.count) for s in offered] == [("gpu", ("a", "b"), 0), ("ssd", (), 3)]


def test_requests_are_checked() -> None:
    with pytest.raises(InvalidArgument, match="Availability"):
        decode_init({"Availability": "asleep"})
    with pytest.raises(InvalidArgument, match="RemoteAddr"):
        decode_join({"JoinToken": "t"})
    with pytest.raises(Unsupported, match="DataPathPort"):
        decode_init({"DataPathPort": 4790})


def test_resolvers_of_either_family(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search x\nnameserver 10.0.0.2\nnameserver fd00::53\nnameserver fe80::1%eth0\n")
    assert upstream_resolvers(conf) == ("10.0.0.2", "fd00::53")
    assert upstream_resolvers(tmp_path / "none") == ()


def test_an_unknown_network_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    async def run() -> None:
        networking = open_networking(Config(data_root=tmp_path, run_dir=tmp_path / "run"))
        request = JoinRequest("c1", "host", (), {"nowhere": EndpointSpec()})
        with pytest.raises(NotFound, match="network nowhere"):
            await networking.join(request)
        await networking.leave("c1")
        await networking.close()
        assert not (tmp_path / "run").exists()

    asyncio.run(run())


def test_the_routes_of_a_machine_are_those_that_overlays_must_keep_off() -> None:
    table = "\n".join(
        [
            "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT",
            "eth0 00000000 0101A8C0 0003 0 0 0 00000000 0 0 0",
            "eth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0",
            "swarm-ingress 0000000A 00000000 0001 0 0 0 00FFFFFF 0 0 0",
            "tun0 0000100A 00000000 0001 0 0 0 0000F0FF 0 0 0",
        ]
    )
    assert routes_in(table) == ("10.16.0.0/12", "192.168.1.0/24")
    none, local = "0" * 32, "fe80" + "0" * 28
    lines = [
        ("fd77" + "0" * 28, "40", "00000001", "eth0"),
        ("fd77" + "0" * 27 + "1", "80", "80200001", "eth0"),
        ("fd88" + "0" * 28, "40", "00000001", "swarm-ingress"),
        ("fd99" + "0" * 28, "30", "00000003", "tun0"),
        (none, "00", "00000003", "eth0"),
        (local, "40", "00000001", "eth0"),
        ("ff" + "0" * 30, "08", "00000001", "eth0"),
        ("0" * 31 + "1", "80", "80200001", "lo"),
    ]
    table = "\n".join(
        f"{where} {length} {none} 00 {none} 00000100 00000001 00000000 {flags} {link}"
        for where, length, flags, link in lines
    )
    assert ipv6_routes_in(table) == ("fd77::/64", "fd99::/48")
