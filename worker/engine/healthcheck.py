"""The health check in force for a container: its own over its image's, over Docker's defaults."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from runtime.supervisor.health import HealthCheck
from swarmapi.errors import InvalidArgument
from worker.engine.spec import Healthcheck

_SHORTEST_NS = 1_000_000
_SECOND_NS = 1_000_000_000
_DURATIONS = ("interval", "timeout", "start_period", "start_interval")
_DEFAULT_SHELL = ("/bin/sh", "-c")


def effective(own: Healthcheck | None, image_config: Mapping[str, Any]) -> Healthcheck | None:
    """Return the container's check with what it leaves open taken from the image's.

    Raises:
        InvalidArgument: for an unknown kind of test, or a time or count below its minimum.
    """
    inherited = image_config.get("Healthcheck")
    merged = msgspec.convert(inherited or {}, Healthcheck)
    if own is None and not inherited:
        return None
    if own is not None:
        for name in Healthcheck.__struct_fields__:
            if value := getattr(own, name):
                setattr(merged, name, value)
    if merged.test and merged.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f"unknown healthcheck type {merged.test[0]!r}: use CMD or CMD-SHELL")
    for name in _DURATIONS:
        if getattr(merged, name) and getattr(merged, name) < _SHORTEST_NS:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
    if merged.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")
    return merged


def is_checked(check: Healthcheck | None) -> bool:
    """Tell whether there is anything to ask."""
    return check is not None and bool(check.test) and check.test[0] != "NONE"


def to_runtime(
    check: Healthcheck | None,
    image_config: Mapping[str, Any],
    process_of: Callable[[list[str]], dict[str, Any]],
) -> HealthCheck | None:
    """Return what the supervisor runs; `process_of` makes the OCI process of a command."""
    if check is None or not is_checked(check):
        return None
    kind, *words = check.test
    if kind == "CMD-SHELL":
        shell: Sequence[str] = image_config.get("Shell") or _DEFAULT_SHELL
        words = [*shell, *words]
    fallback = HealthCheck({})
    return HealthCheck(
        process_of(words),
        interval_s=check.interval / _SECOND_NS or fallback.interval_s,
        timeout_s=check.timeout / _SECOND_NS or fallback.timeout_s,
        start_period_s=check.start_period / _SECOND_NS or fallback.start_period_s,
        start_interval_s=check.start_interval / _SECOND_NS or fallback.start_interval_s,
        retries=check.retries or fallback.retries,
    )
