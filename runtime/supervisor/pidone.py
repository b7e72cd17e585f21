"""The first process of a container started with `--init`: reaps orphans and passes signals on.

It must be a program of its own (a forked interpreter would show the container's processes the
memory of the fork server) and must need nothing of the image: a static ELF of a few instructions,
in a sealed memory file, so that no container can change what the next one runs. The plan forks the
user's program first: it is pid 2, and every signal is blocked.
"""

from __future__ import annotations

import fcntl
import os
import struct

from runtime.errors import Unsupported
from runtime.supervisor.kernel import MACHINE

MAIN_PID = 2
_BASE = 0x400000
_HEADERS_SIZE = 64 + 56

_X86_64 = """
6a ff                 push   -1                   # the set of all signals
48 83 ec 08           sub    rsp, 8               # room for a status
                  next:
48 8d 7c 24 08        lea    rdi, [rsp+8]
31 f6                 xor    esi, esi
31 d2                 xor    edx, edx
41 ba 08 00 00 00     mov    r10d, 8
b8 80 00 00 00        mov    eax, 128             # rt_sigtimedwait(set, NULL, NULL, 8)
0f 05                 syscall
83 f8 11              cmp    eax, 17              # SIGCHLD
74 19                 je     reap
83 f8 fc              cmp    eax, -4              # EINTR
74 e0                 je     next
85 c0                 test   eax, eax
78 47                 js     fail
89 c6                 mov    esi, eax
bf 02 00 00 00        mov    edi, 2
b8 3e 00 00 00        mov    eax, 62              # kill(MAIN_PID, signal)
0f 05                 syscall
eb cc                 jmp    next
                  reap:
bf ff ff ff ff        mov    edi, -1
48 89 e6              mov    rsi, rsp
ba 01 00 00 00        mov    edx, 1               # WNOHANG
45 31 d2              xor    r10d, r10d
b8 3d 00 00 00        mov    eax, 61              # wait4(-1, &status, WNOHANG, NULL)
0f 05                 syscall
85 c0                 test   eax, eax
7e b1                 jle    next
83 f8 02              cmp    eax, 2
75 e0                 jne    reap
8b 3c 24              mov    edi, [rsp]
89 f8                 mov    eax, edi
83 e0 7f              and    eax, 127
74 08                 jz     exited
8d b8 80 00 00 00     lea    edi, [rax+128]       # killed: 128 + signal
eb 0a                 jmp    out
                  exited:
c1 ef 08              shr    edi, 8
eb 05                 jmp    out
                  fail:
bf ff 00 00 00        mov    edi, 255
                  out:
b8 e7 00 00 00        mov    eax, 231             # exit_group(code)
0f 05                 syscall
"""
_CODE = {"x86_64": _X86_64}
_ELF_MACHINE = {"x86_64": 62}


def image() -> bytes:
    """Return the program as an ELF file; raises Unsupported where there is none."""
    if MACHINE not in _CODE:
        raise Unsupported(f"--init is not supported on {MACHINE}")
    code = b"".join(bytes.fromhex(line[:18]) for line in _CODE[MACHINE].splitlines())
    size = _HEADERS_SIZE + len(code)
    # a static executable of one readable and executable segment: the file itself (elf(5))
    header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, _ELF_MACHINE[MACHINE], 1, _BASE + _HEADERS_SIZE, 64, 0, 0, 64, 56, 1,
        0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def open_sealed() -> int:
    """Return a descriptor of the program that nobody can write to."""
    program = image()
    fd = os.memfd_create("docker-init", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, program)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
