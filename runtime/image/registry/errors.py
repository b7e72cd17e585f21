"""What can go wrong between this machine and a registry, in Docker's words."""

from __future__ import annotations

from runtime.image.errors import ImageError


class RegistryError(ImageError):
    """A registry could not be reached, refused or answered nonsense; the message says which."""


class RemoteNotFound(RegistryError):
    """The registry has no such repository, tag, digest or platform, or hides it from us."""


class Unauthorized(RegistryError):
    """The registry wants credentials, or others."""


class LoginRefused(Unauthorized):
    """Credentials that were to be tried are wrong."""


class Interrupted(RegistryError):
    """A transfer broke midway; what has arrived stays and the rest can be asked for."""


class NoSearch(RegistryError):
    """The registry does not offer a search."""
