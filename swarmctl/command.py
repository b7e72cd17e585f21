"""What a command is, and how its line is parsed."""

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from swarmctl.errors import UsageError
from swarmctl.http import Client

_TRUE = {"1", "t", "true"}
_FALSE = {"0", "f", "false"}


class Parser(argparse.ArgumentParser):
    """argparse with Docker's manners: no abbreviations, exit code 125 on a wrong line."""

    def __init__(self, prog: str, description: str = "") -> None:
        # Docker's -h belongs to --hostname, so that only --help is help.
        super().__init__(prog=prog, description=description, allow_abbrev=False, add_help=False)
        self.add_argument("--help", action="help", help="show this and leave")

    def error(self, message: str) -> NoReturn:  # type: ignore[explicit-override]  # 3.11 has none
        raise UsageError(f"{self.prog}: {message}\nSee '{self.prog} --help'")

    def long_flags(self) -> list[str]:
        """Return the flags, for completion."""
        names = (name for action in self._actions for name in action.option_strings)
        return [name for name in names if name.startswith("--")]

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parse, accepting `--flag=true` and `--flag=false` for switches as Docker does."""
        switches = {
            name: action
            for action in self._actions
            if action.nargs == 0
            for name in action.option_strings
        }
        words: list[str] = []
        for position, word in enumerate(argv):
            name, equals, value = word.partition("=")
            if name in switches and equals and value.lower() in _TRUE | _FALSE:
                if value.lower() in _TRUE:
                    words.append(name)
                continue
            words.append(word)
            if word == "--" or (not word.startswith("-") and not _is_value(self, argv, position)):
                words += argv[position + 1 :]
                break
        return self.parse_args(words)


def _is_value(parser: Parser, argv: list[str], position: int) -> bool:
    """Say whether a word belongs to the flag before it."""
    if position == 0 or not argv[position - 1].startswith("-") or "=" in argv[position - 1]:
        return False
    flag = argv[position - 1]
    names = {name: action for action in parser._actions for name in action.option_strings}
    action = names.get(flag) or (names.get(f"-{flag[-1]}") if flag[:2] != "--" else None)
    return action is not None and action.nargs != 0


class Command(NamedTuple):
    """One command: `configure` adds its flags, `run` does it and returns the exit code."""

    summary: str
    configure: Callable[[Parser], None]
    run: Callable[[Client, argparse.Namespace], int]


def warn(message: str) -> None:
    """Print a line on stderr."""
    print(message, file=sys.stderr, flush=True)


def each(names: list[str], action: Callable[[str], None], code: int = 1) -> int:
    """Do something to every name; report what fails and go on, as Docker does."""
    from swarmctl.errors import DaemonError

    result = 0
    for name in names:
        try:
            action(name)
        except DaemonError as error:
            warn(str(error))
            result = code
    return result
