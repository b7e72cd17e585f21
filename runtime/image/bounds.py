"""How much one archive may become: against bombs that fill the disk or the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.image.errors import BadArchive

_STEP_BYTES = 1 << 20


class Readable(Protocol):
    """All an archive source must have."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, empty at the end."""


@dataclass(frozen=True)
class UnpackLimits:
    """What one stream may become; a stream over a limit is refused midway.

    The ratio of what comes out to what went in counts above `ratio_from_bytes` only: small
    archives of zeros are common, and harmless.
    """

    entries: int = 2_000_000
    size_bytes: int = 256 << 30
    path_bytes: int = 4096
    header_bytes: int = 1 << 20
    ratio: int = 200
    ratio_from_bytes: int = 1 << 30


DEFAULT_LIMITS = UnpackLimits()


class Counted:
    """Counts what is read from a source."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes."""
        chunk = self._source.read(size)
        self.bytes += len(chunk)
        return chunk


class Bounded:
    """What a decompressor gives, as long as it is in proportion to what it was given."""

    def __init__(
        self,
        plain: Readable,
        compressed: Counted,
        limits: UnpackLimits,
        damage: tuple[type[Exception], ...],
    ) -> None:
        self._damage = damage  # what the decompressor raises
        self._plain = plain
        self._compressed = compressed
        self._limits = limits
        self._bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; all of them where negative. Raises BadArchive."""
        if size >= 0:
            return self._some(min(size, _STEP_BYTES))
        parts = []
        while part := self._some(_STEP_BYTES):
            parts.append(part)
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        try:
            chunk = self._plain.read(size)
        except self._damage as error:
            raise BadArchive(f"damaged archive: {error}") from error
        self._bytes += len(chunk)
        limits = self._limits
        if (
            self._bytes > limits.ratio_from_bytes
            and self._bytes > limits.ratio * self._compressed.bytes
        ):
            raise BadArchive(f"archive decompresses to more than {limits.ratio} times its size")
        if self._bytes > limits.size_bytes:
            raise BadArchive(f"archive decompresses to more than {limits.size_bytes} bytes")
        return chunk
