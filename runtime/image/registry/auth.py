"""Credentials, challenges and tokens of registries. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,]*)')


@dataclass(frozen=True)
class Credentials:
    """Who we are at one registry; all empty where nobody logged in."""

    username: str = ""
    password: str = field(default="", repr=False)  # a secret must not reach a log
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of a basic Authorization header, empty without a user."""
        if not self.username:
            return ""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


def credentials_of(value: Mapping[str, Any]) -> Credentials:
    """Read Docker's AuthConfig; `auth` is base64 of user:password.

    Raises ValueError where a field has a wrong type or `auth` is no such pair.
    """
    fields = {}
    for key in ("username", "password", "auth", "identitytoken", "registrytoken"):
        found = value.get(key, "")
        if not isinstance(found, str):
            raise ValueError(f"{key} must be a string")
        fields[key] = found
    if fields["auth"] and not fields["username"]:
        try:
            pair = base64.b64decode(fields["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError(f"auth is no base64: {error}") from None
        fields["username"], colon, fields["password"] = pair.partition(":")
        if not colon:
            raise ValueError("auth holds no user:password")
    return Credentials(
        fields["username"], fields["password"], fields["identitytoken"], fields["registrytoken"]
    )


NOBODY = Credentials()


def decoded(header: str) -> Any:
    """Read a header of Docker's clients: base64url, padded or not, of JSON; raises ValueError."""
    return json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))


def credentials_in(header: str) -> Credentials:
    """Read X-Registry-Auth, empty for nobody; raises ValueError."""
    if not header:
        return NOBODY
    value = decoded(header)
    if not isinstance(value, dict):
        raise ValueError("a JSON object is expected")
    return credentials_of(value)


@dataclass(frozen=True)
class Challenge:
    """One way to authenticate that a registry offers; the scheme is lower case."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read WWW-Authenticate headers, each of which may hold several challenges (RFC 9110 §11)."""
    found: list[Challenge] = []
    for header in headers:
        position = 0
        while match := _SCHEME.match(header, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while pair := _PARAMETER.match(header, position):
                value = pair[2]
                if value.startswith('"'):
                    value = re.sub(r"\\(.)", r"\1", value[1:-1])
                parameters[pair[1].lower()] = value
                position = pair.end()
            found.append(Challenge(match[1].lower(), parameters))
    return found


def token_query(challenge: Challenge, scopes: Iterable[str], username: str = "") -> str:
    """Return the query that asks for a token (Docker's token specification)."""
    query = [("service", challenge.parameters["service"])] if _service(challenge) else []
    query += [("scope", scope) for scope in _all_scopes(challenge, scopes)]
    if username:
        query.append(("account", username))
    return urlencode(query)


def refresh_form(challenge: Challenge, scopes: Iterable[str], token: str) -> dict[str, str]:
    """Return the form that turns an identity token into an access token (OAuth 2)."""
    return {
        "grant_type": "refresh_token",
        "refresh_token": token,
        "service": _service(challenge),
        "client_id": "swarm",
        "scope": " ".join(_all_scopes(challenge, scopes)),
    }


def _service(challenge: Challenge) -> str:
    return challenge.parameters.get("service", "")


def _all_scopes(challenge: Challenge, scopes: Iterable[str]) -> list[str]:
    asked = challenge.parameters.get("scope", "").split()
    return list(dict.fromkeys([*scopes, *asked]))
