"""Docker's `filters` of container lists and events."""

import datetime
import re
from collections.abc import Callable, Mapping, Sequence

from swarmapi.errors import InvalidArgument
from worker.engine.record import Record

Filters = Mapping[str, Sequence[str]]

CONTAINER_KEYS = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name",
    "network", "publish", "since", "status", "volume",
)  # fmt: skip
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_STATUSES = {"created", "running", "paused", "restarting", "removing", "exited", "dead"}

_HEALTHS = {"starting", "healthy", "unhealthy", "none"}


def check_container_filters(filters: Filters) -> None:
    """Refuse a filter or a value of one that Docker does not know, in its words."""
    for key, values in filters.items():
        if key not in CONTAINER_KEYS:
            raise InvalidArgument(f"invalid filter '{key}'")
        for value in values:
            if key in _CHECKS and not _CHECKS[key](value):
                raise InvalidArgument(f"invalid filter '{key}={value}'")


def matches(record: Record, filters: Filters, references: Mapping[str, Record]) -> bool:
    """Tell whether a container passes; `references` maps before/since values to containers."""
    tests: dict[str, Callable[[str], bool]] = {
        "id": lambda value: record.id.startswith(value),
        "name": lambda value: (
            re.search(value, f"/{record.name}") is not None
            or re.search(value, record.name) is not None
        ),
        "status": lambda value: record.status == value,
        "exited": lambda value: record.status == "exited" and str(record.exit_code) == value,
        "ancestor": lambda value: _is_image(record, value),
        "network": lambda value: (
            value in record.joined
            or value == _network_of(record.host.network_mode)
            or any(value == state.network_id for state in record.joined.values())
        ),
        "volume": lambda value: any(value in (mount.name, mount.target) for mount in record.mounts),
        "publish": lambda value: _publishes(record, value, published=True),
        "expose": lambda value: _publishes(record, value, published=False),
        "health": lambda value: record.health_status == value,
        "is-task": lambda value: (
            ("com.docker.swarm.task.id" in record.config.labels) == truth("is-task", value)
        ),
        "before": lambda value: record.created_ns < references[value].created_ns,
        "since": lambda value: record.created_ns > references[value].created_ns,
    }
    for key, values in filters.items():
        if key == "label":
            if not all(label_matches(record.config.labels, value) for value in values):
                return False
        elif values and not any(tests[key](value) for value in values):
            return False
    return True


def label_matches(labels: Mapping[str, str], wanted: str) -> bool:
    """Tell whether `key` or `key=value` is among the labels."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def truth(key: str, value: str) -> bool:
    """Return a filter's value that is true or false."""
    found = {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
    if found is None:
        raise InvalidArgument(f"invalid filter '{key}={value}'")
    return found


def until_ns(values: Sequence[str], now_ns: int) -> int | None:
    """Return the time before which `until` asks for: a duration, unix time or RFC 3339."""
    if not values:
        return None
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    text = values[0]
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * 1e9)
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return now_ns - int(sum(float(n) * _UNITS_S[unit] for n, unit in parts) * 1e9)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"invalid filter 'until={text}'") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1e9)


def _is_image(record: Record, value: str) -> bool:
    image = record.config.image
    if image == value or image.removesuffix(":latest") == value.removesuffix(":latest"):
        return True
    bare = value.removeprefix("sha256:")
    return len(bare) >= 12 and record.image_id.removeprefix("sha256:").startswith(bare)


def _network_of(mode: str) -> str:
    return "bridge" if mode in ("", "default") else mode


def _ports(value: str) -> frozenset[str]:
    """Read `80`, `80/udp` or `80-90/tcp`; tcp when no protocol is said, nothing when malformed."""
    numbers, slash, protocol = value.partition("/")
    first, _, last = numbers.partition("-")
    if not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?", numbers) or int(last or first) > 65535:
        return frozenset()
    wanted = range(int(first), int(last or first) + 1)
    return frozenset(f"{port}/{protocol if slash else 'tcp'}" for port in wanted)


def _publishes(record: Record, value: str, *, published: bool) -> bool:
    if published:
        wanted = _ports(value)
        return any(f"{host}/{proto}" in wanted for _, proto, _, host in record.ports)
    wanted = _ports(value)
    return any(port in wanted for port in record.config.exposed_ports) or any(
        f"{port}/{proto}" in wanted for port, proto, _, _ in record.ports
    )


def _is_pattern(value: str) -> bool:
    try:
        re.compile(value)
    except re.error:
        return False
    return True


_CHECKS: Mapping[str, Callable[[str], object]] = {
    "exited": lambda value: re.fullmatch(r"-?[0-9]+", value),
    "expose": _ports,
    "health": _HEALTHS.__contains__,
    "is-task": lambda value: truth("is-task", value) is not None,
    "name": _is_pattern,
    "publish": _ports,
    "status": _STATUSES.__contains__,
}
"""Key → whether a value of it is one; of the others every value is."""
