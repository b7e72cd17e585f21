"""A mapping of a Compose file, read key by key: what nobody read is refused by name."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from swarmctl import flags
from swarmctl.compose.merge import as_mapping
from swarmctl.errors import ClientError
from swarmctl.values import Bad

T = TypeVar("T")


class Section:
    """One mapping and its path in the file. Every reader returns None for a key that is not there.

    Values may be text where another kind is meant: variables are always text.

    Raises:
        ClientError: from every reader, with the path of a value of the wrong kind.
    """

    def __init__(self, value: Any, path: str) -> None:
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise ClientError(f"{path or 'the file'}: want a mapping, not {_kind(value)}")
        self.path = path
        self._value: dict[str, Any] = {str(key): item for key, item in value.items()}
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def at(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def take(self, key: str) -> Any:
        """Return a value as the file has it."""
        self._read.add(key)
        return self._value.get(key)

    def text(self, key: str) -> str | None:
        """Return a text; numbers and switches are taken as they are written."""
        value = self.take(key)
        return None if value is None else as_text(value, self.at(key))

    def texts(self, key: str) -> list[str] | None:
        """Return a list of texts; a text alone is a list of one."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, list):
            return [as_text(value, self.at(key))]
        return [as_text(item, f"{self.at(key)}[{i}]") for i, item in enumerate(value)]

    def items(self, key: str) -> list[tuple[Any, str]]:
        """Return a list's items, each with its path."""
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ClientError(f"{self.at(key)}: want a list, not {_kind(value)}")
        return [(item, f"{self.at(key)}[{i}]") for i, item in enumerate(value)]

    def pairs(self, key: str, separator: str = "=") -> dict[str, str] | None:
        """Return a mapping of texts, also where it is written as lines `NAME=value`."""
        found = self.values(key, separator)
        return None if found is None else {name: value or "" for name, value in found.items()}

    def values(self, key: str, separator: str = "=") -> dict[str, str | None] | None:
        """Return what `pairs` does, with None for a name without a value."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, dict | list):
            raise ClientError(f"{self.at(key)}: want a mapping or a list, not {_kind(value)}")
        return {
            str(name): None if item is None else as_text(item, f"{self.at(key)}.{name}")
            for name, item in as_mapping(value, separator).items()
        }

    def truth(self, key: str) -> bool | None:
        """Return a switch."""
        return self._parsed(key, lambda text: flags.truth(key, text))

    def integer(self, key: str) -> int | None:
        """Return a number that is not negative."""
        return self._parsed(key, flags.count)

    def number(self, key: str) -> int | None:
        """Return a number that may be negative."""
        return self._parsed(key, flags.number)

    def ratio(self, key: str) -> float | None:
        """Return a share between 0 and 1."""
        return self._parsed(key, flags.ratio)

    def cpus(self, key: str) -> int | None:
        """Return billionths of a core."""
        return self._parsed(key, flags.cpus)

    def size(self, key: str) -> int | None:
        """Return bytes of a number, or of a text such as 64m."""
        return self._parsed(key, flags.size)

    def duration(self, key: str) -> int | None:
        """Return nanoseconds of a text such as 1m30s."""
        return self._parsed(key, flags.duration)

    def choice(self, key: str, *known: str) -> str | None:
        """Return one of the known words."""
        found = self.text(key)
        if found is not None and found not in known:
            raise ClientError(f"{self.at(key)}: {found!r} is not one of {', '.join(known)}")
        return found

    def mode(self, key: str) -> int | None:
        """Return a file's mode: a text is octal."""
        value = self.take(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        try:
            return int(as_text(value, self.at(key)), 8)
        except ValueError:
            raise ClientError(f"{self.at(key)}: {value!r} is not an octal mode") from None

    def section(self, key: str) -> "Section":
        """Return a mapping within this one, empty where there is none."""
        return Section(self.take(key), self.at(key))

    def each(self) -> "dict[str, Section]":
        """Return all of it as mappings."""
        return {name: self.section(name) for name in self._value if not name.startswith("x-")}

    def plain(self) -> dict[str, Any]:
        """Return all of it as the file has it."""
        self._read.update(self._value)
        return dict(self._value)

    def end(self, refused: Mapping[str, str] | None = None) -> None:
        """Refuse what was not read; `refused` says why known keys are not taken.

        A key whose value is blank asks for nothing, and `x-` begins what is for others.
        """
        for key, value in self._value.items():
            if key in self._read or key.startswith("x-") or value in (None, False, "", [], {}):
                continue
            if refused and key in refused:
                raise ClientError(f"{self.at(key)}: not supported: {refused[key]}")
            near = difflib.get_close_matches(key, [*self._read, *(refused or ())], 1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise ClientError(f"{self.at(key)}: unknown key{hint}")

    def _parsed(self, key: str, parse: Callable[[str], T]) -> T | None:
        text = self.text(key)
        if text is None:
            return None
        try:
            return parse(text)
        except Bad as error:
            raise ClientError(f"{self.at(key)}: {error}") from None


def as_text(value: Any, path: str) -> str:
    """Return a plain value as the text that was written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ClientError(f"{path}: want a text, not {_kind(value)}")


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: f"the text {value!r}", bool: "a switch"}
    return names.get(type(value), f"the number {value}")
