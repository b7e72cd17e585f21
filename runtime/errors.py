"""What can go wrong with a container on this machine, as one tree of exceptions."""

from __future__ import annotations

import os


class RuntimeFailure(Exception):
    """Base of every error the runtime raises on purpose."""


class ContainerExists(RuntimeFailure):
    """A container with this id is already known to the supervisor."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id} already exists: delete it first")
        self.container_id = container_id


class NoSuchContainer(RuntimeFailure):
    """No container with this id is known to the supervisor."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"no such container: {container_id}")
        self.container_id = container_id


class BadStatus(RuntimeFailure):
    """The container is not in a status that allows the request."""

    def __init__(self, have: str, need: str) -> None:
        super().__init__(f"container is {have}, the request needs it {need}")
        self.have = have
        self.need = need


class StartFailed(RuntimeFailure):
    """The container or exec process did not reach its program; the words are runc's."""


class Unsupported(RuntimeFailure):
    """The request names an option this runtime refuses; the message names it."""


class SupervisorGone(RuntimeFailure):
    """The connection to the supervisor ended before the answer; the outcome is unknown."""


class SysError(RuntimeFailure):
    """A system call failed: its name, errno and the path it was about (may be empty)."""

    def __init__(self, call: str, errno: int, path: str = "") -> None:
        where = f" {path}" if path else ""
        super().__init__(f"{call}{where}: {os.strerror(errno).lower()}")
        self.call = call
        self.errno = errno
        self.path = path
