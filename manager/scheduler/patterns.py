"""Regular expressions that users write, within bounds: the leader's turn waits for no backtracking.

Steps of a search grow with a power of the text's length, one for each repetition; a repeated
group, or many optional parts and alternatives, can make it grow exponentially. So groups are not
repeated, and all of these are few and short.
"""

import re
from functools import lru_cache
from typing import Final

from swarmapi.errors import InvalidArgument

MAX_PATTERN: Final = 200
MAX_TEXT: Final = 128
"""Longer values match no pattern."""
MAX_OF: Final = {"*+{": 3, "?": 4, "(": 3}
_TOKEN: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?|\)?[*+{]|.", re.DOTALL)


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that is invalid or could take long.

    Raises:
        InvalidArgument: says what is wrong with it.
    """
    if not pattern or len(pattern) > MAX_PATTERN:
        raise InvalidArgument(f"a regex has 1 to {MAX_PATTERN} characters")
    tokens = _TOKEN.findall(pattern)
    if any(token.startswith(")") and len(token) > 1 for token in tokens):
        raise InvalidArgument(f"regex {pattern!r} repeats a group: repeat a character or a [class]")
    if any(token == "(?" or (token[0] == "\\" and token[1:].isdigit()) for token in tokens):
        raise InvalidArgument(f"regex {pattern!r}: (?…) and back references are not supported")
    for signs, limit in MAX_OF.items():
        if sum(token in signs for token in tokens) > limit:
            raise InvalidArgument(f"regex {pattern!r} has more than {limit} of {' '.join(signs)}")
    try:
        _compiled(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"regex {pattern!r}: {error}") from error


@lru_cache(maxsize=16_384)
def finds(pattern: str, text: str) -> bool:
    """Tell whether the pattern occurs in the text, without regard to case."""
    return len(text) <= MAX_TEXT and _compiled(pattern).search(text) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)
