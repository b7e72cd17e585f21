"""What ends a command, with the exit code it ends with."""


class ClientError(Exception):
    """The command failed; the message is for the user.

    Exit codes are Docker's: 1 for a failed command, 125 for bad flags and for a `run` that never
    started, 126 and 127 for a program that cannot be executed or is not there.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class DaemonError(ClientError):
    """The daemon refused; `status` is HTTP's."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"Error response from daemon: {reason}")
        self.status = status
        self.reason = reason


class UsageError(ClientError):
    """The command line is wrong."""

    def __init__(self, message: str, code: int = 125) -> None:
        super().__init__(message, code)
