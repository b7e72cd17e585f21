"""Progress lines of pull and push as Docker streams them. Pure, but for the clock given in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Emit = Callable[[dict[str, Any]], None]
_BAR_WIDTH = 50
_EVERY_S = 0.1
_UNITS = ("B", "kB", "MB", "GB", "TB")


def bar(current: int, total: int) -> str:
    """Return the text form of a progress: `[=====>     ]  12.3MB/45MB`."""
    if total <= 0:
        return human(current)
    filled = min(_BAR_WIDTH, _BAR_WIDTH * current // total)
    arrow = ">" if filled < _BAR_WIDTH else ""
    body = ("=" * filled + arrow).ljust(_BAR_WIDTH)
    return f"[{body}]  {human(current)}/{human(total)}"


def human(size: int) -> str:
    """Return bytes in Docker's decimal units with four digits."""
    value, unit = float(size), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.4g}{_UNITS[unit]}"


class Layers:
    """Emits the lines of layers; bytes within one status at most ten times a second each."""

    def __init__(self, emit: Emit, now_s: Callable[[], float]) -> None:
        self._emit = emit
        self._now_s = now_s
        self._last: dict[str, tuple[str, float]] = {}

    def status(self, layer: str, status: str) -> None:
        """Say a new status of a layer."""
        self._last[layer] = (status, 0.0)
        self._emit({"status": status, "progressDetail": {}, "id": layer})

    def bytes(self, layer: str, status: str, current: int, total: int) -> None:
        """Say how far it is."""
        before, at_s = self._last.get(layer, ("", 0.0))
        now_s = self._now_s()
        if before == status and now_s - at_s < _EVERY_S and current < total:
            return
        self._last[layer] = (status, now_s)
        self._emit(
            {
                "status": status,
                "progressDetail": {"current": current, "total": total},
                "progress": bar(current, total),
                "id": layer,
            }
        )
