"""The constraint language: `node.labels.disk==ssd`, `node.role!=manager`."""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from typing import Final, NamedTuple

from swarmapi.errors import InvalidArgument
from swarmapi.model.objects import Node

_EXPRESSION: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*(==|!=)\s*(.*?)\s*\Z")
_VALUE: Final = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+\Z", re.IGNORECASE)
_PLAIN_KEYS: Final = frozenset(
    ("node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch")
)
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class Constraint(NamedTuple):
    """One parsed expression; values compare without case."""

    key: str
    equal: bool
    value: str

    def matches(self, node: Node) -> bool:
        """Tell whether a node satisfies it; a missing label counts as empty."""
        if self.key.lower() == "node.ip":
            return _in_network(node.address, self.value) == self.equal
        actual = _value_of(self.key, node)
        if actual is None:
            return False
        value = self.value
        if self.key.lower() == "node.platform.arch":
            actual, value = normal_architecture(actual), normal_architecture(value)
        return (actual.lower() == value.lower()) == self.equal


@lru_cache(maxsize=4096)
def parse(expression: str) -> Constraint:
    """Return the parsed constraint.

    Raises:
        InvalidArgument: when the operator, the key or the value is not of the language.
    """
    match = _EXPRESSION.match(expression)
    if match is None:
        raise InvalidArgument(
            f"constraint {expression!r} is not understood: write key==value or key!=value"
        )
    key, operator, value = match.groups()
    if not value or not _VALUE.match(value):
        raise InvalidArgument(f"constraint {expression!r} has no valid value")
    lowered = key.lower()
    labels = lowered.startswith(("node.labels.", "engine.labels."))
    if lowered not in _PLAIN_KEYS and not labels:
        raise InvalidArgument(
            f"constraint {expression!r} names no known key: use node.id, node.hostname, node.ip, "
            "node.role, node.platform.os, node.platform.arch, node.labels.X or engine.labels.X"
        )
    return Constraint(key, operator == "==", value)


def matches_all(expressions: Iterable[str], node: Node) -> bool:
    """Tell whether a node satisfies all; an expression not understood matches nothing."""
    return first_failing(expressions, node) is None


def first_failing(expressions: Iterable[str], node: Node) -> str | None:
    """Return the first expression a node does not satisfy."""
    for expression in expressions:
        try:
            constraint = parse(expression)
        except InvalidArgument:
            return expression
        if not constraint.matches(node):
            return expression
    return None


def label_of(descriptor: str, node: Node) -> str:
    """Return the value of `node.labels.X` or `engine.labels.X`, empty when missing."""
    return _value_of(descriptor, node) or ""


def normal_architecture(architecture: str) -> str:
    """Return the OCI name of a machine architecture."""
    return _ARCHITECTURES.get(architecture.lower(), architecture.lower())


def _value_of(key: str, node: Node) -> str | None:
    lowered = key.lower()
    if lowered.startswith("node.labels."):
        return (node.spec.labels or {}).get(key[len("node.labels.") :], "")
    if lowered.startswith("engine.labels."):
        return node.description.labels.get(key[len("engine.labels.") :], "")
    match lowered:
        case "node.id":
            return node.id
        case "node.hostname":
            return node.description.hostname
        case "node.role":
            return node.spec.role.value
        case "node.platform.os":
            return node.description.platform.os
        case "node.platform.arch":
            return node.description.platform.architecture
        case _:
            return None


def _in_network(address: str, value: str) -> bool:
    try:
        return IPv4Address(address) in IPv4Network(value, strict=False)
    except ValueError:
        return False
