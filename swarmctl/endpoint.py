"""The networks of a new container: the flag --network, once or often, plain or name=….,alias=….."""

from __future__ import annotations

from argparse import Namespace

from swarmctl.errors import UsageError
from swarmctl.flags import Bad, addresses, pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PREDEFINED = ("default", "bridge", "host", "none")
"""Networks without a name service: links on them are the container's, not its endpoint's."""
_LISTS = ("alias", "link-local-ip", "driver-opt")
_SINGLE = ("name", "ip", "ip6", "mac-address", "gw-priority")


def attachment(text: str) -> tuple[str, dict[str, Any]]:
    """Return a network and the endpoint wished there, by the API's names."""
    if "=" not in text:
        return text, {}
    given: dict[str, list[str]] = {}
    for field in text.split(","):
        name, equals, value = field.partition("=")
        name = name.strip().lower()
        if not equals or name not in (*_LISTS, *_SINGLE):
            known = ", ".join((*_SINGLE, *_LISTS))
            raise Bad(f"invalid field {field!r} of a network: want one of {known}, with =VALUE")
        given.setdefault(name, []).append(value)
    single = {name: given[name][-1] for name in _SINGLE if name in given}
    if not single.get("name"):
        raise Bad(f"network name/id is not specified in {text!r}")
    return single["name"], _endpoint(given, single)


def _endpoint(given: dict[str, list[str]], single: dict[str, str]) -> dict[str, Any]:
    ipam: dict[str, Any] = {**addresses(single.get("ip", ""), single.get("ip6", ""))}
    if "link-local-ip" in given:
        ipam["LinkLocalIPs"] = given["link-local-ip"]
    priority = single.get("gw-priority", "0")
    if not priority.removeprefix("-").isdecimal():
        raise Bad(f"invalid gw-priority {priority!r}: want a number")
    endpoint = {
        "Aliases": given.get("alias"),
        "IPAMConfig": ipam,
        "MacAddress": single.get("mac-address"),
        "DriverOpts": pairs(given.get("driver-opt")),
        "GwPriority": int(priority),
    }
    return {name: value for name, value in endpoint.items() if value}


def endpoints(args: Namespace) -> tuple[str, dict[str, Any]]:
    """Return the network mode and the endpoints of all networks; flags of one are the first's.

    Raises:
        UsageError: for networks that do not go together, for what the first is told twice.
    """
    wanted: list[tuple[str, dict[str, Any]]] = args.network or [("default", {})]
    mode = wanted[0][0] or "default"
    if len({_is_user_defined(name or "default") for name, _ in wanted}) > 1:
        raise UsageError(
            "conflicting options: cannot attach both user-defined and"
            " non-user-defined network-modes"
        )
    own = _flags(args, mode)
    found: dict[str, dict[str, Any]] = {}
    for name, endpoint in wanted:
        name = name or "default"
        if name in found:
            raise UsageError(f'network "{name}" is specified multiple times')
        if both := own.keys() & endpoint.keys() if not found else ():
            raise UsageError(
                f"conflicting options: {' and '.join(sorted(both))} of network {name} are given as"
                " a flag and in --network: leave one out"
            )
        found[name] = {**endpoint, **(own if not found else {})}
    return mode, found if args.network or own else {}


def _is_user_defined(mode: str) -> bool:
    return mode not in _PREDEFINED and not mode.startswith("container:")


def _flags(args: Namespace, mode: str) -> dict[str, Any]:
    endpoint = {
        "Aliases": args.network_alias,
        "Links": args.link if _is_user_defined(mode) else None,
        "IPAMConfig": addresses(args.ip, args.ip6),
        "MacAddress": args.mac_address,
    }
    return {name: value for name, value in endpoint.items() if value}
