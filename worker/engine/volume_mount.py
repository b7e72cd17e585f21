"""Driver options of a volume: what is mounted on its directory while a container runs with it."""

import os
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import SysError
from runtime.supervisor import kernel
from swarmapi.errors import InvalidArgument, Unsupported

_FLAGS = {
    **kernel.MOUNT_WORDS,
    "bind": kernel.MS_BIND,
    "rbind": kernel.MS_BIND | kernel.MS_REC,
}
_NEUTRAL = frozenset(("rw", "suid", "dev", "exec", "async", "defaults", ""))
_KNOWN = ("type", "device", "o")


def check_options(options: Mapping[str, str]) -> None:
    """Refuse driver options the local driver does not have, or cannot honour here.

    Raises:
        InvalidArgument: for an unknown option or one that is missing.
        Unsupported: for a file system this kernel does not know.
    """
    for key in options:
        if key == "size":
            raise Unsupported("volume option size is not supported: use o=size=… of a tmpfs")
        if key not in _KNOWN:
            raise InvalidArgument(f'invalid option: "{key}"')
    if not options:
        return
    for key in ("type", "device"):
        if not options.get(key):
            raise InvalidArgument(f'missing required option: "{key}"')
    flags, _ = _parse(options)
    kind = options["type"]
    if not flags & kernel.MS_BIND and kind not in filesystems():
        raise Unsupported(f"volume type {kind!r}: this kernel has no such file system")


def is_bind(options: Mapping[str, str]) -> bool:
    """Tell whether what is mounted is a directory of the host."""
    return bool(_parse(options)[0] & kernel.MS_BIND)


def filesystems() -> frozenset[str]:
    """Return the file systems the kernel knows."""
    lines = Path("/proc/filesystems").read_text().splitlines()
    return frozenset(line.split()[-1] for line in lines if line)


def _parse(options: Mapping[str, str]) -> tuple[int, str]:
    flags, data = 0, []
    for word in options.get("o", "").split(","):
        if word in _FLAGS:
            flags |= _FLAGS[word]
        elif word not in _NEUTRAL:
            data.append(word)
    return flags, ",".join(data)


def mount(options: Mapping[str, str], directory: str) -> None:
    """Mount what the options say on a volume's directory; once is enough.

    Raises:
        InvalidArgument: when the kernel refuses.
    """
    if is_mounted(directory):
        return
    flags, data = _parse(options)
    device, kind = options["device"], options["type"]
    try:
        _mount(device, directory, kind, flags, data)
        if flags & kernel.MS_BIND and flags & ~(kernel.MS_BIND | kernel.MS_REC):
            # A bind takes its flags in a second step.
            _mount("none", directory, "", flags | kernel.MS_REMOUNT, "")
    except SysError as error:
        unmount(directory)
        raise InvalidArgument(
            f"failed to mount local volume: mount {device}:{directory},"
            f" flags: {flags:#x}, data: {data}: {os.strerror(error.errno or 0).lower()}"
        ) from error


def _mount(device: str, directory: str, kind: str, flags: int, data: str) -> None:
    kernel.syscall(
        "mount", device.encode(), os.fsencode(directory), kind.encode(), flags, data.encode()
    )


def unmount(directory: str) -> None:
    """Take away what is mounted on a volume's directory; nothing is fine."""
    while is_mounted(directory):
        kernel.syscall("umount2", os.fsencode(directory), kernel.MNT_DETACH)


def is_mounted(directory: str) -> bool:
    """Tell whether something is mounted on a directory of this mount namespace."""
    wanted = os.path.realpath(directory)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return any(_unescaped(line.split(" ", 5)[4]) == wanted for line in file)


def _unescaped(text: str) -> str:
    for code, letter in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, letter)
    return text
