"""A disk that is full, made by the kernel: RLIMIT_FSIZE writes what fits and refuses the rest."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_room_above(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow above a size (EFBIG; setrlimit(2))."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
