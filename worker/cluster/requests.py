"""What `POST /swarm/init` and `/swarm/join` ask for, checked."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from swarmapi.errors import InvalidArgument, Unsupported

_S = TypeVar("_S", bound=msgspec.Struct)
_AVAILABILITIES = ("", "active", "pause", "drain")
_VXLAN_PORT = 4789
_SUBNET_SIZE = 24
"""What clients send where nobody named one."""


class InitRequest(msgspec.Struct, rename="pascal", frozen=True, kw_only=True):
    """Found a cluster; empty addresses are chosen."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    default_addr_pool: list[str] | None = None
    subnet_size: int = 0
    availability: str = ""
    auto_lock_managers: bool = False
    force_new_cluster: bool = False
    spec: dict[str, Any] | None = None


class JoinRequest(msgspec.Struct, rename="pascal", frozen=True, kw_only=True):
    """Join a cluster through one of its managers."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    remote_addrs: list[str] = []
    join_token: str = ""
    availability: str = ""


class UnlockRequest(msgspec.Struct, rename="pascal", frozen=True, kw_only=True):
    """Unlock a manager."""

    unlock_key: str = ""


def decode_unlock(body: Mapping[str, Any]) -> UnlockRequest:
    """Decode; raises InvalidArgument, or Unsupported naming the option."""
    return _decode(body, UnlockRequest)


def decode_init(body: Mapping[str, Any]) -> InitRequest:
    """Decode and check; raises InvalidArgument, or Unsupported naming the option."""
    request = _decode(body, InitRequest)
    _check_availability(request.availability)
    if request.subnet_size and not 8 <= request.subnet_size <= 29:
        raise InvalidArgument(f"SubnetSize {request.subnet_size} must be 8 to 29")
    if request.force_new_cluster:
        for name, given in (
            ("DefaultAddrPool", bool(request.default_addr_pool)),
            ("SubnetSize", request.subnet_size not in (0, _SUBNET_SIZE)),
        ):
            if given:
                raise Unsupported(
                    f"{name}: a cluster that goes on keeps its address pools: leave it out"
                )
    return request


def with_settings(spec: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cluster's spec with the settings a request names; zeros and blanks name none.

    Clients send those for every setting that was not given. A history limit of zero is one.
    """
    merged = dict(spec)
    for name, value in wanted.items():
        if isinstance(value, Mapping):
            merged[name] = with_settings(merged.get(name) or {}, value)
        elif value or (value == 0 and name == "TaskHistoryRetentionLimit"):
            merged[name] = value
    return merged


def decode_join(body: Mapping[str, Any]) -> JoinRequest:
    """Decode and check; raises InvalidArgument, or Unsupported naming the option."""
    request = _decode(body, JoinRequest)
    _check_availability(request.availability)
    if not request.remote_addrs:
        raise InvalidArgument("at least 1 RemoteAddr is required to join")
    if not request.join_token:
        raise InvalidArgument("JoinToken is required: see `swarm join-token` on a manager")
    return request


def _decode(body: Mapping[str, Any], kind: type[_S]) -> _S:
    kept = {}
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    for key, value in body.items():
        if key in known:
            if value is not None:
                kept[key] = value
        elif value and not (key == "DataPathPort" and value == _VXLAN_PORT):
            raise Unsupported(f"{key} is not supported: leave it out")
    try:
        return msgspec.convert(kept, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(str(error)) from error


def _check_availability(availability: str) -> None:
    if availability not in _AVAILABILITIES:
        raise InvalidArgument(f"invalid Availability {availability!r}: use active, pause or drain")
