"""This machine's own networks: their subnets, and the addresses of who is on them. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from worker.network.attachments import BridgeNetwork, NetworkError
from worker.network.family import IPV4, IPV6
from worker.network.ipam import AddressPool, check_subnet, choose_ipv6_subnet, choose_subnet
from worker.network.local import LocalBridge


class LocalNetworks:
    """Networks by id, each with a pool of addresses per family it has."""

    def __init__(self, pool: str, ipv6_seed: str) -> None:
        """`pool` is what IPv4 subnets are cut from, `ipv6_seed` what makes ours unique."""
        self._pool = pool
        self._ipv6_seed = ipv6_seed
        self.specs: dict[str, BridgeNetwork] = {}
        self._pools: dict[str, list[AddressPool]] = {}

    def subnets(self) -> list[str]:
        """Return the subnets of all networks."""
        return [p for b in self.specs.values() for p in (b.subnet, b.ipv6_subnet) if p]

    def complete(
        self, spec: BridgeNetwork, taken: Iterable[str], avoided: Callable[[], Iterable[str]]
    ) -> BridgeNetwork:
        """Return a network with the subnets and gateways that it leaves open.

        A given subnet must be off `taken`; a chosen one is off what `avoided` returns, too.

        Raises:
            NetworkError: when it is not, is malformed, or none is free.
        """
        used = [*self.subnets(), *taken]
        subnet, ipv6_subnet = spec.subnet, spec.ipv6_subnet
        if (spec.ipv4 and not subnet) or (spec.ipv6 and not ipv6_subnet):
            off = [*used, *avoided()]
            subnet = subnet or (choose_subnet(self._pool, off) if spec.ipv4 else "")
            if spec.ipv6 and not ipv6_subnet:
                ipv6_subnet = choose_ipv6_subnet(self._ipv6_seed, off)
        for prefix in filter(None, (subnet, ipv6_subnet)):
            check_subnet(prefix, used)
        whole = replace(spec, subnet=subnet, ipv6_subnet=ipv6_subnet)
        gateways = {pool.network.version: str(pool.gateway) for pool in _pools(whole)}
        return replace(whole, gateway=gateways.get(4, ""), ipv6_gateway=gateways.get(6, ""))

    def add(self, spec: BridgeNetwork) -> None:
        """Keep a complete network."""
        self.specs[spec.network_id] = spec
        self._pools[spec.network_id] = _pools(spec)

    def remove(self, network_id: str) -> None:
        """Forget a network."""
        del self.specs[network_id], self._pools[network_id]

    def take(self, network_id: str, asked: Sequence[str]) -> tuple[str, ...]:
        """Return an address of each family that a network has, those of `asked` among them.

        Raises:
            NetworkError: when one cannot be had; none is taken then.
        """
        taken: list[str] = []
        left = set(asked)
        try:
            for pool in self._pools[network_id]:
                family = IPV6 if pool.network.version == 6 else IPV4
                wanted = next(iter(family.of(asked)), None)
                taken.append(pool.take(wanted))
                left.discard(wanted or "")
            if left:
                name = self.specs[network_id].name
                raise NetworkError(f"address {min(left)} is in no subnet of network {name}")
        except NetworkError:
            self.release(network_id, taken)
            raise
        return tuple(taken)

    def release(self, network_id: str, addresses: Iterable[str]) -> None:
        """Give addresses back; those of networks that are not this machine's are left alone."""
        for pool in self._pools.get(network_id, ()):
            for address in addresses:
                pool.release(address)

    def planned(self) -> dict[str, LocalBridge]:
        """Return the networks as the node's ruleset needs them."""
        return {
            key: LocalBridge(
                b.bridge,
                b.subnet,
                b.internal,
                b.masquerade,
                "" if b.default else b.name,
                b.ipv6_subnet,
            )
            for key, b in self.specs.items()
        }


def _pools(spec: BridgeNetwork) -> list[AddressPool]:
    parts = (
        (spec.subnet, spec.gateway, spec.ip_range),
        (spec.ipv6_subnet, spec.ipv6_gateway, spec.ipv6_range),
    )
    return [AddressPool(*part, spec.reserved) for part in parts if part[0]]
