"""Generic resources of a node: `gpu=uuid1 gpu=uuid2 ssd=3`, as dockerd's option has them."""

import re
from collections.abc import Iterable

from swarmapi.errors import InvalidArgument
from swarmapi.model.objects import GenericShare

_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]*\Z")


def is_kind(text: str) -> bool:
    """Tell whether a text can name a kind: it becomes part of a variable's name."""
    return _KIND.match(text) is not None


def parse_generic(values: Iterable[str]) -> tuple[GenericShare, ...]:
    """Return what a node advertises, by kind: a number counts, names add up.

    Raises:
        InvalidArgument: not `KIND=VALUE`, or a kind with a number and more.
    """
    shares: dict[str, GenericShare] = {}
    for text in (part.strip() for value in values for part in value.split(",")):
        kind, _, value = text.partition("=")
        if not is_kind(kind) or not _NAME.match(value):
            raise InvalidArgument(f"{text!r} is no generic resource: write KIND=NAME or KIND=COUNT")
        known = shares.get(kind)
        if value.isdecimal():
            if known is not None or int(value) > 1 << 31:
                raise InvalidArgument(f"generic resource {kind}: one count, or names")
            shares[kind] = GenericShare(kind=kind, count=int(value))
        elif known is not None and (known.count or value in known.names):
            raise InvalidArgument(f"generic resource {kind}: one count, or different names")
        else:
            names = (*(known.names if known else ()), value)
            shares[kind] = GenericShare(kind=kind, names=names)
    return tuple(shares[kind] for kind in sorted(shares))
