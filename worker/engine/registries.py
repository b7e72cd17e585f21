"""The engine's way to registries: pull, push, login and search with the daemon's settings."""

from collections.abc import Callable
from typing import Any

from runtime.image.model import Image
from runtime.image.reference import Reference
from runtime.image.registry.auth import NOBODY, Credentials
from runtime.image.registry.endpoint import RegistrySettings, endpoint_of, login_host
from runtime.image.registry.errors import LoginRefused, Unauthorized
from runtime.image.registry.manifest import Platform
from runtime.image.registry.nearby import by_address
from runtime.image.registry.progress import Emit
from runtime.image.registry.pull import Puller, Weigh
from runtime.image.registry.push import Pusher
from runtime.image.registry.search import search
from runtime.image.registry.transport import Transport
from runtime.image.store import ImageStore

Tell = Callable[[str, str, str], None]
"""Told of an action on an image: its name, the image's id, the reference."""


class Registries:
    """One for the daemon, so that equal layers of concurrent pulls are fetched once."""

    def __init__(self, images: ImageStore, settings: RegistrySettings, tell: Tell) -> None:
        self.settings = settings
        self.puller = Puller(images, settings)
        self._pusher = Pusher(images, settings)
        self._tell = tell

    async def pull(
        self,
        reference: Reference,
        credentials: Credentials = NOBODY,
        *,
        platform: Platform | None = None,
        emit: Emit = lambda line: None,
        weigh: Weigh = lambda sizes: None,
        all_tags: bool = False,
    ) -> list[Image]:
        """Fetch an image, or all tags of a repository; raises RegistryError, DiskFull."""
        images = await self.puller.pull(
            reference,
            credentials,
            platform=platform,
            emit=emit,
            weigh=weigh,
            all_tags=all_tags,
        )
        for image in images:
            name = reference.familiar_name if all_tags else reference.with_default_tag().familiar
            self._tell("pull", image.id, name)
        return images

    async def push(
        self, reference: Reference, credentials: Credentials, emit: Emit, *, all_tags: bool
    ) -> None:
        """Publish an image, or all tags of a repository; raises ImageNotFound, RegistryError."""
        for done in await self._pusher.push(reference, credentials, emit=emit, all_tags=all_tags):
            self._tell("push", done.image_id, f"{reference.familiar_name}:{done.tag}")

    async def login(self, address: str, credentials: Credentials) -> None:
        """Try credentials at a registry; raises LoginRefused, RegistryError."""
        host = login_host(address)
        endpoint = endpoint_of(host, await by_address(host, self.settings))
        async with Transport(endpoint, credentials) as transport:
            try:
                await transport.check_login()
            except Unauthorized as error:
                raise LoginRefused(
                    f"login attempt to {transport.url('/v2/')} failed with status: "
                    f"401 Unauthorized ({error})"
                ) from None

    async def search(self, term: str, limit: int, credentials: Credentials) -> list[dict[str, Any]]:
        """Search a registry; raises NoSearch, RegistryError."""
        return await search(term, limit, self.settings, credentials)

    def info(self) -> dict[str, Any]:
        """Return the RegistryConfig of `GET /info`."""
        plain = [entry for entry in self.settings.insecure if "/" not in entry]
        ranges = [entry for entry in self.settings.insecure if "/" in entry]
        hub = {
            "Name": "docker.io",
            "Mirrors": [_with_slash(url) for url in self.settings.mirrors],
            "Secure": True,
            "Official": True,
        }
        insecure = {
            host: {"Name": host, "Mirrors": [], "Secure": False, "Official": False}
            for host in plain
        }
        return {
            "AllowNondistributableArtifactsCIDRs": None,
            "AllowNondistributableArtifactsHostnames": None,
            "InsecureRegistryCIDRs": [*ranges, "127.0.0.0/8", "::1/128"],
            "IndexConfigs": {"docker.io": hub, **insecure},
            "Mirrors": hub["Mirrors"],
        }


def _with_slash(url: str) -> str:
    return url if url.endswith("/") else url + "/"
