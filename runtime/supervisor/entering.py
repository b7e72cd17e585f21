"""A further process of a container, from its clone until it is known whether its program runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

from runtime.supervisor import process, usher, wire
from runtime.supervisor.plan import REPORT_SIZE

_CREDENTIALS = struct.Struct("<iII")


class Entrant:
    """What is known of it: `pid` is 0 until it is in the container, `failure` why it is not.

    What comes through the report may be forged by who can trace the process in its container; the
    pid is the kernel's word.
    """

    def __init__(self, args: list[str]) -> None:
        self.args = args
        self.labels: list[str] = []
        self.warnings: list[str] = []
        self.pid, self.pidfd, self.master = 0, -1, -1
        self.failure = ""
        self.report, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.report.setblocking(False)
        self.report.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with far:  # the usher has a place of its own for it
            self.report_fd = fcntl.fcntl(far, fcntl.F_DUPFD_CLOEXEC, usher.REPORT + 1)

    def cloned(self, pid: int, pidfd: int, *, inside: bool) -> None:
        """Take what clone returned: the process itself, or who is to fork it into the container."""
        self.pidfd = pidfd
        if inside:
            self.pid = pid

    def hear(self) -> bool:
        """Take what has been reported; true once nothing more is to come."""
        while True:
            try:
                room = socket.CMSG_SPACE(_CREDENTIALS.size)
                data, ancillary, _, _ = self.report.recvmsg(REPORT_SIZE, room)
            except BlockingIOError:
                return False
            if len(data) == 1 and not self.pid:
                self._entered(ancillary)
                continue
            if data:
                self.failure = process.report_words(data, self.labels, self.args)
            elif not self.pid:
                self.failure = "the process was killed before it could run"
            return True

    def _entered(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                self.pid = _CREDENTIALS.unpack(raw[: _CREDENTIALS.size])[0]
        with contextlib.suppress(ProcessLookupError):  # it has ended, as who forked it has
            ended, self.pidfd = self.pidfd, os.pidfd_open(self.pid)
            os.close(ended)

    def close(self) -> None:
        """Let go of all descriptors."""
        self.report.close()
        wire.close_all([self.pidfd, self.master])
