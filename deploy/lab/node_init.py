"""Pid 1 of a lab node: reap every orphan, keep swarmd running. Killing it is the power cut.

Usage: node_init.py COMMAND…   Signals: SIGUSR1 holds swarmd back, SIGUSR2 starts it again,
SIGTERM ends the node. A swarmd that ends by itself is started again after RESTART_DELAY_S.
"""

from __future__ import annotations

import os
import signal
import sys
import time

RESTART_DELAY_S = 0.2
SIGNALS = {signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM}


def say(text: str) -> None:
    """Write one line to the node's console."""
    os.write(2, f"node: {text}\n".encode())


def reap() -> dict[int, int]:
    """Collect every dead child: pid to exit code, negative for a signal."""
    gone: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return gone
        if pid == 0:
            return gone
        gone[pid] = os.waitstatus_to_exitcode(status)


def spawn(command: list[str]) -> int:
    """Start the daemon in a session of its own with all signals let through."""
    say(f"starting {' '.join(command)}")
    try:
        return os.posix_spawn(command[0], command, os.environ, setsid=True, setsigmask=[])
    except OSError as error:
        say(f"cannot start {command[0]}: {error.strerror}")
        return 0


def main(command: list[str]) -> int:
    """Serve until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    daemon, held, due = 0, False, time.monotonic()
    while True:
        if daemon == 0 and not held and time.monotonic() >= due:
            daemon = spawn(command)
            due = time.monotonic() + RESTART_DELAY_S
        if daemon == 0 and not held:
            info = signal.sigtimedwait(SIGNALS, max(0.0, due - time.monotonic()))
        else:
            info = signal.sigwaitinfo(SIGNALS)
        number = 0 if info is None else info.si_signo
        if number == signal.SIGTERM:
            return 0
        if number == signal.SIGUSR1:
            held = True
        elif number == signal.SIGUSR2:
            held, due = False, time.monotonic()
        gone = reap()
        if daemon in gone:
            say(f"{command[0]} ended with {gone[daemon]}")
            daemon, due = 0, time.monotonic() + RESTART_DELAY_S


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
