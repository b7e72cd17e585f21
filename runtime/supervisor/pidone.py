"""The first process of a container started with `--init`: reaps orphans and passes signals on.

It must be a program of its own (a forked interpreter would show the container's processes the
memory of the fork server) and must need nothing of the image, nor let a container change what the
next one runs: hence `sealed`. The plan forks the user's program first: it is pid 2, and every
signal is blocked.
"""

MAIN_PID = 2
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
_AARCH64 = """
13 00 80 92           mov    x19, -1              # the set of all signals
f3 4f bf a9           stp    x19, x19, [sp, -16]!
                  next:
e0 03 00 91           mov    x0, sp
01 00 80 d2           mov    x1, 0
02 00 80 d2           mov    x2, 0
03 01 80 d2           mov    x3, 8
28 11 80 d2           mov    x8, 137              # rt_sigtimedwait(set, NULL, NULL, 8)
01 00 00 d4           svc    0
1f 44 00 71           cmp    w0, 17               # SIGCHLD
40 01 00 54           b.eq   reap
1f 10 00 31           cmn    w0, 4                # EINTR
e0 fe ff 54           b.eq   next
1f 00 00 71           cmp    w0, 0
eb 02 00 54           b.lt   fail
e1 03 00 2a           mov    w1, w0
40 00 80 d2           mov    x0, 2
28 10 80 d2           mov    x8, 129              # kill(MAIN_PID, signal)
01 00 00 d4           svc    0
f0 ff ff 17           b      next
                  reap:
00 00 80 92           mov    x0, -1
e1 23 00 91           add    x1, sp, 8
22 00 80 d2           mov    x2, 1                # WNOHANG
03 00 80 d2           mov    x3, 0
88 20 80 d2           mov    x8, 260              # wait4(-1, &status, WNOHANG, NULL)
01 00 00 d4           svc    0
1f 00 00 71           cmp    w0, 0
0d fd ff 54           b.le   next
1f 08 00 71           cmp    w0, 2
e1 fe ff 54           b.ne   reap
e1 0b 40 b9           ldr    w1, [sp, 8]
20 18 00 72           ands   w0, w1, 0x7f
60 00 00 54           b.eq   exited
00 00 02 11           add    w0, w0, 128          # killed: 128 + signal
04 00 00 14           b      out
                  exited:
20 7c 08 53           lsr    w0, w1, 8
02 00 00 14           b      out
                  fail:
e0 1f 80 52           mov    w0, 255
                  out:
c8 0b 80 d2           mov    x8, 94               # exit_group(code)
01 00 00 d4           svc    0
"""
LISTINGS = {"x86_64": _X86_64, "aarch64": _AARCH64}
