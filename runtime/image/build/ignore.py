"""`.dockerignore`: which context paths a build may not see."""

from __future__ import annotations

import posixpath
import re

from runtime.image.errors import BuildError


class IgnoreRules:
    """Patterns in order; the last that matches a path or one of its parents decides.

    Raises BuildError for a malformed pattern.
    """

    def __init__(self, text: str = "") -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for line in text.removeprefix("\ufeff").splitlines():
            pattern = line.strip()
            if not pattern or line.startswith("#"):
                continue
            keep = pattern.startswith("!")
            if keep and not pattern[1:].strip():
                raise BuildError('error checking context: illegal exclusion pattern: "!"')
            cleaned = posixpath.normpath("/" + pattern[keep:].strip().lstrip("/"))[1:]
            if cleaned:
                self._rules.append((keep, compiled(cleaned)))

    @property
    def takes_back(self) -> bool:
        """Tell whether something below an ignored directory may be wanted."""
        return any(keep for keep, _ in self._rules)

    def ignores(self, path: str) -> bool:
        """Tell whether a path (relative, `/` between names) is left out."""
        parts = path.split("/")
        prefixes = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        ignored = False
        for keep, pattern in self._rules:
            if ignored == keep and any(pattern.fullmatch(prefix) for prefix in prefixes):
                ignored = not keep
        return ignored


def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of a path pattern; raises BuildError where it is malformed."""
    try:
        return re.compile(translate(pattern), re.DOTALL)
    except re.error:
        raise BuildError(f"syntax error in pattern {pattern!r}") from None


def translate(pattern: str) -> str:
    """A regular expression for Go's filepath.Match plus `**`."""
    out, index = "", 0
    while index < len(pattern):
        char = pattern[index]
        if pattern.startswith("**", index):
            index += 2
            if pattern.startswith("/", index):
                index += 1
                out += "(?:.*/)?"
            else:
                out += ".*"
            continue
        index += 1
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            text, index = _class(pattern, index)
            out += text
        elif char == "\\":
            if index == len(pattern):
                raise BuildError(f"syntax error in pattern {pattern!r}")
            out += re.escape(pattern[index])
            index += 1
        else:
            out += re.escape(char)
    return out


def _class(pattern: str, index: int) -> tuple[str, int]:
    """Translate `[a-z]` or `[^a-z]` from behind its bracket; return it and the index after it."""
    negated = pattern.startswith("^", index)
    index += negated
    out = ""
    while index < len(pattern):
        char = pattern[index]
        if char == "]" and out:
            return f"(?!/)[{'^' * negated}{out}]", index + 1
        if char == "\\":
            index += 1
            char = pattern[index : index + 1]
            out += re.escape(char)
        else:
            out += char if char == "-" else re.escape(char)
        index += 1
    raise BuildError(f"syntax error in pattern {pattern!r}")
