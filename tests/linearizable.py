"""Whether a history could have happened one operation at a time, each between its call and return.

The search is Wing and Gong's with Lowe's memory of what was tried, as in Porcupine: go through
the calls in order, take one that the model allows, go back where nothing else is allowed.
Histories are of one object; independent objects are checked one by one.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol


@dataclass(frozen=True)
class Operation:
    """One operation: `asked` is what it was to do, `answer` what it told.

    A `returned` of infinity is an operation whose outcome nobody knows: it may act at any later
    moment, or never.
    """

    called: float
    returned: float
    kind: str
    asked: Any = None
    answer: Any = None

    @property
    def unknown(self) -> bool:
        """Whether nobody knows its outcome."""
        return math.isinf(self.returned)


class Model(Protocol):
    """What an object does with one operation after the other; states are hashable."""

    @property
    def initial(self) -> Hashable:
        """The state before everything."""

    def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
        """Say whether the operation may act in this state, and return the state after it."""

    def shows(self, operation: Operation) -> Iterable[Hashable]:
        """Yield the values whose writing this operation proves; values are written once."""


class Register:
    """`write` a value, `read` it, `cas` from one to another (answer: whether it was done)."""

    initial = ""

    def step(self, state: str, operation: Operation) -> tuple[bool, str]:
        match operation.kind:
            case "read":
                return operation.answer == state, state
            case "cas":
                expected, value = operation.asked
                done = expected == state
                return operation.unknown or operation.answer == done, value if done else state
            case _:
                return True, operation.asked

    def shows(self, operation: Operation) -> Iterable[Hashable]:
        if operation.kind == "read":
            yield operation.answer
        elif operation.kind == "cas" and operation.answer:
            yield operation.asked[0]


class AppendList:
    """`append` an element, `read` the whole tuple."""

    initial: tuple[Hashable, ...] = ()

    def step(self, state: tuple[Any, ...], operation: Operation) -> tuple[bool, tuple[Any, ...]]:
        if operation.kind == "read":
            return operation.answer == state, state
        return True, (*state, operation.asked)

    def shows(self, operation: Operation) -> Iterable[Hashable]:
        if operation.kind == "read":
            yield from operation.answer


@dataclass
class _Event:
    """A call or a return in the list of those still to be explained."""

    operation: int
    is_call: bool
    before: "_Event | None" = None
    after: "_Event | None" = None
    match: "_Event | None" = None


def violation(history: Sequence[Operation], model: Model) -> str:
    """Return "" when the history is linearizable, else where no order explains it any more."""
    operations = _narrowed(history, model)
    head = _linked(operations)
    state, done, taken = model.initial, 0, list[tuple[_Event, Any]]()
    seen: set[tuple[int, Any]] = set()
    furthest, stuck = -1, ""
    event = head.after
    while event is not None:
        if event.is_call:
            allowed, after = model.step(state, operations[event.operation])
            key = (done | 1 << event.operation, after)
            if allowed and key not in seen:
                seen.add(key)
                taken.append((event, state))
                state, done = after, key[0]
                _lift(event)
                event = head.after
            else:
                event = event.after
            continue
        if len(taken) > furthest:
            furthest, stuck = len(taken), f"{operations[event.operation]} after state {state!r}"
        if not taken:
            return stuck
        event, state = taken.pop()
        done &= ~(1 << event.operation)
        _unlift(event)
        event = event.after
    return ""


def _narrowed(history: Sequence[Operation], model: Model) -> list[Operation]:
    """Drop unknown operations nobody saw; let those that were seen end when they were seen.

    Both leave the verdict as it is, because no value is written twice, and keep the search short.
    """
    seen_by: dict[Hashable, float] = {}
    for operation in history:
        for value in model.shows(operation):
            seen_by[value] = min(seen_by.get(value, math.inf), operation.returned)
    kept = []
    for operation in history:
        if operation.unknown:
            written = operation.asked[1] if operation.kind == "cas" else operation.asked
            if operation.kind == "read" or written not in seen_by:
                continue
            operation = replace(operation, returned=seen_by[written])
            if operation.kind == "cas":
                operation = replace(operation, answer=True)
        kept.append(operation)
    return kept


def _linked(operations: Sequence[Operation]) -> _Event:
    """Return the head of the list of all calls and returns by time; calls go first."""
    events: list[tuple[float, int, _Event]] = []
    for number, operation in enumerate(operations):
        call, end = _Event(number, True), _Event(number, False)
        call.match = end
        events += [(operation.called, 0, call), (operation.returned, 1, end)]
    head = last = _Event(-1, True)
    for _, _, event in sorted(events, key=lambda each: each[:2]):
        last.after, event.before = event, last
        last = event
    return head


def _lift(call: _Event) -> None:
    for event in (call, call.match):
        assert event is not None
        assert event.before is not None
        event.before.after = event.after
        if event.after is not None:
            event.after.before = event.before


def _unlift(call: _Event) -> None:
    for event in (call.match, call):
        assert event is not None
        assert event.before is not None
        event.before.after = event
        if event.after is not None:
            event.after.before = event
