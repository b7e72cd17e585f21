"""What anybody can cause is logged, and does not fill the disk."""

import logging

import pytest

from manager.stderr import passed
from swarmapi.ratelimit import MOST, PER_S, LimitedLog, RateLimit


def test_so_many_pass_and_the_rest_is_counted() -> None:
    rates = RateLimit(most=3, per_s=10)
    assert [rates.ask("a", 0.0) for _ in range(6)] == [0, 0, 0, None, None, None]
    assert rates.ask("b", 0.0) == 0
    assert rates.ask("a", 9.9) is None
    assert rates.ask("a", 10.0) == 4
    assert rates.ask("a", 10.1) == 0


def test_there_is_no_end_of_keys_that_fills_memory() -> None:
    rates = RateLimit()
    for number in range(10_000):
        assert rates.ask(str(number), 0.0) == 0
    assert len(rates._seen) <= 256


def test_a_logger_says_what_it_held_back(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = logging.getLogger("test.limited")
    log.addFilter(LimitedLog(lambda: now[0]))
    for number in range(1000):
        log.warning("%s speaks no TLS", number)
    assert len(caplog.messages) == MOST
    now[0] = PER_S
    log.warning("%s speaks no TLS", "last")
    assert caplog.messages[-1] == (
        f"last speaks no TLS ({1000 - MOST} more like this were not logged)"
    )


def test_lines_of_c_code_are_limited_by_where_they_come_from() -> None:
    rates = RateLimit(most=2, per_s=10)
    line = b"E0000 00:00:%d ssl_transport_security.cc:1884] Handshake failed\n"
    kept = [passed(rates, line % number, 0.0) for number in range(5)]
    assert kept == [line % 0, line % 1, b"", b"", b""]
    assert passed(rates, b"other.cc:7] else\n", 0.0) == b"other.cc:7] else\n"
    assert passed(rates, line % 9, 10.0).endswith(b"failed (3 more like this were not logged)\n")
