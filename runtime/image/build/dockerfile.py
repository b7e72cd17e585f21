"""Parses a Dockerfile into instructions.

Grammar: docs.docker.com/reference/dockerfile, as far as the classic builder goes. Heredocs,
`RUN --mount` and `COPY --link` need BuildKit and are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from runtime.image.build.words import key_values, split_words
from runtime.image.errors import BuildError

INSTRUCTIONS = frozenset(
    (
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
        *("LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME"),
        "WORKDIR",
    )
)
NEEDS_BUILDKIT = (
    "requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to learn how to build images"
    " with BuildKit enabled"
)
_FLAGS = {
    "FROM": {"platform"},
    "ADD": {"chown", "chmod", "checksum", "link", "exclude", "keep-git-dir"},
    "COPY": {"from", "chown", "chmod", "link", "parents", "exclude"},
    "RUN": {"mount", "network", "security", "device"},
    "HEALTHCHECK": {"interval", "timeout", "start-period", "start-interval", "retries"},
}
_SWITCHES = {"link", "parents", "keep-git-dir"}
_SERVED = {"platform", "chown", "chmod", "from", *_FLAGS["HEALTHCHECK"]}
_ONE_WORD = frozenset({"MAINTAINER", "STOPSIGNAL", "USER", "WORKDIR"})
_MAY_BE_EMPTY = frozenset({"CMD", "ENTRYPOINT", "RUN"})
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"(?:^|\s)\d*<<-?[\"']?[A-Za-z_]")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_LARGEST_LINE = 65_535


@dataclass(frozen=True)
class Instruction:
    """One instruction: `flags` without their dashes, `text` the rest, `original` as written."""

    name: str
    flags: tuple[tuple[str, str], ...]
    text: str
    original: str
    line: int = 0
    escape: str = "\\"

    def flag(self, name: str) -> str:
        """The value of a flag, empty where it is not given."""
        return dict(self.flags).get(name, "")

    def json_words(self) -> list[str] | None:
        """The words of the exec form; None where the text is no JSON array.

        Raises BuildError where it is one with something else than strings.
        """
        if not self.text.startswith("["):
            return None
        try:
            value = json.loads(self.text)
        except ValueError:
            return None
        if not isinstance(value, list):
            return None
        if not all(isinstance(item, str) for item in value):
            raise BuildError(
                "when using JSON array syntax, arrays must be comprised of strings only"
            )
        return value

    def words(self) -> list[str]:
        """The words of COPY, ADD, VOLUME: the JSON array's, else the text cut at blanks."""
        words = self.json_words()
        return self.text.split() if words is None else words


def parse_dockerfile(text: str) -> list[Instruction]:
    """Parse a whole file; raises BuildError naming the line."""
    lines = text.removeprefix("\ufeff").split("\n")
    escape, first = _directives(lines)
    found = [
        parse_instruction(line, number, escape) for line, number in _joined(lines, first, escape)
    ]
    if not found:
        raise BuildError("failed to parse Dockerfile: file with no instructions")
    return found


def _joined(lines: list[str], first: int, escape: str) -> list[tuple[str, int]]:
    """Logical lines with the number of their first; comments and empty continuations fall out."""
    more = re.compile(rf"(?:(?<=[^{re.escape(escape)}])|^){re.escape(escape)}[ \t]*$")
    found: list[tuple[str, int]] = []
    pending, start = "", 0
    for number, raw in enumerate(lines[first:], first + 1):
        line = raw.rstrip("\r")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(line) > _LARGEST_LINE:
            raise BuildError(
                f"dockerfile line greater than maximum allowed size of {_LARGEST_LINE}"
            )
        start = start or number
        pending += line if pending else line.lstrip()
        cut = more.search(pending)
        if cut:
            pending = pending[: cut.start()]
            continue
        found.append((pending.strip(), start))
        pending, start = "", 0
    if pending.strip():
        found.append((pending.strip(), start))
    return found


def _directives(lines: list[str]) -> tuple[str, int]:
    """The escape character, and how many lines at the top are directives."""
    escape, seen = "\\", set()
    for index, line in enumerate(lines):
        match = _DIRECTIVE.fullmatch(line.strip())
        name = match[1].lower() if match else ""
        if match is None or name not in ("escape", "syntax", "check"):
            return escape, index
        if name in seen:
            raise _at(index + 1, f"only one {name} parser directive can be used")
        seen.add(name)
        if name == "escape":
            escape = match[2]
            if escape not in ("\\", "`"):
                raise _at(index + 1, f"invalid ESCAPE '{escape}'. Must be ` or \\")
    return escape, len(lines)


def parse_instruction(line: str, number: int = 1, escape: str = "\\") -> Instruction:
    """Parse one logical line (also the trigger of an ONBUILD)."""
    word, *rest = line.split(None, 1)
    name, text = word.upper(), (rest[0].strip() if rest else "")
    if name not in INSTRUCTIONS:
        raise _at(number, f"unknown instruction: {name}")
    if name in ("RUN", "COPY", "ADD") and _HEREDOC.search(text):
        raise _at(number, f"the heredoc form of {name} {NEEDS_BUILDKIT}")
    flags, text = _take_flags(name, text, number, escape)
    step = Instruction(name, flags, text, line, number, escape)
    try:
        _check_arguments(step)
    except BuildError as error:
        raise _at(number, str(error)) from None
    return step


def _take_flags(
    name: str, text: str, number: int, escape: str
) -> tuple[tuple[tuple[str, str], ...], str]:
    flags: list[tuple[str, str]] = []
    while text.startswith("--"):
        word = split_words(text, escape)[0]
        text = text[len(word) :].lstrip()
        if word == "--":
            break
        flag, equals, value = word[2:].partition("=")
        if flag not in _FLAGS.get(name, ()):
            raise _at(number, f"unknown flag: --{flag}")
        if flag in dict(flags):
            raise _at(number, f"duplicate flag specified: {flag}")
        if not equals and flag not in _SWITCHES:
            raise _at(number, f"missing a value on flag: {flag}")
        if flag not in _SERVED:
            raise _at(number, f"the --{flag} option {NEEDS_BUILDKIT}")
        flags.append((flag, value))
    return tuple(flags), text


def _check_arguments(step: Instruction) -> None:
    name = step.name
    if not step.text and name not in _MAY_BE_EMPTY:
        amount = "exactly one argument" if name in _ONE_WORD else "at least one argument"
        if name == "FROM":
            amount = "either one or three arguments"
        elif name in ("ADD", "COPY"):
            amount = "at least two arguments"
        raise BuildError(f"{name} requires {amount}")
    if name in _CHECKS:
        _CHECKS[name](step)


def _check_copy(step: Instruction) -> None:
    if len(step.words()) < 2:
        raise BuildError(
            f"{step.name} requires at least two arguments, but only one was provided."
            " Destination could not be determined"
        )


def _check_shell(step: Instruction) -> None:
    if not step.json_words():
        raise BuildError(f"SHELL requires the arguments to be in JSON form: {step.original}")


def _check_onbuild(step: Instruction) -> None:
    inner = step.text.split(None, 1)[0].upper()
    if inner == "ONBUILD":
        raise BuildError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if inner in ("FROM", "MAINTAINER"):
        raise BuildError(f"{inner} isn't allowed as an ONBUILD trigger")


def _check_pairs(step: Instruction) -> None:
    key_values(step.name, step.text, step.escape)


def _check_healthcheck(step: Instruction) -> None:
    kind = step.text.split(None, 1)[0].upper()
    if kind not in ("NONE", "CMD"):
        raise BuildError(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')


def _check_volume(step: Instruction) -> None:
    if not all(word.strip() for word in step.words()):
        raise BuildError("VOLUME specified can not be an empty string")


def _check_command(step: Instruction) -> None:
    step.json_words()


def _check_from(step: Instruction) -> None:
    words = step.text.split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
        raise BuildError("FROM requires either one or three arguments")
    if len(words) == 3 and not _STAGE_NAME.fullmatch(words[2].lower()):
        raise BuildError(
            f'invalid name for build stage: "{words[2]}", name can\'t start with a number or'
            " contain symbols"
        )


_CHECKS: dict[str, Callable[[Instruction], None]] = {
    **dict.fromkeys(("ADD", "COPY"), _check_copy),
    **dict.fromkeys(("ENV", "LABEL"), _check_pairs),
    **dict.fromkeys(("CMD", "ENTRYPOINT", "RUN"), _check_command),
    "FROM": _check_from,
    "HEALTHCHECK": _check_healthcheck,
    "ONBUILD": _check_onbuild,
    "SHELL": _check_shell,
    "VOLUME": _check_volume,
}


def _at(line: int, message: str) -> BuildError:
    return BuildError(f"dockerfile parse error on line {line}: {message}")
