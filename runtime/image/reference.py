"""Image references: parsing, the canonical form and the familiar form Docker prints.

Grammar: github.com/distribution/reference. `busybox` means `docker.io/library/busybox:latest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from runtime.image.errors import BadReference

DEFAULT_DOMAIN = "docker.io"
_OFFICIAL = "library/"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_ID = re.compile(r"[a-f0-9]{64}")
_NAME_MAX = 255


@dataclass(frozen=True)
class Reference:
    """A parsed reference; `tag` and `digest` are empty where the text has none."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository with its domain: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as Docker prints it: `busybox`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(_OFFICIAL)
        return rest if "/" not in rest else self.path

    @property
    def canonical(self) -> str:
        """The whole reference with its domain."""
        return self.name + self._suffix

    @property
    def familiar(self) -> str:
        """The whole reference as Docker prints it."""
        return self.familiar_name + self._suffix

    @property
    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    def with_default_tag(self) -> Reference:
        """The same reference, tagged `latest` where it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag="latest")


def parse(text: str) -> Reference:
    """Parse a reference.

    Raises BadReference, also for a bare 64-digit id, which Docker reserves.
    """
    if _ID.fullmatch(text):
        raise BadReference(text, "invalid repository name, cannot be a 64-digit image id")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise BadReference(text)
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        name, tag = rest, ""
    elif not _TAG.fullmatch(tag):
        raise BadReference(text)
    domain, slash, path = name.partition("/")
    has_domain = slash and ("." in domain or ":" in domain or domain == "localhost")
    if not has_domain and not (slash and domain != domain.lower()):
        domain, path = DEFAULT_DOMAIN, name
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    if path != path.lower():
        raise BadReference(text, "invalid reference format: repository name must be lowercase")
    if not _PATH.fullmatch(path) or not _DOMAIN.fullmatch(domain):
        raise BadReference(text)
    if len(domain) + 1 + len(path) > _NAME_MAX:
        raise BadReference(text, f"repository name is longer than {_NAME_MAX} characters")
    return Reference(domain, path, tag, digest)
