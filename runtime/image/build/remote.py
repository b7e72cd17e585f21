"""ADD of a URL: fetch exactly that address into a file."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import urllib.error
import urllib.request
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.image.bounds import Readable
from runtime.image.errors import BuildError

_URL = re.compile(r"https?://", re.IGNORECASE)
_TIMEOUT_S = 60.0
_LARGEST_BYTES = 64 << 30


def is_url(text: str) -> bool:
    """Tell an address ADD fetches."""
    return bool(_URL.match(text))


def fetch(url: str, directory: Path, what: str = "ADD") -> tuple[str, Path]:
    """Fetch into a directory; return the file's name, empty where nothing gives one, and path.

    `what` begins the words of a failure. The file has mode 0600 and the time the server says.
    Raises BuildError.
    """
    target = directory / "download"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            with target.open("xb") as file:
                shutil.copyfileobj(_Bounded(answer, url), file, 1 << 20)
            headers: Message = answer.headers
    except urllib.error.HTTPError as error:
        error.close()
        raise BuildError(
            f"{what} failed: failed to GET {url} with status {error.code} {error.reason}"
        ) from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise BuildError(f"{what} failed: failed to GET {url}: {reason}") from None
    target.chmod(0o600)
    os.utime(target, (_modified_s(headers),) * 2)
    return _name(url, headers), target


class _Bounded:
    """Reads an answer, up to a limit."""

    def __init__(self, answer: Readable, url: str) -> None:
        self._answer = answer
        self._left = _LARGEST_BYTES
        self._url = url

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes."""
        chunk = self._answer.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise BuildError(f"ADD failed: {self._url} has more than {_LARGEST_BYTES} bytes")
        return chunk


def _modified_s(headers: Message) -> float:
    try:
        return parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp()
    except (TypeError, ValueError):
        return 0.0


def _name(url: str, headers: Message) -> str:
    path = urlsplit(url).path
    if path and not path.endswith("/"):
        return posixpath.basename(unquote(path))
    return posixpath.basename(headers.get_filename("") or "")
