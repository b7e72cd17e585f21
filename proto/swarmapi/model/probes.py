"""What a node is asked to try out of the cluster's network, and what it found."""

from typing import Final

import msgspec

VXLAN_BYTES: Final = 50
"""What VXLAN puts around a packet of an overlay, over IPv4."""


class ProbePeer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Another node: where VXLAN reaches it, and its own address on the ingress network."""

    node_id: str
    data_path: str
    gateway: str = ""


class ProbeOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whom to ask, and the size of a full packet on the ingress network."""

    peers: tuple[ProbePeer, ...] = ()
    mtu: int = 1450


class PairFinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a peer answered: sizes of the largest packets that came back whole, 0 for none.

    None where it was not asked: over IPv6, or without an ingress network.
    """

    node_id: str
    underlay_bytes: int | None = None
    overlay_bytes: int | None = None
    round_trip_us: int = 0


class ServiceFinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a container learns of a service of its network; errors are empty where all is well."""

    network: str
    container: str
    service: str
    dns_error: str = ""
    vip_error: str = ""
    silent: tuple[str, ...] = ()
    """`TASK at ADDRESS` where a task does not answer."""


class ProbeFindings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that a node found; `error` says why it could not look."""

    pairs: tuple[PairFinding, ...] = ()
    services: tuple[ServiceFinding, ...] = ()
    error: str = ""
