"""What a command is, and how its line is parsed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from swarmctl.errors import UsageError
from swarmctl.http import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_TRUE = {"1", "t", "true"}
_FALSE = {"0", "f", "false"}


class _Formatter(argparse.HelpFormatter):
    """argparse's, which asks for one per flag, and imports shutil with it for the width."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = 80  # stdout is no terminal
        super().__init__(prog, width=columns - 2)


class Parser(argparse.ArgumentParser):
    """argparse with Docker's manners: no abbreviations, exit code 125 on a wrong line."""

    def __init__(self, prog: str, description: str = "") -> None:
        # Docker's -h belongs to --hostname, so that only --help is help.
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            add_help=False,
            formatter_class=_Formatter,
        )
        self.add_argument("--help", action="help", help="show this and leave")

    def error(self, message: str) -> NoReturn:  # type: ignore[explicit-override]  # 3.11 has none
        code = 125
        if message.startswith(("the following arguments", "unrecognized arguments")):
            message, code = f"this command {self._arity()}", 1
        raise UsageError(f"{self.prog}: {message}\nSee '{self.prog} --help'", code)

    def long_flags(self) -> list[str]:
        """Return the flags, for completion."""
        names = (name for action in self._actions for name in action.option_strings)
        return [name for name in names if name.startswith("--")]

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parse a line as Docker does.

        Switches take `=true` and `=false`; what follows a flag is its value, whatever it begins
        with; behind the first word that is no flag, all belongs to a command that may follow.
        """
        words, off = self._plain(argv)
        arguments = self.parse_args(words)
        for action in off:
            setattr(arguments, action.dest, not action.const)
        return arguments

    def _plain(self, argv: list[str]) -> tuple[list[str], list[argparse.Action]]:
        """Return the line with its flags as `--flag` or `--flag=value`, and what is off."""
        greedy = any(action.nargs == argparse.REMAINDER for action in self._actions)
        words: list[str] = []
        off: list[argparse.Action] = []
        rest = list(argv)
        while rest:
            word = rest.pop(0)
            if word == "--" or word == "-" or not word.startswith("-"):
                words.append(word)
                if greedy or word == "--":
                    return words + rest, off
            elif word.startswith("--"):
                name, equals, value = word.partition("=")
                self._flag(name, value if equals else None, rest, words, off)
            else:
                self._cluster(word, rest, words, off)
        return words, off

    def _cluster(
        self, word: str, rest: list[str], words: list[str], off: list[argparse.Action]
    ) -> None:
        """Take `-itp80`: switches, and at most one flag with its value."""
        letters = word[1:]
        while letters:
            name, unread, letters = f"-{letters[0]}", letters, letters[1:]
            action = self._option_string_actions.get(name)
            if action is None:
                self.error(f"unknown shorthand flag: {name[1]!r} in -{unread}")
            value = None
            if letters and (action.nargs != 0 or letters[0] == "="):
                value, letters = letters.removeprefix("="), ""
            self._flag(name, value, rest, words, off)

    def _flag(
        self,
        name: str,
        value: str | None,
        rest: list[str],
        words: list[str],
        off: list[argparse.Action],
    ) -> None:
        action = self._option_string_actions.get(name)
        if action is None:
            self.error(f"unknown flag: {name}")
        if action.nargs == 0 and value is not None:
            if value.lower() not in _TRUE | _FALSE:
                self.error(f'invalid argument "{value}" for {name}: want true or false')
            if value.lower() in _FALSE:
                off.append(action)
                return
            value = None
        if action.nargs is None and value is None:
            if not rest:
                self.error(f"flag needs an argument: {name}")
            value = rest.pop(0)
        long = next((one for one in action.option_strings if one.startswith("--")), name)
        words.append(long if value is None else f"{long}={value}")

    def _arity(self) -> str:
        """Say how many words a command takes, in Docker's words."""
        taken = [action for action in self._actions if not action.option_strings]
        least = sum(action.nargs in (None, "+") for action in taken)
        open_ended = any(action.nargs in ("+", "*", argparse.REMAINDER) for action in taken)
        if not taken:
            return "accepts no arguments"
        if not open_ended and len(taken) > least:
            how, count = "at most ", len(taken)
        else:
            how, count = "at least " if open_ended else "", least
        return f"requires {how}{count} argument{'s' * (count != 1)}"


class Command:
    """One command: `configure` adds its flags, `run` does it and returns the exit code."""

    def __init__(
        self,
        summary: str,
        configure: Callable[[Parser], None],
        run: Callable[[Client, argparse.Namespace], int],
    ) -> None:
        self.summary, self.configure, self.run = summary, configure, run


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
