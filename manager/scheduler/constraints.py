"""The constraint language: what a service asks of its nodes, one string after the other.

    constraint := term { "or" term } | "prefer" [weight] term { "or" term }
                | "strategy" == spread|binpack | "priority" == number
    term       := key (== | !=) value | key [not] in (value, …) | key =~ regex
                | key (< | <= | > | >=) number | key [not] exists

All constraints of a service hold at once. Keys are `node.id`, `.hostname`, `.ip`, `.role`,
`.platform.os`, `.platform.arch`, `node.labels.X`, `engine.labels.X`, and what runs on the node:
`node.services` and `node.services.labels.X` have one value for each service with a task there.
`==` asks for any value that is the same, `!=` and `not in` for none. Whatever is ours and not
Docker's is a constraint too, because that is the text every Docker client passes on.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from typing import Final, NamedTuple

from manager.scheduler.patterns import check_pattern, finds
from swarmapi.errors import InvalidArgument
from swarmapi.model.objects import Node, Service

SPREAD: Final = "spread"
BINPACK: Final = "binpack"
STRATEGIES: Final = (SPREAD, BINPACK)
MAX_NUMBER: Final = 1_000_000
"""The greatest priority and weight."""
_TERM: Final = re.compile(
    r"\s*([a-z_][a-z0-9_.-]*)\s*"
    r"(?:(==|!=|=~|<=|>=|<|>)\s*(.*?)|\s((?:not\s+)?in)\s*\(([^()]*)\)|\s((?:not\s+)?exists))\s*\Z",
    re.IGNORECASE | re.DOTALL,
)
_PREFER: Final = re.compile(r"\s*prefer\s+(?:([+-]?\d{1,7})\s+)?(?=[a-z_])", re.IGNORECASE)
_OR: Final = re.compile(r"\s+or\s+(?=(?:node|engine)\.)", re.IGNORECASE)
_VALUE: Final = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+\Z", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[+-]?\d{1,15}(?:\.\d{1,15})?\Z", re.ASCII)
_PLAIN_KEYS: Final = frozenset(
    ("node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch")
)
_NODE_LABELS: Final = "node.labels."
_ENGINE_LABELS: Final = "engine.labels."
_SERVICES: Final = "node.services"
_SERVICE_LABELS: Final = "node.services.labels."
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_NUMERIC: Final = ("<", "<=", ">", ">=")


class Term(NamedTuple):
    """One comparison; values compare without case."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, node: Node, services: Iterable[Service] = ()) -> bool:
        """Tell whether a node with tasks of `services` satisfies it."""
        actual = _values_of(self.key, node, services)
        match self.operator:
            case "exists":
                return bool(actual)
            case "not exists":
                return not actual
            case "!=" | "not in":
                return not any(self._is_any(value) for value in actual)
            case "==" | "in":
                return any(self._is_any(value) for value in actual)
            case "=~":
                return any(finds(self.values[0], value) for value in actual)
            case _:
                return any(_compares(value, self.operator, self.values[0]) for value in actual)

    def _is_any(self, actual: str) -> bool:
        key = self.key.lower()
        if key == "node.ip":
            return any(_in_network(actual, value) for value in self.values)
        if key == "node.platform.arch":
            actual = normal_architecture(actual)
            return any(actual == normal_architecture(value) for value in self.values)
        return any(actual.lower() == value.lower() for value in self.values)


class Rule(NamedTuple):
    """One parsed constraint: `terms`, of which one must hold, or a setting of the service."""

    text: str
    terms: tuple[Term, ...] = ()
    weight: int | None = None
    """What a node gains where this is preferred; None where it is demanded."""
    strategy: str = ""
    priority: int | None = None

    @property
    def is_demanded(self) -> bool:
        """True where a node that does not satisfy it is refused."""
        return self.weight is None and bool(self.terms)

    @property
    def asks_for_services(self) -> bool:
        """True where the answer changes with what runs on the node."""
        return any(t.key.lower().startswith(_SERVICES) for t in self.terms)

    def matches(self, node: Node, services: Iterable[Service] = ()) -> bool:
        """Tell whether a node with tasks of `services` satisfies it."""
        return any(term.matches(node, services) for term in self.terms)


class Rules(NamedTuple):
    """The constraints of one service by what they are for."""

    lasting: tuple[Rule, ...] = ()
    """Demanded of the node itself, as long as a task runs there."""
    neighbours: tuple[Rule, ...] = ()
    """Demanded of what runs there when a task is placed."""
    preferred: tuple[Rule, ...] = ()
    strategy: str = ""
    priority: int = 0
    broken: str | None = None
    """The first constraint not understood: no node satisfies it."""


@lru_cache(maxsize=4096)
def parse(constraint: str) -> Rule:
    """Return the parsed constraint.

    Raises:
        InvalidArgument: when the operator, the key or the value is not of the language.
    """
    preferred = _PREFER.match(constraint)
    body = constraint[preferred.end() :] if preferred else constraint
    parts = _OR.split(body)
    terms = tuple(_parse_term(part, constraint) for part in parts)
    first = terms[0]
    if len(terms) > 1 or preferred is not None:
        if any(t.key.lower() in ("strategy", "priority") for t in terms):
            raise InvalidArgument(f"constraint {constraint!r}: {first.key} stands alone")
    elif first.key.lower() == "strategy":
        if first.operator != "==" or first.values[0] not in STRATEGIES:
            raise InvalidArgument(
                f"constraint {constraint!r} names no strategy: write strategy==spread or "
                "strategy==binpack"
            )
        return Rule(constraint, strategy=first.values[0])
    elif first.key.lower() == "priority":
        if first.operator != "==" or not re.fullmatch(r"-?\d{1,7}", first.values[0], re.ASCII):
            raise InvalidArgument(f"constraint {constraint!r}: write priority==NUMBER")
        return Rule(constraint, priority=_bounded(int(first.values[0]), constraint))
    if preferred is None:
        return Rule(constraint, terms)
    return Rule(constraint, terms, weight=_bounded(int(preferred[1] or 1), constraint))


def _bounded(number: int, constraint: str) -> int:
    if abs(number) > MAX_NUMBER:
        raise InvalidArgument(
            f"constraint {constraint!r}: the number must be between -{MAX_NUMBER} and {MAX_NUMBER}"
        )
    return number


def _parse_term(text: str, constraint: str) -> Term:
    match = _TERM.match(text)
    if match is None:
        raise InvalidArgument(
            f"constraint {constraint!r} is not understood: write key==value, key!=value, "
            "key in (a, b), key =~ regex, key>=number or key exists"
        )
    key, operator, value, member, listed, exists = match.groups()
    word = " ".join((operator or member or exists).lower().split())
    lowered = key.lower()
    labels = lowered.startswith((_NODE_LABELS, _ENGINE_LABELS, _SERVICE_LABELS))
    known = lowered in _PLAIN_KEYS or lowered in ("strategy", "priority", _SERVICES)
    if not known and not labels:
        raise InvalidArgument(
            f"constraint {constraint!r} names no known key: use node.id, node.hostname, node.ip, "
            "node.role, node.platform.os, node.platform.arch, node.labels.X, engine.labels.X, "
            "node.services or node.services.labels.X"
        )
    if exists:
        return Term(key, word)
    values = (value,) if operator else tuple(v.strip() for v in listed.split(","))
    if word in _NUMERIC:
        if not labels:
            raise InvalidArgument(
                f"constraint {constraint!r}: only labels are numbers, {key} is none"
            )
        if not _NUMBER.match(value):
            raise InvalidArgument(f"constraint {constraint!r}: {value!r} is not a number")
    elif word == "=~":
        try:
            check_pattern(value)
        except InvalidArgument as error:
            raise InvalidArgument(f"constraint {constraint!r}: {error.message}") from error
    elif not all(v and _VALUE.match(v) for v in values):
        raise InvalidArgument(f"constraint {constraint!r} has no valid value")
    return Term(key, word, values)


@lru_cache(maxsize=4096)
def rules_of(constraints: tuple[str, ...]) -> Rules:
    """Return a service's constraints, sorted by what they are for."""
    rules: list[Rule] = []
    for constraint in constraints:
        try:
            rules.append(parse(constraint))
        except InvalidArgument:
            return Rules(broken=constraint)
    demanded = [r for r in rules if r.is_demanded]
    return Rules(
        lasting=tuple(r for r in demanded if not r.asks_for_services),
        neighbours=tuple(r for r in demanded if r.asks_for_services),
        preferred=tuple(r for r in rules if r.weight is not None),
        strategy=next((r.strategy for r in reversed(rules) if r.strategy), ""),
        priority=next((r.priority for r in reversed(rules) if r.priority is not None), 0),
    )


def matches_all(constraints: Iterable[str], node: Node) -> bool:
    """Tell whether a node satisfies all that lasts; one not understood matches nothing."""
    rules = rules_of(tuple(constraints))
    return rules.broken is None and all(rule.matches(node) for rule in rules.lasting)


def label_of(descriptor: str, node: Node) -> str:
    """Return the value of `node.labels.X` or `engine.labels.X`, empty when missing."""
    return next(iter(_values_of(descriptor, node, ())), "")


def normal_architecture(architecture: str) -> str:
    """Return the OCI name of a machine architecture."""
    return _ARCHITECTURES.get(architecture.lower(), architecture.lower())


def _values_of(key: str, node: Node, services: Iterable[Service]) -> tuple[str, ...]:
    lowered = key.lower()
    if lowered.startswith(_NODE_LABELS):
        return _label(node.spec.labels, key[len(_NODE_LABELS) :])
    if lowered.startswith(_ENGINE_LABELS):
        return _label(node.description.labels, key[len(_ENGINE_LABELS) :])
    if lowered.startswith(_SERVICE_LABELS):
        name = key[len(_SERVICE_LABELS) :]
        return tuple(v for s in services for v in _label(s.spec.labels, name))
    match lowered:
        case "node.services":
            return tuple(s.spec.name for s in services)
        case "node.id":
            return (node.id,)
        case "node.hostname":
            return (node.description.hostname,)
        case "node.ip":
            return (node.address,)
        case "node.role":
            return (node.spec.role.value,)
        case "node.platform.os":
            return (node.description.platform.os,)
        case "node.platform.arch":
            return (node.description.platform.architecture,)
        case _:
            return ()


def _label(labels: dict[str, str] | None, name: str) -> tuple[str, ...]:
    return (labels[name],) if labels and name in labels else ()


def _compares(actual: str, operator: str, wanted: str) -> bool:
    if not _NUMBER.match(actual):
        return False
    one, other = float(actual), float(wanted)
    match operator:
        case "<":
            return one < other
        case "<=":
            return one <= other
        case ">":
            return one > other
        case _:
            return one >= other


def _in_network(address: str, value: str) -> bool:
    try:
        return IPv4Address(address) in IPv4Network(value, strict=False)
    except ValueError:
        return False
