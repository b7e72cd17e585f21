"""Namespaces made ahead: what fails leaves nothing open, and holds nobody up."""

import os
from typing import Any, cast

import pytest

from worker.network.host import SPARES, Spares, with_loopback


def test_what_is_no_namespace_is_not_left_open() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        with_loopback(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_node_that_cannot_make_any_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    refusals = ["no space", "no space", "", "", "again"]
    made: list[object] = []

    def make() -> Any:
        if reason := refusals.pop(0) if refusals else "":
            raise OSError(reason)
        made.append(object())
        return made[-1]

    spares = Spares(cast(Any, make))
    spares.fill()
    spares.fill()
    assert [r.getMessage() for r in caplog.records] == [
        "no network namespace can be made ahead: no space"
    ]
    spares.fill()
    assert len(made) == 2
    spares.fill()
    assert len(made) == SPARES
    assert spares.take() is made[-1]
