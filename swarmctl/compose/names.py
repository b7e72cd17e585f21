"""What the names in a Compose file mean in a stack, and what it reads from files."""

import base64
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from swarmctl.compose.section import Section
from swarmctl.errors import ClientError
from swarmctl.flags import environment
from swarmctl.values import Bad

NAMESPACE: Final = "com.docker.stack.namespace"
_PREDEFINED = ("host", "bridge", "none")


class Volume(NamedTuple):
    """A volume of the file: its name in the cluster, and how nodes make it."""

    name: str
    options: dict[str, Any]


class Names(NamedTuple):
    """The stack's name and, by kind and key of the file, the names in the cluster."""

    stack: str
    directory: str
    variables: Mapping[str, str]
    networks: Mapping[str, str]
    volumes: Mapping[str, Volume]
    secrets: Mapping[str, str]
    configs: Mapping[str, str]

    def of(self, key: str) -> str:
        """Return the name of a service."""
        return f"{self.stack}_{key}"

    def network(self, key: str, path: str) -> str:
        """Return a network's name; ClientError when the file has none of that key."""
        return _known(self.networks, "network", key, path)

    def reference(self, kind: str, key: str, path: str) -> str:
        """Return the name of a secret or config; ClientError when the file has none."""
        return _known(self.secrets if kind == "secret" else self.configs, kind, key, path)

    def volume(self, key: str, path: str) -> Volume:
        """Return a volume; ClientError when the file has none of that key."""
        if key not in self.volumes:
            raise ClientError(f"{path}: volume {key!r} is not under volumes")
        return self.volumes[key]

    def is_predefined(self, network: str) -> bool:
        """Say whether a network is every node's own, where there are no aliases."""
        return network in _PREDEFINED

    def resolve(self, path: str) -> str:
        """Return a path of the file, absolute."""
        return os.path.normpath(os.path.join(self.directory, os.path.expanduser(path)))

    def read(self, path: str) -> bytes:
        """Return a file's content.

        Raises:
            ClientError: it cannot be read.
        """
        try:
            with open(self.resolve(path), "rb") as file:
                return file.read()
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise ClientError(f"cannot read {self.resolve(path)}: {reason}") from None

    def encoded(self, path: str) -> str:
        """Return a file's content in base64, as the API takes bytes."""
        return base64.b64encode(self.read(path)).decode()

    def env_file(self, path: str, *, required: bool) -> dict[str, str | None]:
        """Return the variables of a file of NAME=value lines."""
        full = self.resolve(path)
        if not required and not os.path.exists(full):
            return {}
        found: dict[str, str | None] = {}
        try:
            lines = environment(None, [full])
        except Bad as error:
            raise ClientError(str(error)) from None
        for line in lines:
            name, _, value = line.partition("=")
            found[name] = _unquoted(value)
        return found


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _known(names: Mapping[str, str], kind: str, key: str, path: str) -> str:
    if key not in names:
        raise ClientError(f"{path}: {kind} {key!r} is not under {kind}s")
    return names[key]


def external_name(section: Section, stack: str, key: str) -> tuple[str, bool]:
    """Return what a top-level object is called in the cluster, and whether it is external.

    `external: true` and the older `external: {name: …}` are the same.
    """
    name = section.text("name")
    if not isinstance(section.take("external"), dict):
        external = section.truth("external") is True
        return name or (key if external else f"{stack}_{key}"), external
    older = section.section("external")
    name = older.text("name") or name or key
    older.end()
    return name, True
