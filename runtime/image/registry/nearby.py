"""Whether a registry's name leads into an insecure range, which only the resolver can say."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from urllib.parse import urlsplit

from runtime.image.registry.endpoint import RegistrySettings, is_hub, is_insecure


async def by_address(host: str, settings: RegistrySettings) -> RegistrySettings:
    """Return settings that also name `host` where an address of it is in an insecure range.

    A name that cannot be resolved is not insecure.
    """
    name = urlsplit(f"//{host}").hostname or ""
    if is_hub(host) or is_insecure(host, settings):
        return settings
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return settings
    addresses = {str(info[4][0]) for info in found}
    if any(is_insecure(f"[{a}]" if ":" in a else a, settings) for a in addresses):
        return replace(settings, insecure=(*settings.insecure, host))
    return settings
