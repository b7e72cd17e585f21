"""A command on a terminal of its own: what it shows is read, keys are typed."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence
from types import TracebackType

PATIENCE_S = 20.0


class Terminal:
    """Runs `argv` on a fresh pty of 30 rows and 100 columns; use as a context manager."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str]) -> None:
        self.shown = ""
        self._seen = 0
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            self.resize_fd(0, 30, 100)
            os.execvpe(argv[0], list(argv), environment)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)

    @staticmethod
    def resize_fd(fd: int, rows: int, columns: int) -> None:
        """Set a terminal's size."""
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        """Change the size as a window manager would."""
        self.resize_fd(self._master, rows, columns)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def expect(self, text: str) -> None:
        """Return once `text` has been shown after what was expected before."""
        deadline = time.monotonic() + PATIENCE_S
        while (at := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.shown[self._seen :]!r}"
            self._read(0.2)
        self._seen = at + len(text)

    def wait(self) -> int:
        """Return the exit code, reading what is still shown."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"it goes on, showing {self.shown!r}"

    def _read(self, patience_s: float) -> None:
        if select.select([self._master], [], [], patience_s)[0]:
            try:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                return  # the other side is closed
