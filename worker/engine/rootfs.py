"""Reading a container's files without running it: users, groups, home directories."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.image.errors import ImageError
from runtime.image.view import LayeredView
from swarmapi.errors import InvalidArgument

_LARGEST_BYTES = 1 << 20
LARGEST_ID = (1 << 31) - 1


def read_member(layers: Sequence[str], path: str) -> str:
    """Return the text of a file in the merged layers (topmost first), empty when absent.

    Symlinks are resolved inside the layers; the host's files are never followed into.
    """
    view = LayeredView(tuple(Path(layer) for layer in layers if os.path.isdir(layer)))
    try:
        _, entry = view.locate(path)
        if entry is None or not stat.S_ISREG(entry.status.st_mode):
            return ""
        with entry.open() as file:
            return file.read(_LARGEST_BYTES).decode("utf-8", "replace")
    except (OSError, ImageError):
        return ""


def resolve_user(user: str, groups: Sequence[str], passwd: str, group: str) -> dict[str, Any]:
    """Return OCI's process.user for Docker's `user[:group]`.

    Raises:
        InvalidArgument: when a name is not in the container's passwd or group file.
    """
    name, _, group_name = user.partition(":")
    accounts = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 5]
    teams = [line.split(":") for line in group.splitlines() if line.count(":") >= 3]
    uid, gid, login = _account(name or "0", accounts)
    extra: list[int] = []
    if group_name:
        gid = _group(group_name, teams)
    elif login:
        extra = [
            _in_range(int(t[2])) for t in teams if login in t[3].split(",") and t[2].isdecimal()
        ]
    extra += [_group(entry, teams) for entry in groups]
    # The primary group is among the others, so that a setgid program cannot drop it.
    return {"uid": uid, "gid": gid, "additionalGids": sorted({gid, *extra})}


def home_of(uid: object, passwd: str) -> str:
    """Return the home directory of a numeric user, `/` when unknown."""
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and fields[2] == str(uid):
            return fields[5] or "/"
    return "/"


def _account(name: str, accounts: Sequence[Sequence[str]]) -> tuple[int, int, str]:
    for fields in accounts:
        if name in (fields[0], fields[2]) and fields[2].isdecimal() and fields[3].isdecimal():
            return _in_range(int(fields[2])), _in_range(int(fields[3])), fields[0]
    if name.isdecimal():
        return _in_range(int(name)), 0, ""
    raise InvalidArgument(f"unable to find user {name}: no matching entries in passwd file")


def _group(name: str, teams: Sequence[Sequence[str]]) -> int:
    for fields in teams:
        if name == fields[0] and fields[2].isdecimal():
            return _in_range(int(fields[2]))
    if name.isdecimal():
        return _in_range(int(name))
    raise InvalidArgument(f"unable to find group {name}: no matching entries in group file")


def _in_range(number: int) -> int:
    """Refuse an id that the kernel would cut off, or take for "stay root" (4294967295)."""
    if number > LARGEST_ID:
        raise InvalidArgument(f"uids and gids must be in range 0-{LARGEST_ID}")
    return number
