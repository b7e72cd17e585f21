"""The last step of an exec: a program that forks itself into the container and becomes the user's.

Who has CAP_SYS_PTRACE in a container can read and change each process of its pid namespace from
the moment it is there. So what runs the plan stays outside until nothing is left to give away: it
has joined the other namespaces, lost its capabilities, is bound by the container's seccomp profile,
and becomes this program, with the standard streams and the report as its only descriptors. Even its
memory, which was the fork server's, is gone. The parent ends after the fork.

Its arguments are `t` for a terminal or another letter, the paths to try, "", and the user's.
The child writes the letter to the report, so the kernel tells its pid to who reads that with
SO_PASSCRED, and then nothing, or (-1, errno) as two int32 when no path could be executed.
"""

from __future__ import annotations

from typing import Any

from runtime.supervisor.kernel import CLONE_PARENT, TIOCSCTTY

REPORT = 3
NEEDS: tuple[tuple[Any, ...], ...] = (
    ("execveat",), ("fcntl", REPORT), ("clone", CLONE_PARENT), ("setsid",), ("write", REPORT)
)  # fmt: skip
"""The system calls, with their arguments, that the container's seccomp profile must allow."""
TERMINAL_NEED = ("ioctl", 0, TIOCSCTTY)
_X86_64 = """
4c 8d 64 24 08        lea    r12, [rsp+8]         # argv
6a 03                 push   3
5f                    pop    rdi
6a 02                 push   2
5e                    pop    rsi
6a 01                 push   1
5a                    pop    rdx
6a 48                 push   72                   # fcntl(REPORT, F_SETFD, FD_CLOEXEC)
58                    pop    rax
0f 05                 syscall
bf 00 80 00 00        mov    edi, 0x8000
31 f6                 xor    esi, esi
31 d2                 xor    edx, edx
45 31 d2              xor    r10d, r10d
45 31 c0              xor    r8d, r8d
6a 38                 push   56                   # clone(CLONE_PARENT, 0, 0, 0, 0)
58                    pop    rax
0f 05                 syscall
85 c0                 test   eax, eax
0f 88 8a 00 00 00     js     fail
0f 85 a0 00 00 00     jnz    done
6a 70                 push   112                  # setsid()
58                    pop    rax
0f 05                 syscall
4d 8b 2c 24           mov    r13, [r12]
41 80 7d 00 74        cmp    byte [r13], 116      # "t": a terminal
75 0e                 jne    tell
31 ff                 xor    edi, edi
be 0e 54 00 00        mov    esi, 0x540e
31 d2                 xor    edx, edx
6a 10                 push   16                   # ioctl(0, TIOCSCTTY, 0)
58                    pop    rax
0f 05                 syscall
                  tell:
6a 03                 push   3
5f                    pop    rdi
4c 89 ee              mov    rsi, r13
6a 01                 push   1
5a                    pop    rdx
6a 01                 push   1                    # write(REPORT, argv[0], 1)
58                    pop    rax
0f 05                 syscall
4d 89 e5              mov    r13, r12
                  seek:
49 83 c5 08           add    r13, 8
49 8b 45 00           mov    rax, [r13]
80 38 00              cmp    byte [rax], 0        # "" parts paths and arguments
75 f3                 jne    seek
49 83 c5 08           add    r13, 8               # arguments
4d 89 ee              mov    r14, r13
                  skip:
49 83 c6 08           add    r14, 8
49 83 7e f8 00        cmp    qword [r14-8], 0
75 f5                 jne    skip
31 db                 xor    ebx, ebx             # no refusal yet
                  next:
89 c5                 mov    ebp, eax             # the last answer
                  again:
49 83 c4 08           add    r12, 8
49 8b 3c 24           mov    rdi, [r12]
80 3f 00              cmp    byte [rdi], 0
74 1e                 je     spent
4c 89 ee              mov    rsi, r13
4c 89 f2              mov    rdx, r14
6a 3b                 push   59                   # execve(path, arguments, environment)
58                    pop    rax
0f 05                 syscall
83 f8 fe              cmp    eax, -2              # ENOENT
74 e1                 je     next
83 f8 ec              cmp    eax, -20             # ENOTDIR
74 dc                 je     next
83 f8 f3              cmp    eax, -13             # EACCES
75 0b                 jne    fail
89 c3                 mov    ebx, eax
eb d5                 jmp    again
                  spent:
89 e8                 mov    eax, ebp
85 db                 test   ebx, ebx
0f 45 c3              cmovnz eax, ebx
                  fail:
f7 d8                 neg    eax
89 44 24 04           mov    [rsp+4], eax
83 0c 24 ff           or     dword [rsp], -1
6a 03                 push   3
5f                    pop    rdi
48 89 e6              mov    rsi, rsp
6a 08                 push   8
5a                    pop    rdx
6a 01                 push   1                    # write(REPORT, {-1, errno}, 8)
58                    pop    rax
0f 05                 syscall
6a 7f                 push   127
eb 02                 jmp    out
                  done:
6a 00                 push   0
                  out:
5f                    pop    rdi
b8 e7 00 00 00        mov    eax, 231             # exit_group(code)
0f 05                 syscall
"""
_AARCH64 = """
f3 23 00 91           add    x19, sp, 8           # argv
60 00 80 d2           mov    x0, 3
41 00 80 d2           mov    x1, 2
22 00 80 d2           mov    x2, 1
28 03 80 d2           mov    x8, 25               # fcntl(REPORT, F_SETFD, FD_CLOEXEC)
01 00 00 d4           svc    0
00 00 90 d2           mov    x0, 0x8000
01 00 80 d2           mov    x1, 0
02 00 80 d2           mov    x2, 0
03 00 80 d2           mov    x3, 0
04 00 80 d2           mov    x4, 0
88 1b 80 d2           mov    x8, 220              # clone(CLONE_PARENT, 0, 0, 0, 0)
01 00 00 d4           svc    0
1f 00 00 71           cmp    w0, 0
8b 05 00 54           b.lt   fail
ac 06 00 54           b.gt   done
a8 13 80 d2           mov    x8, 157              # setsid()
01 00 00 d4           svc    0
74 86 40 f8           ldr    x20, [x19], 8
81 02 40 39           ldrb   w1, [x20]
3f d0 01 71           cmp    w1, 116              # "t": a terminal
c1 00 00 54           b.ne   tell
00 00 80 d2           mov    x0, 0
c1 81 8a d2           mov    x1, 0x540e
02 00 80 d2           mov    x2, 0
a8 03 80 d2           mov    x8, 29               # ioctl(0, TIOCSCTTY, 0)
01 00 00 d4           svc    0
                  tell:
60 00 80 d2           mov    x0, 3
e1 03 14 aa           mov    x1, x20
22 00 80 d2           mov    x2, 1
08 08 80 d2           mov    x8, 64               # write(REPORT, argv[0], 1)
01 00 00 d4           svc    0
f5 03 13 aa           mov    x21, x19
                  seek:
a1 86 40 f8           ldr    x1, [x21], 8
21 00 40 39           ldrb   w1, [x1]
c1 ff ff 35           cbnz   w1, seek             # "" parts paths and arguments
f6 03 15 aa           mov    x22, x21             # arguments
                  skip:
c1 86 40 f8           ldr    x1, [x22], 8
e1 ff ff b5           cbnz   x1, skip
17 00 80 52           mov    w23, 0               # no refusal yet
                  next:
f8 03 00 2a           mov    w24, w0              # the last answer
                  again:
60 86 40 f8           ldr    x0, [x19], 8
01 00 40 39           ldrb   w1, [x0]
a1 01 00 34           cbz    w1, spent
e1 03 15 aa           mov    x1, x21
e2 03 16 aa           mov    x2, x22
a8 1b 80 d2           mov    x8, 221              # execve(path, arguments, environment)
01 00 00 d4           svc    0
1f 08 00 31           cmn    w0, 2                # ENOENT
e0 fe ff 54           b.eq   next
1f 50 00 31           cmn    w0, 20               # ENOTDIR
a0 fe ff 54           b.eq   next
1f 34 00 31           cmn    w0, 13               # EACCES
a1 00 00 54           b.ne   fail
f7 03 00 2a           mov    w23, w0
f2 ff ff 17           b      again
                  spent:
ff 02 00 71           cmp    w23, 0
e0 12 98 1a           csel   w0, w23, w24, ne
                  fail:
e0 03 00 4b           neg    w0, w0
01 00 80 12           mov    w1, -1
e1 03 00 29           stp    w1, w0, [sp]
60 00 80 d2           mov    x0, 3
e1 03 00 91           mov    x1, sp
02 01 80 d2           mov    x2, 8
08 08 80 d2           mov    x8, 64               # write(REPORT, {-1, errno}, 8)
01 00 00 d4           svc    0
e0 0f 80 d2           mov    x0, 127
02 00 00 14           b      out
                  done:
00 00 80 d2           mov    x0, 0
                  out:
c8 0b 80 d2           mov    x8, 94               # exit_group(code)
01 00 00 d4           svc    0
"""
LISTINGS = {"x86_64": _X86_64, "aarch64": _AARCH64}
