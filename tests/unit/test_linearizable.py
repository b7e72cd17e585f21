"""The checker of histories: what it must accept, and the bad ones it must not."""

import math
from random import Random

import pytest

from tests.linearizable import AppendList, Operation, Register, violation

NEVER = math.inf


def write(called: float, returned: float, value: str) -> Operation:
    return Operation(called, returned, "write", value)


def read(called: float, returned: float, value: object) -> Operation:
    return Operation(called, returned, "read", answer=value)


def cas(called: float, returned: float, old: str, new: str, done: bool) -> Operation:
    return Operation(called, returned, "cas", (old, new), done)


def append(called: float, returned: float, value: str) -> Operation:
    return Operation(called, returned, "append", value)


GOOD_REGISTERS = {
    "nothing happened": [],
    "one after the other": [write(0, 1, "a"), read(2, 3, "a")],
    "a read beside a write sees the new value": [write(0, 9, "a"), read(1, 2, "a")],
    "a read beside a write sees the old value": [write(0, 9, "a"), read(1, 2, "")],
    "a write of unknown outcome acts": [write(0, NEVER, "a"), read(5, 6, "a")],
    "a write of unknown outcome never acts": [write(0, NEVER, "a"), read(5, 6, "")],
    "a write of unknown outcome acts late": [
        write(0, NEVER, "a"),
        read(1, 2, ""),
        write(3, 4, "b"),
        read(5, 6, "b"),
        read(7, 8, "a"),
    ],
    "a cas that lost": [write(0, 1, "a"), cas(2, 3, "", "b", False), read(4, 5, "a")],
    "a cas of unknown outcome that was done": [cas(0, NEVER, "", "b", False), read(4, 5, "b")],
    "two writes at once in either order": [
        write(0, 5, "a"),
        write(0, 5, "b"),
        read(6, 7, "a"),
        read(8, 9, "a"),
    ],
}
BAD_REGISTERS = {
    "an acknowledged write is lost": [write(0, 1, "a"), read(2, 3, "")],
    "a stale read": [write(0, 1, "a"), write(2, 3, "b"), read(4, 5, "a")],
    "reads go back": [write(0, 9, "a"), read(1, 2, "a"), read(3, 4, "")],
    "a value nobody wrote": [read(0, 1, "z")],
    "a value before it was written": [read(0, 1, "a"), write(2, 3, "a")],
    "a write of unknown outcome goes away again": [
        write(0, NEVER, "a"),
        read(1, 2, "a"),
        read(3, 4, ""),
    ],
    "two cas from one value": [cas(0, 9, "", "a", True), cas(0, 9, "", "b", True)],
    "a cas lost to nobody": [cas(0, 1, "", "a", False)],
    "a cas done from another value": [write(0, 1, "a"), cas(2, 3, "", "b", True)],
    "two readers disagree on the order": [
        write(0, 9, "a"),
        write(0, 9, "b"),
        read(1, 2, "a"),
        read(3, 4, "b"),
        read(5, 6, "a"),
    ],
}
GOOD_LISTS = {
    "in order": [append(0, 1, "a"), append(2, 3, "b"), read(4, 5, ("a", "b"))],
    "at once": [append(0, 5, "a"), append(0, 5, "b"), read(6, 7, ("b", "a"))],
    "unknown and seen": [append(0, NEVER, "a"), read(1, 2, ()), read(3, 4, ("a",))],
}
BAD_LISTS = {
    "one is lost": [append(0, 1, "a"), append(2, 3, "b"), read(4, 5, ("b",))],
    "out of order": [append(0, 1, "a"), append(2, 3, "b"), read(4, 5, ("b", "a"))],
    "twice": [append(0, 1, "a"), read(2, 3, ("a", "a"))],
    "reads that fork": [
        append(0, 9, "a"),
        append(0, 9, "b"),
        read(1, 2, ("a",)),
        read(3, 4, ("b",)),
    ],
    "unknown, seen, then gone": [append(0, NEVER, "a"), read(1, 2, ("a",)), read(3, 4, ())],
}


@pytest.mark.parametrize("name", GOOD_REGISTERS)
def test_a_good_history_of_a_register(name: str) -> None:
    assert violation(GOOD_REGISTERS[name], Register()) == ""


@pytest.mark.parametrize("name", BAD_REGISTERS)
def test_a_bad_history_of_a_register(name: str) -> None:
    assert violation(BAD_REGISTERS[name], Register())


@pytest.mark.parametrize("name", GOOD_LISTS)
def test_a_good_history_of_a_list(name: str) -> None:
    assert violation(GOOD_LISTS[name], AppendList()) == ""


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_bad_history_of_a_list(name: str) -> None:
    assert violation(BAD_LISTS[name], AppendList())


def made(random: Random, operations: int) -> list[Operation]:
    """Return a history of concurrent clients on a real register, some outcomes unknown."""
    history, state = list[Operation](), ""
    for number in range(operations):
        acts = number + random.random()
        called, returned = acts - random.uniform(0, 4), acts + random.uniform(0, 4)
        if random.random() < 0.5:
            history.append(read(called, returned, state))
            continue
        lost = random.random() < 0.2
        if not lost or random.random() < 0.5:
            state = str(number)
        history.append(write(called, NEVER if lost else returned, str(number)))
    return history


@pytest.mark.parametrize("seed", range(20))
def test_what_a_real_register_did_is_explained_and_one_stale_read_is_not(seed: int) -> None:
    history = made(Random(seed), 200)
    assert violation(history, Register()) == ""
    last = max((each for each in history if not each.unknown), key=lambda each: each.returned)
    later = last.returned + 1
    writes = [write(later, later + 1, "old"), write(later + 2, later + 3, "new")]
    assert violation([*history, *writes, read(later + 4, later + 5, "new")], Register()) == ""
    assert violation([*history, *writes, read(later + 4, later + 5, "old")], Register())
