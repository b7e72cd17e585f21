"""The device cgroup program: OCI device rules as an eBPF filter, cached by rule list.

Numbers from linux/bpf.h; the context is `struct bpf_cgroup_dev_ctx {access_type, major, minor}`.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

from runtime.errors import SysError
from runtime.supervisor.kernel import syscall

_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6
_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPES = {"b": 1, "c": 2}
_R0, _R1, _R2, _R3, _R4, _R5, _R6 = range(7)
_LDX_W, _MOV_K, _MOV_X, _AND_K, _RSH_K, _EXIT = 0x61, 0xB7, 0xBF, 0x57, 0x77, 0x95
_JNE_K, _JNE_X = 0x55, 0x5D

Rule = tuple[bool, str, int, int, int]  # allow, type (a b c), major, minor (-1 any), access mask


def rules_of(entries: list[dict[str, Any]]) -> tuple[Rule, ...]:
    """Normalise OCI `linux.resources.devices` entries."""
    out = []
    for entry in entries:
        mask = sum({_ACCESS[letter] for letter in entry.get("access") or "rwm"})
        major, minor = entry.get("major"), entry.get("minor")
        out.append(
            (
                bool(entry["allow"]),
                entry.get("type") or "a",
                -1 if major is None else int(major),
                -1 if minor is None else int(minor),
                mask,
            )
        )
    return tuple(out)


def v1_lines(rules: tuple[Rule, ...]) -> list[tuple[str, bytes]]:
    """Return (file, line) pairs for cgroup v1's devices controller."""
    lines = []
    for allow, kind, major, minor, mask in rules:
        letters = "".join(letter for letter, bit in _ACCESS.items() if mask & bit)
        name = "*" if major < 0 else str(major), "*" if minor < 0 else str(minor)
        text = "a" if kind == "a" and major < 0 else f"{kind} {name[0]}:{name[1]} {letters}"
        lines.append(("devices.allow" if allow else "devices.deny", text.encode()))
    return lines


def _ins(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


def assemble(rules: tuple[Rule, ...]) -> bytes:
    """Compile: the last matching rule decides, so rules are tried from the end; default deny."""
    code = [
        _ins(_LDX_W, _R2, _R1, 0),
        _ins(_MOV_X, _R3, _R2),
        _ins(_AND_K, _R2, imm=0xFFFF),
        _ins(_RSH_K, _R3, imm=16),
        _ins(_LDX_W, _R4, _R1, 4),
        _ins(_LDX_W, _R5, _R1, 8),
    ]
    for allow, kind, major, minor, mask in reversed(rules):
        body = [_ins(_MOV_K, _R0, imm=int(allow)), _ins(_EXIT)]
        tests: list[bytes] = []
        if minor >= 0:
            tests.insert(0, _ins(_JNE_K, _R5, off=len(body), imm=minor))
        if major >= 0:
            tests.insert(0, _ins(_JNE_K, _R4, off=len(body) + len(tests), imm=major))
        if mask != 7 and allow:
            # allowed only when every requested access is in the mask
            skip = len(body) + len(tests)
            tests = [
                _ins(_MOV_X, _R6, _R3),
                _ins(_AND_K, _R6, imm=mask),
                _ins(_JNE_X, _R6, _R3, off=skip),
                *tests,
            ]
        elif mask != 7:
            # denied when any requested access is in the mask
            skip = len(body) + len(tests)
            tests = [
                _ins(_MOV_X, _R6, _R3),
                _ins(_AND_K, _R6, imm=mask),
                _ins(0x15, _R6, off=skip, imm=0),
                *tests,
            ]
        if kind in _TYPES:
            tests.insert(0, _ins(_JNE_K, _R2, off=len(body) + len(tests), imm=_TYPES[kind]))
        code += tests + body
        if not tests:
            return b"".join(code)  # the verifier refuses code that cannot be reached
    code += [_ins(_MOV_K, _R0, imm=0), _ins(_EXIT)]
    return b"".join(code)


_programs: dict[tuple[Rule, ...], int] = {}


def _bpf(command: int, attributes: bytes) -> int:
    padded = attributes.ljust(128, b"\0")
    return syscall("bpf", command, padded, len(padded))


def program(rules: tuple[Rule, ...]) -> int:
    """Load the program once; returns its descriptor. Raises SysError where BPF is missing."""
    found = _programs.get(rules)
    if found is not None:
        return found
    code = ctypes.create_string_buffer(assemble(rules))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "<IIQQ",
        _TYPE_CGROUP_DEVICE,
        (len(code) - 1) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
    )
    if len(_programs) >= 64:
        os.close(_programs.pop(next(iter(_programs))))
    fd = _programs[rules] = _bpf(_PROG_LOAD, attributes)
    return fd


def attach(cgroup_fd: int, rules: tuple[Rule, ...]) -> None:
    """Filter device access of the cgroup with exactly these rules."""
    fd = program(rules)
    _bpf(_PROG_ATTACH, struct.pack("<IIII", cgroup_fd, fd, _ATTACH_CGROUP_DEVICE, 0))


def available() -> bool:
    """Tell whether the kernel loads device programs."""
    try:
        program(())
    except SysError:
        return False
    return True
