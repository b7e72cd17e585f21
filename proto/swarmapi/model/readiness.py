"""The readiness check of a service's tasks: labels of its containers, so any client can set it.

A health check (Docker's) tells whether a task is to be replaced, readiness only whether it gets
connections; kubelet's livenessProbe and readinessProbe part the two in the same way.
"""

import json
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from swarmapi.errors import InvalidArgument

PREFIX: Final = "swarm.ready."
_KEYS: Final = ("cmd", "interval", "timeout", "retries")
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SHORTEST_S: Final = 0.1


class Readiness(NamedTuple):
    """What is asked in the container, how often, and how many failures in a row withdraw it."""

    command: tuple[str, ...]
    interval_s: float = 5.0
    timeout_s: float = 5.0
    retries: int = 3


def readiness(labels: Mapping[str, str] | None) -> Readiness | None:
    """Return the check that a container's labels ask for; None without `swarm.ready.cmd`.

    The command is one for `/bin/sh -c`, or a JSON list of words that is run as it is.

    Raises:
        InvalidArgument: an unknown `swarm.ready.` label, or a value that cannot be.
    """
    given = {k.removeprefix(PREFIX): v for k, v in (labels or {}).items() if k.startswith(PREFIX)}
    if unknown := sorted(given.keys() - set(_KEYS)):
        known = ", ".join(PREFIX + key for key in _KEYS)
        raise InvalidArgument(f"{PREFIX}{unknown[0]}: there is no such label, only {known}")
    command = given.pop("cmd", "")
    if not command:
        if given:
            raise InvalidArgument(f"{PREFIX}{min(given)}: needs {PREFIX}cmd")
        return None
    check = Readiness(_words(command))
    if "retries" in given:
        if not given["retries"].isdecimal() or not int(given["retries"]):
            raise InvalidArgument(f"{PREFIX}retries: {given['retries']!r} is not a number above 0")
        check = check._replace(retries=int(given["retries"]))
    if "interval" in given:
        check = check._replace(interval_s=_seconds("interval", given["interval"]))
    if "timeout" in given:
        check = check._replace(timeout_s=_seconds("timeout", given["timeout"]))
    return check


def _words(command: str) -> tuple[str, ...]:
    if not command.startswith("["):
        return ("/bin/sh", "-c", command)
    try:
        words = json.loads(command)
    except ValueError:
        return ("/bin/sh", "-c", command)  # `[ -e /ready ]` is a command, too
    if not words or not all(isinstance(word, str) for word in words):
        raise InvalidArgument(f"{PREFIX}cmd: {command} is not a list of words")
    return tuple(words)


def _seconds(key: str, text: str) -> float:
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _NUMBER.findall(text))
    if not text or _NUMBER.sub("", text) or seconds < _SHORTEST_S:
        raise InvalidArgument(f"{PREFIX}{key}: {text!r} is no duration of 100ms or more, as 5s is")
    return seconds
