"""A syscall plan: a flat list of system calls with their data, and the executor of the child.

The data of all calls lies in one buffer; arguments are numbers, pointers into that buffer, or
references to results of earlier calls (slots). Nothing is decided in the child. `native.py` makes a
program of a plan; `Plan.run` says what that must do and takes its place where it cannot.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from typing import NoReturn

from runtime.supervisor.kernel import NR, raw_syscall

IGNORE = -1  # any errno is fine
MISSING_OK = frozenset({errno.ENOENT, errno.ENOTDIR})
EXISTS_OK = frozenset({errno.EEXIST})
NOT_OPEN = frozenset({errno.EBADF})
# execve over the directories of PATH: go on, but remember a refusal for the last word
SEARCH = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES})
_REPORT = struct.Struct("<ii")
REPORT_SIZE = _REPORT.size


class Slot(int):
    """The result of the earlier call that was given this slot number."""


class Pointer(int):
    """An offset into the plan's data."""


class Plan:
    """Build a plan with `call`, run it with `run` in a fresh child."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.calls: list[tuple[int, list[object], int, frozenset[int] | int | None]] = []
        self.labels: list[str] = []
        self._strings: dict[str | bytes, Pointer] = {}
        self._relocations: list[tuple[int, int]] = []
        self._slotted: set[int] = set()
        self.forked: set[int] = set()
        self.gated = -1

    def buffer(self, content: bytes) -> Pointer:
        """Place bytes in the data, aligned to 8."""
        offset = len(self.data)
        self.data += content
        self.data += b"\0" * (-len(self.data) % 8)
        return Pointer(offset)

    def string(self, text: str | bytes) -> Pointer:
        """Place a NUL-terminated string; equal strings share their place."""
        found = self._strings.get(text)
        if found is None:
            found = self._strings[text] = self.buffer(os.fsencode(text) + b"\0")
        return found

    def strings(self, items: list[str]) -> Pointer:
        """Place a NULL-terminated array of strings, as execve(2) takes them."""
        pointers = [self.string(item) for item in items]
        array = self.buffer(b"\0" * 8 * (len(items) + 1))
        for i, pointer in enumerate(pointers):
            self._relocations.append((array + 8 * i, pointer))
        return array

    def pointing(self, content: bytes, at: int, target: Pointer) -> Pointer:
        """Place a structure whose 8 bytes at `at` point to `target`."""
        place = self.buffer(content)
        self._relocations.append((place + at, target))
        return place

    def call(
        self,
        name: str,
        *arguments: int | str | bytes,
        slot: int = -1,
        allow: frozenset[int] | int | None = None,
        label: str = "",
    ) -> None:
        """Append a call; text arguments become pointers; `allow` names harmless errnos."""
        values: list[object] = list(arguments)
        for i, value in enumerate(arguments):
            if type(value) is str or type(value) is bytes:
                values[i] = self.string(value)
            elif type(value) is Slot:
                self._slotted.add(len(self.calls))
        self.calls.append((NR[name], values, slot, allow))
        self.labels.append(label or name)

    def fork(self, flags: int = signal.SIGCHLD) -> None:
        """Split in two: the old process makes the next call alone, the new one those after it."""
        self.forked.add(len(self.calls))
        self.call("clone", flags, 0, 0, 0, 0, label="fork")

    def gate(self, fd: int) -> None:
        """Go on only once a byte comes from `fd`; at its end, end."""
        self.gated = len(self.calls)
        self.call("read", fd, self.buffer(b"\0" * 8), 1, label="leave to run")

    def located(self, base: int) -> bytes:
        """Return the data as it must be to lie at `base`."""
        for at, target in self._relocations:
            struct.pack_into("<Q", self.data, at, base + target)
        return bytes(self.data)

    def link(self) -> ctypes.Array[ctypes.c_char]:
        """Fix all addresses; returns the buffer, which must live until the child has run."""
        block = ctypes.create_string_buffer(len(self.data) + 8)
        base = ctypes.addressof(block)
        ctypes.memmove(block, self.located(base), len(self.data))
        for _, arguments, _, _ in self.calls:
            for i, value in enumerate(arguments):
                if type(value) is Pointer:
                    arguments[i] = ctypes.c_void_p(base + value)
                elif type(value) is int and not -0x80000000 <= value <= 0x7FFFFFFF:
                    arguments[i] = ctypes.c_ulong(value)
                elif type(value) is int:
                    arguments[i] = ctypes.c_long(value)
        return block

    def run(self, report_fd: int) -> NoReturn:
        """Make the calls; only execve leaves it. A failure is reported as (index, errno)."""
        slots: dict[int, int] = {}
        refused = 0
        last = len(self.calls) - 1
        left_out = -1
        for index, (number, arguments, slot, allow) in enumerate(self.calls):
            if index == left_out:
                continue
            if index in self._slotted:
                values = [ctypes.c_long(slots[a]) if type(a) is Slot else a for a in arguments]
                result = raw_syscall(number, *values)
            else:
                result = raw_syscall(number, *arguments)
            if result >= 0:
                if slot >= 0:
                    slots[slot] = result
                if index in self.forked and result == 0:
                    left_out = index + 1
                if index == self.gated and result == 0:
                    os._exit(127)
                continue
            code = ctypes.get_errno()
            if allow is SEARCH and code == errno.EACCES:
                refused = code
            tolerated = allow == IGNORE or (isinstance(allow, frozenset) and code in allow)
            if tolerated and not (allow is SEARCH and index == last):
                continue
            os.write(report_fd, _REPORT.pack(index, refused or code))
            os._exit(127)
        os._exit(127)


def unpack_report(report: bytes) -> tuple[int, int]:
    """Return (index of the call, errno) of a failure report; -1 is the last call."""
    index, code = _REPORT.unpack(report)
    return index, code
