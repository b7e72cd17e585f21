"""Search, which only Docker Hub and old registries offer (the first protocol's endpoint)."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

from runtime.image.registry.auth import NOBODY, Credentials
from runtime.image.registry.endpoint import (
    HUB_SEARCH_HOST,
    Endpoint,
    RegistrySettings,
    endpoint_of,
)
from runtime.image.registry.errors import NoSearch, RemoteNotFound
from runtime.image.registry.nearby import by_address
from runtime.image.registry.transport import Sleep, Transport

LIMIT_MAX = 100
_ANSWER_MAX_BYTES = 4 << 20


async def place(term: str, settings: RegistrySettings) -> tuple[Endpoint, str]:
    """Return whom to ask for a term, which may begin with a registry's host, and for what."""
    host, slash, rest = term.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        if host not in ("docker.io", HUB_SEARCH_HOST):
            return endpoint_of(host, await by_address(host, settings)), rest
        term = rest
    return Endpoint(HUB_SEARCH_HOST), term.removeprefix("library/")


async def search(
    term: str,
    limit: int,
    settings: RegistrySettings,
    credentials: Credentials = NOBODY,
    sleep: Sleep = asyncio.sleep,
) -> list[dict[str, Any]]:
    """Return what the registry finds, in the API's words.

    Raises NoSearch where the registry has none, RegistryError where it cannot be asked.
    """
    endpoint, words = await place(term, settings)
    path = "/v1/search?" + urlencode({"q": words, "n": limit})
    async with Transport(endpoint, credentials, sleep) as transport:
        try:
            raw, _ = await transport.read(path, _ANSWER_MAX_BYTES)
        except RemoteNotFound:
            raise NoSearch(f"registry {endpoint.host} has no search") from None
    try:
        rows = json.loads(raw)["results"]
        return [
            {
                "name": str(row["name"]),
                "description": str(row.get("description") or ""),
                "star_count": int(row.get("star_count") or 0),
                "is_official": bool(row.get("is_official")),
                "is_automated": bool(row.get("is_automated")),
            }
            for row in rows[:limit]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NoSearch(f"registry {endpoint.host} has no search: its answer is none") from None
