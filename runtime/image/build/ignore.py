"""`.dockerignore`: which context paths a build may not see."""

from __future__ import annotations

import posixpath
import re


class IgnoreRules:
    """Patterns in order; the last that matches a path or one of its parents decides."""

    def __init__(self, text: str = "") -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for line in text.splitlines():
            pattern = line.strip()
            if not pattern or line.startswith("#"):
                continue
            keep = pattern.startswith("!")
            cleaned = posixpath.normpath(pattern.lstrip("!").strip()).lstrip("/")
            if cleaned != ".":
                self._rules.append((keep, re.compile(translate(cleaned))))

    def ignores(self, path: str) -> bool:
        """Tell whether a path (relative, `/` between names) is left out."""
        parts = path.split("/")
        prefixes = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        ignored = False
        for keep, pattern in self._rules:
            if ignored == keep and any(pattern.fullmatch(prefix) for prefix in prefixes):
                ignored = not keep
        return ignored


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
        elif char == "[" and (end := pattern.find("]", index + 1)) > 0:
            body = pattern[index:end].replace("\\", "\\\\")
            out += f"[{body}]"
            index = end + 1
        elif char == "\\" and index < len(pattern):
            out += re.escape(pattern[index])
            index += 1
        else:
            out += re.escape(char)
    return out
