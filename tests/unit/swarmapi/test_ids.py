"""Ids and names as Docker's clients expect them."""

from functools import partial

import pytest

from swarmapi import ids
from swarmapi.errors import BY_GRPC_CODE, InvalidArgument, SwarmError


def _as_bytes(number: int, count: int) -> bytes:
    return number.to_bytes(count, "big")


def test_an_id_has_25_base36_characters_whatever_the_bytes() -> None:
    for octet in (b"\x00", b"\xff", b"\x5a"):
        made = ids.new_id(octet.__mul__)
        assert len(made) == ids.ID_LENGTH
        assert made.isalnum()
        assert made == made.lower()


def test_different_bytes_make_different_ids() -> None:
    made = {ids.new_id(partial(_as_bytes, i)) for i in range(1000)}
    assert len(made) == 1000


@pytest.mark.parametrize("name", ["a", "web-1", "a_b", "x" * 63])
def test_good_service_names(name: str) -> None:
    ids.check_service_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "a.b", "x" * 64, "a\n", "ä"])
def test_bad_service_names(name: str) -> None:
    with pytest.raises(InvalidArgument):
        ids.check_service_name(name)


def test_secret_names_may_have_dots() -> None:
    ids.check_secret_name("a.b")
    with pytest.raises(InvalidArgument):
        ids.check_secret_name(".a")


def test_every_grpc_code_leads_back_to_an_error_of_that_code() -> None:
    for code, kind in BY_GRPC_CODE.items():
        assert issubclass(kind, SwarmError)
        assert kind.grpc_code == code
