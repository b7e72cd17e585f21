"""Where a registry is asked: Docker Hub's names, mirrors, and who may be asked insecurely. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from runtime.image.reference import DEFAULT_DOMAIN

HUB_HOST = "registry-1.docker.io"
HUB_SEARCH_HOST = "index.docker.io"
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_HUB_NAMES = {DEFAULT_DOMAIN, "index.docker.io", HUB_HOST, ""}


class BadRegistry(ValueError):
    """A mirror or an insecure registry is written wrongly; the message says how."""


@dataclass(frozen=True)
class RegistrySettings:
    """The daemon's options: mirrors of Docker Hub (URLs), insecure registries (host or CIDR).

    Raises BadRegistry for a value that is neither.
    """

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for mirror in self.mirrors:
            parts = urlsplit(mirror)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise BadRegistry(f"registry-mirror {mirror!r} is no http or https URL")
            if parts.username or parts.query or parts.fragment:
                raise BadRegistry(
                    f"registry-mirror {mirror!r} must hold no user, query or fragment"
                )
        for entry in self.insecure:
            if "://" in entry or not entry:
                raise BadRegistry(
                    f"insecure-registry {entry!r} must be host, host:port or a CIDR, not a URL"
                )
            if "/" in entry:
                try:
                    ipaddress.ip_network(entry, strict=False)
                except ValueError as error:
                    raise BadRegistry(f"insecure-registry {entry!r}: {error}") from None


NO_SETTINGS = RegistrySettings()


@dataclass(frozen=True)
class Endpoint:
    """One place to ask: schemes are tried in order; `verify` is about certificates."""

    host: str
    schemes: tuple[str, ...] = ("https",)
    verify: bool = True
    mirror: bool = False
    prefix: str = ""

    def url(self, scheme: str, path: str) -> str:
        """Return the URL of a path that begins with a slash."""
        return f"{scheme}://{self.host}{self.prefix}{path}"


def endpoints(
    domain: str, settings: RegistrySettings, *, push: bool = False
) -> tuple[Endpoint, ...]:
    """Return where to ask for a domain's images, best first; a push never goes to a mirror."""
    if domain not in _HUB_NAMES:
        return (endpoint_of(domain, settings),)
    mirrors = [] if push else [_mirror(url, settings) for url in settings.mirrors]
    return (*mirrors, Endpoint(HUB_HOST))


def endpoint_of(host: str, settings: RegistrySettings) -> Endpoint:
    """Return the endpoint of one host, insecure where the settings or loopback allow it."""
    if is_insecure(host, settings):
        return Endpoint(host, ("https", "http"), verify=False)
    return Endpoint(host)


def is_insecure(host: str, settings: RegistrySettings) -> bool:
    """Tell whether a host may be asked without a valid certificate; loopback always may.

    A CIDR is compared with literal addresses; names are looked up by `nearby.by_address`.
    """
    if host in settings.insecure:
        return True
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name in settings.insecure:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    networks = [
        ipaddress.ip_network(entry, strict=False) for entry in settings.insecure if "/" in entry
    ]
    return address.is_loopback or any(address in network for network in (*networks, _LOOPBACK))


def is_hub(domain: str) -> bool:
    """Tell whether a domain is Docker Hub's."""
    return domain in _HUB_NAMES


def login_host(address: str) -> str:
    """Return the host credentials are for: `https://index.docker.io/v1/` means Docker Hub."""
    bare = address.partition("://")[2] if "://" in address else address
    host = bare.partition("/")[0]
    return HUB_HOST if host in _HUB_NAMES else host


def _mirror(url: str, settings: RegistrySettings) -> Endpoint:
    parts = urlsplit(url)
    verify = not is_insecure(parts.netloc, settings)
    prefix = parts.path.rstrip("/")
    return Endpoint(parts.netloc, (parts.scheme,), verify=verify, mirror=True, prefix=prefix)
