"""Bridge networks between the engine's words and the kernel's: options in, a bridge out."""

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from swarmapi.errors import InvalidArgument
from worker.engine import network_spec
from worker.engine.networks import BRIDGE_ID
from worker.engine.ports import NetworkInfo
from worker.network.attachments import BridgeNetwork


@dataclass(frozen=True)
class BridgeOptions:
    """How the default bridge is to be (the daemon's options)."""

    link: str = "swarm0"
    """Empty: there is no default bridge."""
    address: str = ""
    """Its own address and, by that, its subnet (Docker's --bip); empty: chosen."""
    ip_range: str = ""
    """The part of the subnet that addresses are chosen from (--fixed-cidr)."""
    mtu: int = 1500
    talkative: bool = True
    """Whether its containers reach each other (--icc)."""
    masquerade: bool = True
    host_address: str = ""
    """Where ports are published that name no address (--ip)."""

    def check(self) -> None:
        """Raise InvalidArgument, naming the daemon's option, for what cannot be honoured."""
        options = {
            network_spec.BRIDGE_NAME: self.link,
            network_spec.HOST_ADDRESS: self.host_address,
        }
        try:
            network_spec.check_options({key: value for key, value in options.items() if value})
        except InvalidArgument as error:
            raise InvalidArgument(f"bridge or ip: {error.message}") from error
        if not self.address:
            if self.ip_range:
                raise InvalidArgument("fixed-cidr needs bip: the subnet it is a part of")
            return
        try:
            own = IPv4Interface(self.address)
        except ValueError as error:
            raise InvalidArgument(f"bip {self.address!r}: {error}") from None
        if own.network.prefixlen > 30 or own.ip in (own.network[0], own.network[-1]):
            raise InvalidArgument(f"bip {self.address!r} is no address of a host: try 10.1.0.1/24")
        try:
            inside = not self.ip_range or IPv4Network(self.ip_range).subnet_of(own.network)
        except ValueError as error:
            raise InvalidArgument(f"fixed-cidr {self.ip_range!r}: {error}") from None
        if not inside:
            raise InvalidArgument(f"fixed-cidr {self.ip_range} is not in {own.network}")

    def network(self, address: str) -> NetworkInfo:
        """Return the network as `inspect` shows it, with the address given or else its own.

        Raises ValueError for a bad address.
        """
        own = IPv4Interface(self.address or address)
        return NetworkInfo(
            id=BRIDGE_ID,
            name="bridge",
            driver="bridge",
            subnet=str(own.network),
            gateway=str(own.ip),
            ip_range=self.ip_range,
            options={
                network_spec.BRIDGE + "default_bridge": "true",
                network_spec.TALKATIVE: str(self.talkative).lower(),
                network_spec.MASQUERADE: str(self.masquerade).lower(),
                network_spec.HOST_ADDRESS: self.host_address or "0.0.0.0",
                network_spec.BRIDGE_NAME: self.link,
                network_spec.MTU: str(self.mtu),
            },
        )


def kernel_bridge(network: NetworkInfo) -> BridgeNetwork:
    """Return the kernel's side of a network."""
    options = network.options
    return BridgeNetwork(
        network_id=network.id,
        name=network.name,
        bridge=options.get(network_spec.BRIDGE_NAME) or f"br-{network.id[:12]}",
        subnet=network.subnet,
        gateway=network.gateway,
        ip_range=network.ip_range,
        internal=network.internal,
        masquerade=network_spec.switch(options, network_spec.MASQUERADE),
        talkative=network_spec.switch(options, network_spec.TALKATIVE),
        reserved=tuple(network.reserved.values()),
        default=network.id == BRIDGE_ID,
        mtu=int(options.get(network_spec.MTU, "1500")),
        ipv4=network.ipv4,
        ipv6=network.ipv6,
        ipv6_subnet=network.ipv6_subnet,
        ipv6_gateway=network.ipv6_gateway,
        ipv6_range=network.ipv6_range,
    )
