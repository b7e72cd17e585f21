"""Which ids of the host containers get: the subordinate ones of a user and a group, subuid(5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.supervisor.ids import IdMap, Range
from swarmapi.errors import InvalidArgument

DEFAULT_USER = "dockremap"
DEFAULT_RANGE = (100_000, 65_536)
"""What `default` means where DEFAULT_USER has no ids: what useradd(8) gives the first user."""
_RANGES_MAX = 340
"""Lines the kernel takes in a map, user_namespaces(7)."""


@dataclass(frozen=True)
class AccountFiles:
    """The text of passwd, group, subuid and subgid below /etc; empty where there is no file."""

    passwd: str = ""
    group: str = ""
    subuid: str = ""
    subgid: str = ""


def read_files(directory: Path = Path("/etc")) -> AccountFiles:
    """Read this host's."""
    names = ("passwd", "group", "subuid", "subgid")
    found = (directory / name for name in names)
    return AccountFiles(*(path.read_text() if path.exists() else "" for path in found))


def find(wanted: str, files: AccountFiles) -> IdMap:
    """Return the ids for `default`, `user`, `uid`, or either with `:group` or `:gid`.

    Raises:
        InvalidArgument: for an account that is not here or has none, with the way out.
    """
    if wanted == "default":
        return _default(files)
    user, colon, group = wanted.partition(":")
    if not user or (colon and not group):
        raise InvalidArgument(f"{wanted!r} is no user or user:group: write default, or name them")
    owner = _account(user, files.passwd, "user")
    # as Docker: without a group it is the one of the user's name
    team = _account(group or owner[0], files.group, "group")
    return IdMap(_map(owner, files.subuid, "subuid"), _map(team, files.subgid, "subgid"))


def _default(files: AccountFiles) -> IdMap:
    name = (DEFAULT_USER, "")
    if _ranges(name, files.subuid) or _ranges(name, files.subgid):
        return IdMap(_map(name, files.subuid, "subuid"), _map(name, files.subgid, "subgid"))
    first, size = DEFAULT_RANGE
    for file, text in (("subuid", files.subuid), ("subgid", files.subgid)):
        for taken, count in _ranges(None, text):
            if taken < first + size and first < taken + count:
                raise InvalidArgument(
                    f"ids {first} to {first + size - 1} are somebody's in /etc/{file}: give "
                    f"{DEFAULT_USER} others, a line {DEFAULT_USER}:FIRST:{size} in /etc/subuid and "
                    "/etc/subgid"
                )
    whole = ((0, first, size),)
    return IdMap(whole, whole)


def _account(wanted: str, text: str, kind: str) -> tuple[str, str]:
    """Return name and number of an account."""
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and wanted in (fields[0], fields[2]):
            return fields[0], fields[2]
    raise InvalidArgument(f"there is no {kind} {wanted!r} on this host")


def _map(account: tuple[str, str], text: str, file: str) -> tuple[Range, ...]:
    """Return an account's ranges, one behind the other inside."""
    ranges: list[Range] = []
    inside = 0
    for first, size in _ranges(account, text):
        ranges.append((inside, first, size))
        inside += size
    if not ranges:
        raise InvalidArgument(
            f"{account[0]} has no ids in /etc/{file}: add a line {account[0]}:FIRST:65536"
        )
    return tuple(ranges[:_RANGES_MAX])


def _ranges(account: Sequence[str] | None, text: str) -> list[tuple[int, int]]:
    """Return (first, how many) of an account, or of everybody."""
    found = []
    for line in text.splitlines():
        name, _, numbers = line.strip().partition(":")
        first, _, size = numbers.partition(":")
        theirs = account is None or (name and name in account)
        if theirs and first.isdecimal() and size.isdecimal() and int(size):
            found.append((int(first), int(size)))
    return found
