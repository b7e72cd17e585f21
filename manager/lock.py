"""One process to a state directory."""

import fcntl
from typing import BinaryIO

from manager.config import Paths
from swarmapi.errors import FailedPrecondition


def lock(paths: Paths) -> BinaryIO:
    """Hold the state directory for this process; the kernel lets go at its end.

    Raises:
        FailedPrecondition: when another process holds it.
    """
    paths.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = paths.lock.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise FailedPrecondition(f"another swarm-manager runs on {paths.state_dir}") from error
    return file
