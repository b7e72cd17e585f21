"""Reading tar streams: decompression by magic, header iteration, exact times and xattrs.

tarfile is used to parse headers only; nothing here or elsewhere calls its extract methods.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from typing import IO, Any, cast

from runtime.image.bounds import DEFAULT_LIMITS, Bounded, Counted, Readable, UnpackLimits
from runtime.image.errors import BadArchive

XATTR_PREFIX = "SCHILY.xattr."
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BZIP2 = b"BZh"
_XZ = b"\xfd7zXZ\x00"
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DAMAGED = (tarfile.TarError, zlib.error, EOFError)
_BUFFER_BYTES = 1 << 20
_INPUT_BYTES = 1 << 18
_GZIP_WBITS = 31


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


def decompress(source: Readable, limits: UnpackLimits = DEFAULT_LIMITS) -> tuple[Readable, str]:
    """Return the plain stream and its compression: `none`, `gzip`, `bzip2`, `xz` or `zstd`.

    Reading it raises BadArchive where it is damaged or over the limits.
    """
    head = b""
    while len(head) < 6 and (more := source.read(6 - len(head))):
        head += more
    counted = Counted(_Peeked(head, source))
    for magic, kind, opener in _COMPRESSIONS:
        if head.startswith(magic):
            plain, damage = opener(cast("IO[bytes]", counted))
            return Bounded(plain, counted, limits, damage), kind
    return counted, "none"


_Opened = tuple[Readable, tuple[type[Exception], ...]]


class _Gunzip(io.RawIOBase):
    """Gzip members one after the other; the module's reader takes 8 KiB at a time until 3.12.

    Raises zlib.error for damage, EOFError for an early end.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._inflater = zlib.decompressobj(_GZIP_WBITS)
        self._input = b""

    def readable(self) -> bool:  # type: ignore[explicit-override]  # 3.11 has none
        return True

    def readinto(self, buffer: Any, /) -> int:  # type: ignore[explicit-override]  # 3.11 has none
        """Fill what one step of the decompressor gives; 0 at the end."""
        while True:
            data = self._input or self._source.read(_INPUT_BYTES)
            if not data:
                if not self._inflater.eof:
                    raise EOFError("compressed stream ends early")
                return 0
            if self._inflater.eof:
                data = data.lstrip(b"\0")  # padding between members
                if data:
                    self._inflater = zlib.decompressobj(_GZIP_WBITS)
                else:
                    self._input = b""
                    continue
            out = self._inflater.decompress(data, len(buffer))
            self._input = self._inflater.unconsumed_tail or self._inflater.unused_data
            if out:
                buffer[: len(out)] = out
                return len(out)


class Hashing:
    """Passes a stream on and hashes it, to its very end."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._hasher = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes."""
        chunk = self._source.read(size)
        self._hasher.update(chunk)
        return chunk

    def finish(self) -> str:
        """Read what is left; return the digest of everything."""
        try:
            while self.read(_BUFFER_BYTES):
                continue
        except (OSError, EOFError) as error:
            raise BadArchive(f"damaged layer: {error}") from error
        return "sha256:" + self._hasher.hexdigest()


def _open_gzip(source: IO[bytes]) -> _Opened:
    plain = io.BufferedReader(_Gunzip(source), _BUFFER_BYTES)
    return cast("Readable", plain), (zlib.error, EOFError)


def _open_bzip2(source: IO[bytes]) -> _Opened:
    import bz2

    return bz2.BZ2File(source), (OSError, ValueError, EOFError)


def _open_xz(source: IO[bytes]) -> _Opened:
    import lzma

    return lzma.LZMAFile(source), (lzma.LZMAError, EOFError)


def _open_zstd(source: IO[bytes]) -> _Opened:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.ZstdFile(source), (zstd.ZstdError, EOFError)


_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[IO[bytes]], _Opened]], ...] = (
    (_GZIP, "gzip", _open_gzip),
    (_BZIP2, "bzip2", _open_bzip2),
    (_XZ, "xz", _open_xz),
    (_ZSTD, "zstd", _open_zstd),
)


class _Header(tarfile.TarInfo):
    """A header whose extensions (long names, attributes) are of a reasonable size.

    tarfile reads them whole into memory before anybody sees a member.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _EXTENSIONS and self.size > DEFAULT_LIMITS.header_bytes:
            raise BadArchive(f"tar header of {self.size} bytes is too large")
        return super()._proc_member(tar)  # type: ignore[misc]

    def _block(self, count: int) -> int:
        if count < 0:  # an offset before the member: tarfile would read it for ever
            raise BadArchive(f"tar header with a size of {count} bytes")
        return int(super()._block(count))  # type: ignore[misc]


def open_archive(file: IO[bytes]) -> tarfile.TarFile:
    """Open a plain tar whose members are read in any order, by `extractfile` alone."""
    return tarfile.open(fileobj=file, mode="r:", errorlevel=2, tarinfo=_Header)


def _open_stream(file: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(
        fileobj=file, mode="r|", errorlevel=2, tarinfo=_Header, bufsize=_INPUT_BYTES
    )


class TarReader:
    """Members of a plain tar stream, in order, in bounded memory."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._stream = _Exact(source)
        self._tar: tarfile.TarFile | None = None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        try:
            head = b""
            while len(head) < 512 and (more := self._source.read(512 - len(head))):
                head += more
            if not head.strip(b"\0"):
                return
            self._stream = _Exact(_Peeked(head, self._source))
            stream = cast("IO[bytes]", self._stream)
            self._tar = _open_stream(stream)
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
