"""What can go wrong with images, in Docker's words where clients show them."""

from __future__ import annotations

from runtime.errors import RuntimeFailure


class ImageError(RuntimeFailure):
    """Base of every image error raised on purpose."""


class ImageNotFound(ImageError):
    """No image answers to this reference or id."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"No such image: {ref}")
        self.ref = ref


class ImageConflict(ImageError):
    """The image cannot be removed as asked; the message says what holds it."""


class BadReference(ImageError):
    """The text is not an image reference."""

    def __init__(self, text: str, why: str = "invalid reference format") -> None:
        super().__init__(f"{why}: {text!r}")


class BadArchive(ImageError):
    """A tar stream is damaged, over its limits or tries to leave its root."""


class DiskFull(ImageError):
    """The file system of the data root has no room; nothing half done stays."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no space left on device: {path}: free some, or prune images")


class BuildError(ImageError):
    """A build ended; `code` is the exit code of the failing step, 0 where there is none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code
