"""Variables in Compose files: `$NAME`, `${NAME}`, defaults and errors, `$$` for a dollar.

The rules are the Compose specification's, section Interpolation: they hold for values, never for
keys, and a default may hold variables itself.
"""

import re
from collections.abc import Mapping
from typing import Any

from swarmctl.errors import ClientError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATORS = (":-", ":?", ":+", "-", "?", "+")


def interpolate(value: Any, variables: Mapping[str, str], path: str = "") -> Any:
    """Return the document with every variable in its strings replaced.

    Raises:
        ClientError: with the path of a value that is malformed or demands an unset variable.
    """
    if isinstance(value, dict):
        return {
            key: interpolate(item, variables, f"{path}.{key}" if path else str(key))
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [interpolate(item, variables, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, str) and "$" in value:
        try:
            return _text(value, variables)
        except ValueError as error:
            raise ClientError(f"{path}: {error}") from None
    return value


def _text(text: str, variables: Mapping[str, str]) -> str:
    parts: list[str] = []
    position = 0
    while (found := text.find("$", position)) >= 0:
        parts.append(text[position:found])
        following = text[found + 1 : found + 2]
        if following == "$":
            parts.append("$")
            position = found + 2
        elif following == "{":
            end = _closing(text, found + 2)
            parts.append(_braced(text[found + 2 : end], variables))
            position = end + 1
        elif match := _NAME.match(text, found + 1):
            parts.append(variables.get(match[0], ""))
            position = match.end()
        else:
            raise ValueError(f"invalid variable in {text!r}: a dollar sign itself is written $$")
    return "".join([*parts, text[position:]])


def _closing(text: str, position: int) -> int:
    """Return where the brace that was opened before `position` is closed."""
    depth = 1
    for index in range(position, len(text)):
        if text[index] == "{" and text[index - 1] == "$":
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
    raise ValueError(f"invalid variable in {text!r}: the brace is not closed")


def _braced(text: str, variables: Mapping[str, str]) -> str:
    match = _NAME.match(text)
    if not match:
        raise ValueError(f"invalid variable ${{{text}}}")
    name, rest = match[0], text[match.end() :]
    if not rest:
        return variables.get(name, "")
    operator = next((known for known in _OPERATORS if rest.startswith(known)), "")
    if not operator:
        raise ValueError(f"invalid variable ${{{text}}}")
    word = rest[len(operator) :]
    value = variables.get(name)
    there = bool(value) if operator[0] == ":" else value is not None
    if operator[-1] == "+":
        return _text(word, variables) if there else ""
    if there:
        return value or ""
    if operator[-1] == "?":
        reason = _text(word, variables) or "it is not set"
        raise ValueError(f"variable {name} is required: {reason}")
    return _text(word, variables)
