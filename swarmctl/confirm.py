"""Asking before much is removed."""

import sys

from swarmctl.command import Parser


def add_flags(parser: Parser) -> None:
    """Add --force and --filter, as every prune has them."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument("--filter", action="append", help="name=value")


def confirmed(warning: str, *, force: bool) -> bool:
    """Ask on stdin, unless forced; say whether the answer is yes."""
    if force:
        return True
    print(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
