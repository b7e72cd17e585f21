"""The values inside flags: sizes and switches."""

import argparse
import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(i?b)?", re.IGNORECASE)
Bad = argparse.ArgumentTypeError


def size(text: str) -> int:
    """Return bytes of `64m`, `1.5GiB`, `1024`; units are powers of 1024 as in Docker."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise Bad(f"invalid size {text!r}: want bytes or a number with b, k, m, g")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def truth(name: str, text: str) -> bool:
    """Return a switch's value inside a long flag."""
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise Bad(f"invalid value for {name}: {text!r} is neither true nor false")
