"""Which of the engine's commands and flags tests ran, through each client: `make commands`.

Read is what `tests/recorder.py` wrote. A flag counts where the body of a test that passed, not one
of its fixtures, ran it. Exit code 1 where a promise (`promised.txt`) has none.
"""

import argparse
import json
import shlex
import sys
from argparse import ArgumentTypeError
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from swarmctl.command import Parser
from swarmctl.errors import UsageError
from swarmctl.main import GROUPS, SHORT, commands

CLIENTS = ("docker", "swarmctl")
Line = tuple[list[str], str, str]
"""A line's flags, its words, and the name of its test."""
PROMISED = [
    line
    for line in (Path(__file__).parent / "e2e/engine/promised.txt").read_text().splitlines()
    if line and line[0] != "#"
]


def said(line: list[str]) -> tuple[str, list[str], str] | None:
    """Return a line's command, its flags as `--flag[=value]`, and its words as one.

    None for what no client of the engine knows, and for what swarmctl itself refuses.
    """
    words = list(line)
    while words and words[0].startswith("-"):  # the client's own: -H, --config
        alone = "=" in words[0] or words[0] in ("--tls", "--tlsverify")
        words = words[1 if alone else 2 :]
    if words and words[0] in GROUPS:
        group, name, *rest = words if len(words) > 1 else [words[0], "", ""]
        name = {"list": "ls", "remove": "rm"}.get(name, name)
    elif words and words[0] in SHORT:
        group, name, rest = SHORT[words[0]], words[0], words[1:]
    else:
        return None
    command = commands(group, name).get(name)
    if command is None:
        return None
    parser = Parser(name)
    command.configure(parser)
    try:
        flags, others = split(parser, rest)
    except (UsageError, ArgumentTypeError):
        return None
    return named(group, name), flags, " ".join(others)


def split(parser: Parser, line: list[str]) -> tuple[list[str], list[str]]:
    """Part the flags from the words; behind an image or a container, all are words."""
    plain, _ = parser._plain(line)
    greedy = any(action.nargs == argparse.REMAINDER for action in parser._actions)
    first = next((at for at, word in enumerate(plain) if word[:2] != "--"), len(plain))
    flags = [
        word for at, word in enumerate(plain) if word[:2] == "--" and (at < first or not greedy)
    ]
    return flags, [word for word in plain if word not in flags]


def named(group: str, name: str) -> str:
    """Return the name PROMISED has for a command."""
    full = f"{group} {name}"
    known = {row.partition(":")[0] for row in PROMISED}
    short = {"image ls": "images", "container ls": "ps", "image rm": "rmi"}.get(full, name)
    return full if full in known else short


def fits(pattern: str, flags: list[str], words: str) -> bool:
    """Tell whether a line has what is promised."""
    if not pattern.startswith("--"):
        return fnmatchcase(words, pattern or "*")
    if "=" in pattern:
        return any(fnmatchcase(flag, pattern) for flag in flags)
    return any(flag.partition("=")[0] == pattern for flag in flags)


def ran(lines: Iterator[dict[str, Any]]) -> dict[tuple[str, str], list[Line]]:
    """Return what passed by client and command."""
    found: dict[tuple[str, str], list[Line]] = defaultdict(list)
    pending: list[list[str]] = []
    for line in lines:
        if "argv" in line:
            pending.append(line["argv"])
            continue
        if (line["phase"], line["outcome"]) == ("call", "passed"):
            test = line["test"].partition("[")[0].rpartition("/")[2]
            for client, *words in pending:
                if told := said(words):
                    command, flags, rest = told
                    found[client, command].append(
                        (flags, rest, test.replace(".py::test_", ".").removeprefix("test_"))
                    )
        pending = []
    return found


def main(path: str) -> int:
    """Print the table; return 1 where a promise has no test."""
    with Path(path).open(encoding="utf-8") as file:
        found = ran(json.loads(line) for line in file)
    holes = 0
    for row in PROMISED:
        command, _, patterns = row.partition(":")
        cells = [command, patterns.replace('""', "").strip()]
        for client in CLIENTS:
            cell, missing = result(patterns, found[client, command])
            if (client, command) == ("docker", "image squash"):
                cell, missing = "has none", 0
            holes += missing
            cells.append(cell)
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
    return int(holes > 0)


def result(patterns: str, lines: Sequence[Line]) -> tuple[str, int]:
    """Return what to show of a row and a client, and how much of it was not run."""
    tests, missing = set(), []
    for pattern in shlex.split(patterns):
        known = [test for flags, words, test in lines if fits(pattern, flags, words)]
        if known:
            tests.add(min(known, key=lambda test: (known.count(test), test)))
        else:
            missing.append(pattern or "alone")
    parts = [f"NOT RUN {' '.join(missing)}"] * bool(missing)
    parts += [f"pass: {', '.join(sorted(tests))}"] * bool(tests)
    return "; ".join(parts), len(missing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
