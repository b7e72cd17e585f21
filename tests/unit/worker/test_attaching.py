"""What a container that is no task's may ask of a cluster's network."""

import asyncio

import pytest

from swarmapi.errors import Unsupported
from swarmapi.model.objects import Network, NetworkLease
from worker.attaching import Attaching
from worker.engine.endpoints import EndpointSpec
from worker.engine.ports import JoinRequest


class NoLessor:
    """Has no address for anybody, and fails where it is asked for one."""

    async def find(self, reference: str) -> Network:
        raise AssertionError

    async def take(
        self, network: str, container_id: str, wanted: tuple[str, str], names: tuple[str, ...]
    ) -> NetworkLease:
        raise AssertionError

    def drop(self, container_id: str, network_id: str = "") -> None:
        raise AssertionError

    def changed(self) -> None:
        raise AssertionError


def test_a_mac_address_of_ones_own_on_an_overlay_is_refused_by_name() -> None:
    """Other nodes know it by the IP address: they would not find it."""
    attaching = Attaching()
    attaching.lessor_now = NoLessor
    wish = EndpointSpec(network_id="net1", attached=True, mac_address="02:00:00:00:00:01")
    request = JoinRequest("c1", "c1", (), {"app": wish})
    with pytest.raises(Unsupported) as refused:
        asyncio.run(attaching.leased(request, ()))
    assert "MAC address" in refused.value.message
