"""Options of a program: one declaration each, read as default < file < environment < flag.

An option is a field of a frozen dataclass, made by `option`. Its name, with dashes, is the flag
and the key of the TOML file; with underscores and capitals, after a prefix, the variable of the
environment. The type of the default is the type of the option; a tuple may be repeated, and is
written as an array in the file and separated by commas in the environment.
"""

import argparse
import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from swarmapi.errors import InvalidArgument
from swarmapi.override import override

T = TypeVar("T")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
Check = Callable[[Any], None]
"""Raises InvalidArgument, whose words follow the option's name and its source."""


@dataclass(frozen=True)
class _Declared:
    help: str
    group: str
    short: str
    metavar: str
    values: tuple[str, ...]
    check: Check | None


@dataclass(frozen=True)
class Option:
    """One option: `name` is data_root, `flag` --data-root, `key` data-root."""

    name: str
    default: Any
    help: str
    group: str
    short: str
    metavar: str
    values: tuple[str, ...]
    check: Check | None

    @property
    def key(self) -> str:
        """Its name in the file."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.key

    @property
    def repeated(self) -> bool:
        """Whether it holds several values."""
        return isinstance(self.default, tuple)

    def read(self, given: Any, source: str) -> Any:
        """Return the value of what a source gives; raises InvalidArgument naming both."""
        try:
            value = self._converted(given)
            if self.values and value not in self.values:
                raise InvalidArgument(f"{value!r} must be {' or '.join(self.values)}")
            if self.check is not None:
                self.check(value)
        except InvalidArgument as error:
            raise InvalidArgument(f"{self.key} (from {source}): {error.message}") from error
        return value

    def _converted(self, given: Any) -> Any:
        if self.repeated:
            parts = given.split(",") if isinstance(given, str) else given
            if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
                raise InvalidArgument("must be a list of strings")
            return tuple(part.strip() for part in parts if part.strip())
        if isinstance(self.default, bool):
            if isinstance(given, bool):
                return given
            if isinstance(given, str) and given.lower() in _TRUE + _FALSE:
                return given.lower() in _TRUE
            raise InvalidArgument(f"{given!r} must be true or false")
        if not isinstance(given, str):
            raise InvalidArgument("must be a string")
        if isinstance(self.default, Path):
            if not given.startswith("/"):
                raise InvalidArgument(f"{given!r} must be an absolute path")
            return Path(given)
        return given


def option(
    default: T,
    help: str,
    *,
    group: str,
    short: str = "",
    metavar: str = "",
    values: Sequence[str] = (),
    check: Check | None = None,
) -> T:
    """Declare a field as an option."""
    declared = _Declared(help, group, short, metavar, tuple(values), check)
    made: T = field(default=default, metadata={"option": declared})
    return made


def options_of(kind: type[Any]) -> list[Option]:
    """Return the options a dataclass declares."""
    found = []
    for one in fields(kind):
        declared = one.metadata.get("option")
        if declared is not None and one.default is not MISSING:
            found.append(Option(one.name, one.default, **vars(declared)))
    return found


def load(
    kind: type[T],
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    prog: str,
    description: str,
    version: str,
    config_path: Path,
) -> T:
    """Return the options in force; a file that is named must exist, the default one need not.

    Raises:
        InvalidArgument: an unknown option, a value that cannot be; names where it came from.
        SystemExit: for `--help` and `--version`.
    """
    options = options_of(kind)
    prefix = prog.upper() + "_"
    flags = _flags(options, argv, prog, description, version, config_path)
    named = flags.pop("config") or environ.get(prefix + "CONFIG", "")
    path = Path(named or config_path)
    values: dict[str, Any] = {}
    table = _file(path, required=bool(named))
    _refuse_unknown(table, options, path)
    for one in options:
        for key in {one.key, one.name} & set(table):
            values[one.name] = one.read(table[key], str(path))
        if given := environ.get(prefix + one.name.upper(), ""):
            values[one.name] = one.read(given, prefix + one.name.upper())
        if flags[one.name] is not None:
            values[one.name] = one.read(flags[one.name], f"flag {one.flag}")
    return kind(**values)


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(f"{message}: see --help")


def _flags(
    options: Sequence[Option],
    argv: Sequence[str],
    prog: str,
    description: str,
    version: str,
    config_path: Path,
) -> dict[str, Any]:
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [OPTION]...",
        description=description,
        epilog=f"An option is read from the flag, else from the environment ({prog.upper()}_ and "
        "its name in capitals, with _ for -; several values separated by commas), else from the "
        "file (its name; several values as an array).",
        allow_abbrev=False,
        add_help=False,
    )
    general = parser.add_argument_group("general")
    titles = dict.fromkeys(one.group for one in options)
    groups = {title: parser.add_argument_group(title) for title in titles}
    general.add_argument("-h", "--help", action="help", help="show this help")
    general.add_argument("-v", "--version", action="version", version=version, help="show it")
    general.add_argument(
        "--config", metavar="FILE", help=f"TOML file of these options (default {config_path})"
    )
    for one in options:
        names = [one.short, one.flag] if one.short else [one.flag]
        more: dict[str, Any] = {}
        metavar = one.metavar or "|".join(one.values) or one.name.upper()
        if isinstance(one.default, bool):
            more = {"nargs": "?", "const": "true"}
            metavar = "true|false"
        elif one.repeated:
            more = {"action": "append"}
        help = (one.help + _default_words(one)).replace("%", "%%")
        groups[one.group].add_argument(*names, dest=one.name, metavar=metavar, help=help, **more)
    known, unknown = parser.parse_known_args(argv)
    for word in unknown:
        names = [one.flag for one in options] + ["--config", "--help", "--version"]
        raise InvalidArgument(f"unknown option {word}{_nearest(word.partition('=')[0], names)}")
    return vars(known)


def _default_words(one: Option) -> str:
    if one.default in ("", ()):
        return "; may be repeated" if one.repeated else ""
    default = str(one.default).lower() if isinstance(one.default, bool) else one.default
    return f" (default {default})"


def _file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise InvalidArgument(f"configuration file {path} does not exist") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"configuration file {path}: {error}") from error


def _refuse_unknown(table: Mapping[str, Any], options: Sequence[Option], path: Path) -> None:
    known = {name for one in options for name in (one.key, one.name)}
    for key in table:
        if key not in known:
            hint = _nearest(key, [one.key for one in options])
            raise InvalidArgument(f"configuration file {path}: unknown key {key!r}{hint}")
    for key in table:
        if "_" in key and key.replace("_", "-") in table:
            raise InvalidArgument(f"configuration file {path}: {key!r} is there twice")


def _nearest(word: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f": did you mean {close[0]}?" if close else ""


def as_pairs(values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Split `key=value` words; a word without `=` has an empty value."""
    for word in values:
        key, _, value = word.partition("=")
        yield key, value
