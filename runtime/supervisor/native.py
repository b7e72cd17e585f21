"""A plan as a program of its own: a child of a few pages instead of a copy of the interpreter.

The program is the plan's data behind a walker, which makes the calls as `Plan.run` does. The child
is made as vfork(2) does it: it shares the fork server's memory, so none is copied, and does nothing
there but keep its descriptors and execute the program. It is a few pages, of which none was the
fork server's. Python cannot go on in a child that shares its memory, so `_CLONE` clones.

A machine without listings, or one whose memory files are not executable, uses `Plan.run`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import struct

from runtime.errors import SysError
from runtime.supervisor import kernel, sealed
from runtime.supervisor.plan import SEARCH, Plan, Pointer, Slot

_DATA = 0x401000
_SLOTS = 16
_HEAD = struct.Struct(f"<QQ{8 * _SLOTS}x")
_CALL = struct.Struct("<10Q")
"""Number, six arguments, where the result goes, the bits of harmless errnos, flags."""
_FROM_SLOT, _IS_SEARCH, _IS_GATE, _IS_FORK = (1, 2, 4, 8, 16), 32, 64, 128
_MASK = kernel.NR.get("rt_sigprocmask", -1)
_ALL = (1 << 64) - 1
_SHARE = 0x100 | 0x4000
"""CLONE_VM | CLONE_VFORK: the fork server waits for the execve."""
_WALK = {
    "x86_64": """
6a 04                 push   4
5f                    pop    rdi
31 f6                 xor    esi, esi
31 d2                 xor    edx, edx
45 31 d2              xor    r10d, r10d
45 31 c0              xor    r8d, r8d
b8 9d 00 00 00        mov    eax, 157             # prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
0f 05                 syscall
bd 00 10 40 00        mov    ebp, 0x401000        # end of the records, report's descriptor
bb 90 10 40 00        mov    ebx, 0x401090        # the first record
45 31 e4              xor    r12d, r12d           # its index
45 31 ff              xor    r15d, r15d           # no refusal yet
                  next:
48 3b 5d 00           cmp    rbx, [rbp]
0f 83 bc 00 00 00     jae    die
44 8b 6b 48           mov    r13d, [rbx+72]
48 8b 7b 08           mov    rdi, [rbx+8]
41 f6 c5 01           test   r13b, 1              # from a slot?
74 03                 jz     a1
48 8b 3f              mov    rdi, [rdi]
                  a1:
48 8b 73 10           mov    rsi, [rbx+16]
41 f6 c5 02           test   r13b, 2
74 03                 jz     a2
48 8b 36              mov    rsi, [rsi]
                  a2:
48 8b 53 18           mov    rdx, [rbx+24]
41 f6 c5 04           test   r13b, 4
74 03                 jz     a3
48 8b 12              mov    rdx, [rdx]
                  a3:
4c 8b 53 20           mov    r10, [rbx+32]
41 f6 c5 08           test   r13b, 8
74 03                 jz     a4
4d 8b 12              mov    r10, [r10]
                  a4:
4c 8b 43 28           mov    r8, [rbx+40]
41 f6 c5 10           test   r13b, 16
74 03                 jz     a5
4d 8b 00              mov    r8, [r8]
                  a5:
4c 8b 4b 30           mov    r9, [rbx+48]
48 8b 03              mov    rax, [rbx]           # its number
0f 05                 syscall
48 85 c0              test   rax, rax
78 27                 js     fail
48 8b 4b 38           mov    rcx, [rbx+56]
48 89 01              mov    [rcx], rax           # into its slot
75 12                 jnz    over
41 f6 c5 40           test   r13b, 64             # the gate: nobody gives leave
75 5a                 jnz    die
45 84 ed              test   r13b, r13b           # the fork: the next is the parent's
79 07                 jns    over
48 83 c3 50           add    rbx, 80
41 ff c4              inc    r12d
                  over:
48 83 c3 50           add    rbx, 80
41 ff c4              inc    r12d
e9 7c ff ff ff        jmp    next
                  fail:
f7 d8                 neg    eax
41 f6 c5 20           test   r13b, 32             # a search remembers a refusal
74 07                 jz     weigh
83 f8 0d              cmp    eax, 13
44 0f 44 f8           cmovz  r15d, eax
                  weigh:
48 8b 4b 40           mov    rcx, [rbx+64]
48 83 f9 ff           cmp    rcx, -1              # any errno is harmless
74 db                 je     over
83 f8 40              cmp    eax, 64
73 06                 jae    tell
48 0f a3 c1           bt     rcx, rax
72 d0                 jc     over
                  tell:
45 85 ff              test   r15d, r15d
41 0f 45 c7           cmovnz eax, r15d
50                    push   rax
44 89 24 24           mov    [rsp], r12d
89 44 24 04           mov    [rsp+4], eax
8b 7d 08              mov    edi, [rbp+8]
48 89 e6              mov    rsi, rsp             # write(report, {index, errno}, 8)
6a 08                 push   8
5a                    pop    rdx
6a 01                 push   1
58                    pop    rax
0f 05                 syscall
                  die:
6a 7f                 push   127
5f                    pop    rdi
b8 e7 00 00 00        mov    eax, 231             # exit_group(127)
0f 05                 syscall
"""
}
_CLONE = {
    "x86_64": """
41 89 c9              mov    r9d, ecx
b8 b3 01 00 00        mov    eax, 435             # clone3(arguments, size)
0f 05                 syscall
85 c0                 test   eax, eax
74 01                 jz     child
c3                    ret
                  child:
49 89 d4              mov    r12, rdx
4d 89 c5              mov    r13, r8
44 89 cb              mov    ebx, r9d
41 8b 2c 24           mov    ebp, [r12]           # the report is the first to keep
                  keep:
41 8b 3c 24           mov    edi, [r12]
85 ff                 test   edi, edi
78 10                 js     run
6a 02                 push   2
5e                    pop    rsi
31 d2                 xor    edx, edx
6a 48                 push   72                   # fcntl(fd, F_SETFD, 0)
58                    pop    rax
0f 05                 syscall
49 83 c4 04           add    r12, 4
eb e8                 jmp    keep
                  run:
89 df                 mov    edi, ebx
49 8d 75 08           lea    rsi, [r13+8]
4c 89 ea              mov    rdx, r13
49 89 f2              mov    r10, rsi
41 b8 00 10 00 00     mov    r8d, 0x1000
b8 42 01 00 00        mov    eax, 322             # execveat(program, "", words, {}, AT_EMPTY_PATH)
0f 05                 syscall
f7 d8                 neg    eax
50                    push   rax
89 44 24 04           mov    [rsp+4], eax
83 0c 24 ff           or     dword ptr [rsp], -1
89 ef                 mov    edi, ebp
48 89 e6              mov    rsi, rsp             # write(report, {-1, errno}, 8)
6a 08                 push   8
5a                    pop    rdx
6a 01                 push   1
58                    pop    rax
0f 05                 syscall
6a 7f                 push   127
5f                    pop    rdi
b8 e7 00 00 00        mov    eax, 231             # exit_group(127)
0f 05                 syscall
"""
}


def _encode(plan: Plan, index: int, slots: int, data: int) -> bytes:
    number, arguments, slot, allow = plan.calls[index]
    words, flags = [0] * 6, 0
    for i, value in enumerate(arguments):
        kind = type(value)
        if kind is Pointer:
            words[i] = data + value  # type: ignore[operator]
        elif kind is Slot:
            words[i] = slots + 8 * value  # type: ignore[operator]
            flags |= _FROM_SLOT[i]
        else:
            words[i] = int(value) & _ALL  # type: ignore[call-overload]
    if allow is SEARCH:
        flags |= _IS_SEARCH
    if index == plan.gated:
        flags |= _IS_GATE
    elif index in plan.forked:
        flags |= _IS_FORK
    last = allow is SEARCH and index == len(plan.calls) - 1
    harmless = 0 if allow is None or last else _bits_of(allow)
    return _CALL.pack(number, *words, slots + 8 * (slot % _SLOTS), harmless, flags)


@functools.cache
def _bits_of(allow: frozenset[int] | int) -> int:
    """Return the set of harmless errnos as bits, all of them for IGNORE."""
    return sum(1 << code for code in allow) if isinstance(allow, frozenset) else _ALL


def image(plan: Plan, report_fd: int, machine: str = kernel.MACHINE) -> bytes:
    """Return the plan as a static ELF file that reports a failure to `report_fd`."""
    records = _DATA + _HEAD.size
    data = end = records + _CALL.size * len(plan.calls)
    calls = [_encode(plan, i, _DATA + 16, data) for i in range(len(plan.calls))]
    content = _HEAD.pack(end, report_fd) + b"".join(calls) + plan.located(data)
    return sealed.with_data(_WALK, content, machine)


class Cradle:
    """Makes children that are programs of their own; `usable` where this machine can."""

    def __init__(self) -> None:
        self.usable = False
        if kernel.MACHINE not in _CLONE:
            return
        code = sealed.code_of(_CLONE[kernel.MACHINE])
        fd = os.memfd_create("clone", os.MFD_CLOEXEC)
        try:
            os.write(fd, code)
            self.usable = os.access(f"/proc/self/fd/{fd}", os.X_OK)
            if not self.usable:
                return
            mapping = kernel.libc.mmap
            mapping.restype = ctypes.c_void_p
            place = mapping(None, ctypes.c_size_t(len(code)), 5, 2, fd, ctypes.c_long(0))
        finally:
            os.close(fd)
        if place in (None, _ALL):
            self.usable = False
            return
        shape = ctypes.PYFUNCTYPE(
            ctypes.c_long,
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p),
        )
        self._clone = shape(place)
        # the module signal turns 64 numbers into objects: 0.2 ms a start
        self._every, self._before = (ctypes.c_uint64 * 1)(_ALL), (ctypes.c_uint64 * 1)()
        self._name = ctypes.create_string_buffer(b"start")
        self._words = (ctypes.c_uint64 * 2)(ctypes.addressof(self._name), 0)

    def bear(
        self, plan: Plan, report_fd: int, keep: list[int], flags: int, cgroup_fd: int, share: bool
    ) -> tuple[int, int]:
        """Run the plan in a child; returns (pid, pidfd).

        It has the standard streams and the descriptors of `keep`. With `share` it is born in the
        fork server's memory, which no one must be able to reach through it.
        """
        kept = [report_fd, *sorted({fd for fd in keep if fd > 2} - {report_fd}), -1]
        numbers = (ctypes.c_int * len(kept))(*kept)
        content = image(plan, report_fd)
        program = os.memfd_create("start", os.MFD_CLOEXEC)
        # a handler of ours must not run in the child: every signal waits for its program
        kernel.raw_syscall(_MASK, signal.SIG_BLOCK, self._every, self._before, 8)
        try:
            os.write(program, content)

            def clone(arguments: object, size: int) -> int:
                result: int = self._clone(arguments, size, numbers, program, self._words)
                if result < 0:
                    raise SysError("clone3", -result)
                return result

            return kernel.clone3(flags | (_SHARE if share else 0), cgroup_fd, clone)
        finally:
            kernel.raw_syscall(_MASK, signal.SIG_SETMASK, self._before, None, 8)
            os.close(program)
