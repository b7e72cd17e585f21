"""Who may call what: the roles of the API, and the one table of what each route asks for.

Pure. What is not in the table asks for an operator, so a new route is closed until somebody says
otherwise. A deployer's request to make or change something is looked into (`swarmapi.privileges`):
what would give it the machine asks for an operator too.
"""

import re
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import cache
from typing import Final

from swarmapi import privileges
from swarmapi.errors import Forbidden, InvalidArgument

TOKEN_PATH: Final = "/local/api-token"
"""Route of a manager that tells its own swarmd whose a token is; no client reaches it."""
UNIT_PREFIX: Final = "swarm-"
"""`OU = swarm-viewer`: how a client's certificate names its role."""
CALLER_HEADER: Final = "X-Swarm-Caller"
"""Header by which a node tells its manager whose request it passes on."""


class ApiRole(IntEnum):
    """What a caller may do; each may do what those before it may."""

    VIEWER = 1
    DEPLOYER = 2
    OPERATOR = 3

    @property
    def word(self) -> str:
        """The role as people write it."""
        return self.name.lower()


ROLES: Final = {role.word: role for role in ApiRole}

_VIEWER: Final = """
    GET /_ping
    HEAD /_ping
    GET /version
    GET /info
    GET /events
    GET /metrics
    GET /system/df
    GET /swarm/v1/openapi.json
    GET /containers/json
    GET /containers/{id:.+}/json
    GET /containers/{id:.+}/changes
    GET /containers/{id:.+}/logs
    GET /containers/{id:.+}/stats
    GET /containers/{id:.+}/top
    GET /images/json
    GET /images/{name:.+}/json
    GET /images/{name:.+}/history
    GET /volumes
    GET /volumes/{name}
    GET /networks
    GET /networks/
    GET /networks/{id}
    GET /nodes
    GET /nodes/{id}
    GET /services
    GET /services/{id}
    GET /services/{id}/logs
    GET /tasks
    GET /tasks/{id}
    GET /tasks/{id}/logs
    GET /secrets
    GET /secrets/{id}
    GET /configs
    GET /configs/{id}
    GET /swarm/v1/events
    GET /swarm/v1/metrics
    GET /swarm/v1/raft
    GET /swarm/v1/rebalance
    GET /swarm/v1/rebalance/plan
    GET /swarm/v1/rescheduling
    GET /swarm/v1/services/{id}/specs
    GET /swarm/v1/services/{id}/story
    GET /swarm/v1/tasks/{id}/explain
    GET /swarm/v1/tasks/{id}/story
"""
_DEPLOYER: Final = """
    POST /auth
    GET /distribution/{name:.+}/json
    GET /images/search
    POST /services/create
    POST /services/{id}/update
    DELETE /services/{id}
    POST /swarm/v1/services/{id}/rollback
    POST /swarm/v1/services/{id}/resume
    POST /swarm/v1/plan
    POST /secrets/create
    POST /secrets/{id}/update
    DELETE /secrets/{id}
    POST /configs/create
    POST /configs/{id}/update
    DELETE /configs/{id}
    POST /networks/create
    POST /networks/prune
    DELETE /networks/{id}
    POST /volumes/create
    POST /volumes/prune
    DELETE /volumes/{name}
"""
"""Those that reach out to registries are among them: a viewer only looks at what is here."""
_INSPECTED: Final[dict[str, Callable[[bytes], str]]] = {
    "POST /services/create": privileges.of_service,
    "POST /services/{id}/update": privileges.of_service,
    "POST /volumes/create": privileges.of_volume,
    "POST /networks/create": privileges.of_network,
}
_VERSION = re.compile(r"^/v1\.\d+(?=/)")
_PARAMETER = re.compile(r"\{\w+(:\.\+)?\}")


@cache
def _table() -> tuple[tuple[str, re.Pattern[str], ApiRole, str], ...]:
    return tuple(
        (method, _pattern(path), role, f"{method} {path}")
        for role, listed in ((ApiRole.VIEWER, _VIEWER), (ApiRole.DEPLOYER, _DEPLOYER))
        for method, path in map(str.split, listed.strip().splitlines())
    )


def _pattern(path: str) -> re.Pattern[str]:
    parts, at = [], 0
    for found in _PARAMETER.finditer(path):
        parts += [re.escape(path[at : found.start()]), ".+" if found[1] else "[^/]+"]
        at = found.end()
    return re.compile("".join([*parts, re.escape(path[at:])]))


def needed(method: str, path: str) -> tuple[ApiRole, Callable[[bytes], str] | None]:
    """Return the role a request asks for, and what looks into a deployer's body.

    `path` is decoded, with or without the version before it. Where several routes match, the
    one that asks for most counts.
    """
    bare = _VERSION.sub("", path)
    found = [
        (role, name)
        for verb, pattern, role, name in _table()
        if verb == method and pattern.fullmatch(bare)
    ]
    if not found:
        return ApiRole.OPERATOR, None
    role, name = max(found)
    return role, _INSPECTED.get(name)


def check(role: ApiRole, method: str, path: str) -> Callable[[bytes], str] | None:
    """Return what has to look into the body; raises Forbidden where the role does not suffice."""
    if role is ApiRole.OPERATOR:
        return None
    wanted, inspect = needed(method, path)
    if role < wanted:
        raise Forbidden(f"{method} {path} needs the role {wanted.word}: yours is {role.word}")
    return inspect


def check_body(inspect: Callable[[bytes], str], raw: bytes) -> None:
    """Raise Forbidden, naming the first thing in a body that only an operator may ask for."""
    if why := inspect(raw):
        raise Forbidden(f"{why} needs the role operator: yours is deployer")


def role_named(word: str) -> ApiRole:
    """Return the role of a word; raises InvalidArgument naming those there are."""
    if word not in ROLES:
        raise InvalidArgument(f"role {word!r} is not known: use {', '.join(ROLES)}")
    return ROLES[word]


def role_of_units(units: Iterable[str], default: ApiRole | None) -> ApiRole:
    """Return the role that a verified certificate's organizational units name.

    `default` is for one that names none; None refuses it. A node's certificate is no client's.

    Raises:
        Forbidden: it names several roles, or one there is not.
    """
    named = {unit.removeprefix(UNIT_PREFIX) for unit in units if unit.startswith(UNIT_PREFIX)}
    if not named and default is not None:
        return default
    known = [ROLES[word] for word in named if word in ROLES]
    if len(known) != 1 or len(named) != 1:
        wanted = " or ".join(f"OU={UNIT_PREFIX}{word}" for word in ROLES)
        raise Forbidden(f"the certificate names no role of the API: it needs one {wanted}")
    return known[0]
