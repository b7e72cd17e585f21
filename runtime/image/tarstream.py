"""Reading tar streams: decompression by magic, header iteration, exact times and xattrs.

tarfile is used to parse headers only; nothing here or elsewhere calls its extract methods.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import IO, Any, Protocol, cast

from runtime.image.errors import BadArchive

XATTR_PREFIX = "SCHILY.xattr."
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BZIP2 = b"BZh"
_XZ = b"\xfd7zXZ\x00"
_DAMAGED = (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile)


class Readable(Protocol):
    """All an archive source must have."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, empty at the end."""


class _Peeked:
    """A source whose first bytes were looked at."""

    def __init__(self, head: bytes, source: Readable) -> None:
        self._head = head
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        if not self._head:
            return self._source.read(size)
        if size < 0:
            head, self._head = self._head, b""
            return head + self._source.read()
        head, self._head = self._head[:size], self._head[size:]
        return head


def decompress(source: Readable) -> tuple[Readable, str]:
    """Return the plain stream and its compression: `none`, `gzip`, `bzip2`, `xz` or `zstd`.

    Raises BadArchive for zstd where Python has no zstd library (3.14 has one).
    """
    head = b""
    while len(head) < 6 and (more := source.read(6 - len(head))):
        head += more
    peeked = cast("IO[bytes]", _Peeked(head, source))
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=peeked, mode="rb"), "gzip"
    if head.startswith(_BZIP2):
        import bz2

        return bz2.BZ2File(peeked), "bzip2"
    if head.startswith(_XZ):
        import lzma

        return lzma.LZMAFile(peeked), "xz"
    if head.startswith(_ZSTD):
        return _open_zstd(peeked), "zstd"
    return peeked, "none"


def _open_zstd(source: IO[bytes]) -> Readable:
    import importlib

    for module in ("compression.zstd", "backports.zstd"):
        try:
            library: Any = importlib.import_module(module)
        except ImportError:
            continue
        return cast("Readable", library.ZstdFile(source))
    raise BadArchive("layer is zstd-compressed and no zstd library is installed: use gzip")


class TarReader:
    """Members of a plain tar stream, in order, in bounded memory."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._stream = _Exact(source)
        self._tar: tarfile.TarFile | None = None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        try:
            head = self._source.read(512)
            if not head.strip(b"\0"):
                return
            self._stream = _Exact(_Peeked(head, self._source))
            stream = cast("IO[bytes]", self._stream)
            self._tar = tarfile.open(fileobj=stream, mode="r|", errorlevel=2)  # noqa: SIM115 - ends with the stream
            while (member := self._tar.next()) is not None:
                vars(self._tar)["members"].clear()  # it would keep every header
                self._stream.needed = member.offset_data + (member.size if member.isreg() else 0)
                yield member
            self._stream.check()
        except _DAMAGED as error:
            raise BadArchive(f"damaged tar stream: {error}") from error

    def content(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """Yield the member's bytes; only valid for the member just returned."""
        assert self._tar is not None
        file = self._tar.extractfile(member)
        if file is None:
            return
        left = member.size
        while left:
            try:
                chunk = file.read(min(left, 1 << 20))
            except _DAMAGED as error:
                raise BadArchive(f"damaged tar stream: {error}") from error
            if not chunk:
                raise BadArchive(f"damaged tar stream: {member.name!r} is cut short")
            left -= len(chunk)
            if not left:
                self._stream.check()
            yield chunk


class _Exact:
    """Turns short reads into full ones, and fills the last block.

    tarfile takes a short read for the end, and docker's `build -f -` sends a tar whose last file
    is not padded. `needed` is where the content of the current member ends.
    """

    def __init__(self, source: Readable) -> None:
        self._from = source
        self._got = 0
        self._padded = False
        self.needed = 0

    def read(self, size: int = -1, /) -> bytes:
        parts = []
        while size > 0 and (part := self._from.read(size)):
            parts.append(part)
            size -= len(part)
            self._got += len(part)
        if size > 0 and not self._padded and self._got % tarfile.BLOCKSIZE:
            self._padded = True
            parts.append(bytes(-self._got % tarfile.BLOCKSIZE))
        return b"".join(parts)

    def check(self) -> None:
        """Raise BadArchive where the padding stands for content."""
        if self._padded and self._got < self.needed:
            raise BadArchive("damaged tar stream: unexpected end of data")


def mtime_ns(member: tarfile.TarInfo) -> int:
    """The modification time in nanoseconds, exact where a PAX header gives it."""
    try:
        return int(Decimal(member.pax_headers.get("mtime", str(member.mtime))) * 1_000_000_000)
    except (InvalidOperation, ValueError, OverflowError):
        return 0


def xattrs(member: tarfile.TarInfo) -> dict[str, bytes]:
    """The extended attributes of a member by name."""
    return {
        key.removeprefix(XATTR_PREFIX): value.encode("utf-8", "surrogateescape")
        for key, value in member.pax_headers.items()
        if key.startswith(XATTR_PREFIX)
    }
