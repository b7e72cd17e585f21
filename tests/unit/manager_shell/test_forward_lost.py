"""A silent leader: the follower does not wait for a machine that lost its power."""

import asyncio

import pytest

from manager.api.forward import _unless


async def _never() -> None:
    await asyncio.Event().wait()


async def _at_once() -> None:
    return None


async def _answer() -> str:
    return "answer"


def test_a_reply_wins_while_the_leader_leads() -> None:
    assert asyncio.run(_unless(_never(), _answer(), 5)) == "answer"


def test_a_lost_leader_ends_the_wait_though_nothing_came() -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(_unless(_at_once(), _never(), 60))
