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


def open_report() -> tuple[socket.socket, int]:
    """Return a socket that knows who writes to it, and the descriptor of its far end."""
    report, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    report.setblocking(False)
    report.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with far:  # the usher has a place of its own for it
        return report, fcntl.fcntl(far, fcntl.F_DUPFD_CLOEXEC, usher.REPORT + 1)


def read_report(report: socket.socket) -> tuple[bytes, int]:
    """Return a message, empty at the end, and the pid of its writer: the kernel's word."""
    data, ancillary, _, _ = report.recvmsg(REPORT_SIZE, socket.CMSG_SPACE(_CREDENTIALS.size))
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return data, _CREDENTIALS.unpack(raw[: _CREDENTIALS.size])[0]
    return data, 0


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
        self.report, self.report_fd = open_report()

    def cloned(self, pid: int, pidfd: int, *, inside: bool) -> None:
        """Take what clone returned: the process itself, or who is to fork it into the container."""
        self.pidfd = pidfd
        if inside:
            self.pid = pid

    def hear(self) -> bool:
        """Take what has been reported; true once nothing more is to come."""
        while True:
            try:
                data, pid = read_report(self.report)
            except BlockingIOError:
                return False
            if len(data) == 1 and not self.pid:
                self._entered(pid)
                continue
            if data:
                self.failure = process.report_words(data, self.labels, self.args)
            elif not self.pid:
                self.failure = "the process was killed before it could run"
            return True

    def _entered(self, pid: int) -> None:
        self.pid = pid
        with contextlib.suppress(ProcessLookupError):  # it has ended, as who forked it has
            ended, self.pidfd = self.pidfd, os.pidfd_open(self.pid)
            os.close(ended)

    def close(self) -> None:
        """Let go of all descriptors."""
        self.report.close()
        wire.close_all([self.pidfd, self.master])
