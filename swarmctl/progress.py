"""The progress lines of pull, push, build and load."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from swarmctl.errors import ClientError


def follow(lines: Iterable[Any], *, quiet: bool = False, out: TextIO | None = None) -> list[Any]:
    """Show progress objects as they come; returns the `aux` ones.

    Raises ClientError with the daemon's words for an error inside the stream, and its exit code
    where it has one. On a terminal the
    lines of one layer replace each other; elsewhere only changes of status are printed.
    """
    target = sys.stdout if out is None else out
    show = _Layers(target)
    found: list[Any] = []
    for line in lines:
        if "error" in line or "errorDetail" in line:
            detail = line.get("errorDetail") or {}
            code = detail.get("code") or 1
            raise ClientError(str(detail.get("message") or line.get("error")), int(code))
        if "aux" in line:
            found.append(line["aux"])
        elif quiet:
            continue
        elif "stream" in line:
            target.write(line["stream"])
            target.flush()
        else:
            show.line(line)
    return found


class _Layers:
    """One line per layer."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._terminal = target.isatty()
        self._rows: dict[str, int] = {}
        self._last: dict[str, str] = {}

    def line(self, line: Any) -> None:
        identity, status = line.get("id", ""), line.get("status", "")
        if not self._terminal or not identity:
            if not identity or self._last.get(identity) != status:
                self._last[identity] = status
                print(f"{identity}: {status}" if identity else status, file=self._target)
            self._rows.clear()
            return
        text = f"{identity}: {status} {line.get('progress', '')}".rstrip()
        if identity not in self._rows:
            self._rows[identity] = len(self._rows)
            print(text, file=self._target, flush=True)
            return
        up = len(self._rows) - self._rows[identity]
        self._target.write(f"\x1b[{up}A\x1b[2K{text}\r\x1b[{up}B")
        self._target.flush()
