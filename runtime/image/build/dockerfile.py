"""Parses a Dockerfile into instructions, and expands variables in their words.

Grammar: docs.docker.com/reference/dockerfile. Heredocs and `RUN --mount` need BuildKit: refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.image.errors import BuildError

INSTRUCTIONS = frozenset(
    (
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
        *("LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME"),
        "WORKDIR",
    )
)
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"(?:^|\s)<<-?[\"']?[A-Za-z_]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")


@dataclass(frozen=True)
class Instruction:
    """One instruction: `flags` without their dashes, `text` the rest of the line."""

    name: str
    flags: tuple[tuple[str, str], ...]
    text: str
    line: int
    escape: str = "\\"

    @property
    def original(self) -> str:
        """The line as Docker prints it in `Step n/m`."""
        flags = "".join(f"--{k}={v} " if v else f"--{k} " for k, v in self.flags)
        return f"{self.name} {flags}{self.text}"

    def json_words(self) -> list[str] | None:
        """The words of the exec form; None where the text is not a JSON array of strings."""
        if not self.text.startswith("["):
            return None
        try:
            value = json.loads(self.text)
        except ValueError:
            return None
        ok = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return value if ok else None


def parse_dockerfile(text: str) -> list[Instruction]:
    """Parse a whole file; raises BuildError naming the line."""
    text = text.removeprefix("\ufeff")
    lines = text.splitlines()
    escape, first = _directives(lines)
    result: list[Instruction] = []
    pending, start = "", 0
    for number, line in enumerate(lines[first:], first + 1):
        stripped = line.strip()
        if stripped.startswith("#") or (not stripped and not pending):
            continue
        if not stripped:
            continue  # Docker skips empty continuation lines
        start = start or number
        body = line.lstrip() if not pending else line
        trimmed = body.rstrip()
        if trimmed.endswith(escape):
            pending += trimmed[:-1]
            continue
        result.append(parse_instruction((pending + body).strip(), start, escape))
        pending, start = "", 0
    if pending.strip():
        result.append(parse_instruction(pending.strip(), start, escape))
    if not result:
        raise BuildError("file with no instructions")
    return result


def _directives(lines: list[str]) -> tuple[str, int]:
    escape = "\\"
    for index, line in enumerate(lines):
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None or match[1].lower() not in ("escape", "syntax", "check"):
            return escape, index
        if match[1].lower() == "escape":
            escape = match[2]
            if escape not in ("\\", "`"):
                raise BuildError(f"invalid escape {escape!r}: must be ` or \\")
    return escape, len(lines)


def parse_instruction(line: str, number: int, escape: str = "\\") -> Instruction:
    """Parse one logical line (also the trigger of an ONBUILD)."""
    word, _, rest = line.partition(" ")
    if "\t" in word:
        word, _, rest = line.partition("\t")
    name = word.upper()
    if name not in INSTRUCTIONS:
        raise BuildError(f"dockerfile parse error line {number}: unknown instruction: {name}")
    rest = rest.strip()
    if name in ("RUN", "COPY", "ADD") and _HEREDOC.search(rest):
        raise BuildError(f"dockerfile parse error line {number}: heredocs are not supported")
    flags: list[tuple[str, str]] = []
    while match := _FLAG.match(rest):
        if name not in ("FROM", "RUN", "COPY", "ADD", "HEALTHCHECK"):
            break
        flags.append((match[1], match[2] or ""))
        rest = rest[match.end() :]
    if not rest:
        raise BuildError(f"dockerfile parse error line {number}: {name} requires arguments")
    return Instruction(name, tuple(flags), rest, number, escape)


def split_words(text: str, escape: str = "\\") -> list[str]:
    """Split at blanks outside quotes; quotes and escapes stay for `expand`."""
    words, current, quote, index = [], "", "", 0
    while index < len(text):
        char = text[index]
        if char == escape and quote != "'" and index + 1 < len(text):
            current += text[index : index + 2]
            index += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if current:
                words.append(current)
            current = ""
            index += 1
            continue
        current += char
        index += 1
    return [*words, current] if current else words


def expand(word: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Expand variables and remove quotes; raises BuildError for bad `${…}`."""
    out, quote, index = "", "", 0
    while index < len(word):
        char = word[index]
        if char == escape and quote != "'" and index + 1 < len(word):
            following = word[index + 1]
            keep = quote == '"' and following not in ('"', "$", escape)
            out += escape + following if keep else following
            index += 2
        elif char in "'\"" and quote in ("", char):
            quote = "" if quote else char
            index += 1
        elif char == "$" and quote != "'":
            value, index = _variable(word, index, variables, escape)
            out += value
        else:
            out += char
            index += 1
    return out


def _variable(word: str, index: int, variables: Mapping[str, str], escape: str) -> tuple[str, int]:
    """Expand the variable at `index` (a `$`); return its value and the index behind it."""
    plain = _NAME.match(word, index + 1)
    if plain:
        return variables.get(plain[0], ""), plain.end()
    if not word.startswith("${", index):
        return "$", index + 1
    end, depth = index + 2, 1
    while end < len(word) and depth:
        depth += {"{": 1, "}": -1}.get(word[end], 0)
        end += 1
    body = word[index + 2 : end - 1]
    name = _NAME.match(body)
    if depth or name is None:
        raise BuildError(f"bad substitution: {word!r}")
    value, rest = variables.get(name[0]), body[name.end() :]
    if not rest:
        return value or "", end
    colon = rest.startswith(":")
    operator, operand = rest[colon : colon + 1], rest[colon + 1 :]
    present = bool(value) if colon else value is not None
    if operator == "-":
        return (value or "") if present else expand(operand, variables, escape), end
    if operator == "+":
        return expand(operand, variables, escape) if present else "", end
    if operator == "?":
        if not present:
            raise BuildError(f"{name[0]}: {expand(operand, variables, escape) or 'not set'}")
        return value or "", end
    raise BuildError(f"unsupported modifier in substitution: {word!r}")


def key_values(text: str, escape: str = "\\") -> list[tuple[str, str]]:
    """The unexpanded pairs of ENV and LABEL, also of the old form `ENV key value`."""
    words = split_words(text, escape)
    if "=" not in words[0]:
        if len(words) < 2:
            raise BuildError(f"{words[0]!r} must have a value: key=value")
        return [(words[0], text.split(None, 1)[1])]
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BuildError(
                f"syntax error: can't find = in {word!r}: must be of the form key=value"
            )
        pairs.append((key, value))
    return pairs
