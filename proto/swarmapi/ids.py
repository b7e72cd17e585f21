"""Identifiers and names: 25-character base36 ids, join tokens, and the rules for names."""

import hashlib
import re
from collections.abc import Callable

from swarmapi.errors import InvalidArgument

ID_LENGTH = 25
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_SERVICE_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?\Z")
_SECRET_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9])?\Z")


def base36(number: int, length: int) -> str:
    """Render a non-negative number in base 36, padded with zeros to `length`."""
    digits = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits)).rjust(length, "0")


def root_digest(cert_pem: bytes) -> str:
    """Return what a join token pins: SHA-256 of the root's PEM in 50 base36 digits."""
    return base36(int.from_bytes(hashlib.sha256(cert_pem).digest(), "big"), 50)


def new_id(random_bytes: Callable[[int], bytes]) -> str:
    """Return a fresh 25-character id from 128 random bits (the form Docker's clients expect)."""
    return base36(int.from_bytes(random_bytes(16), "big"), ID_LENGTH)


def check_service_name(name: str) -> None:
    """Refuse a service or network name that is no DNS label with inner `-` or `_`.

    Raises:
        InvalidArgument: with the rule in words.
    """
    if not _SERVICE_NAME.match(name):
        raise InvalidArgument(
            f"name {name!r} must be 1 to 63 letters, digits, '-' or '_', "
            "with a letter or digit at both ends"
        )


def check_secret_name(name: str) -> None:
    """Refuse a secret or config name (as services, with `.` allowed inside, 64 characters)."""
    if not _SECRET_NAME.match(name):
        raise InvalidArgument(
            f"name {name!r} must be 1 to 64 letters, digits, '-', '_' or '.', "
            "with a letter or digit at both ends"
        )
