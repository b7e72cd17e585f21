"""Logins of registries, in the Docker CLI's file and through its credential helpers."""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from typing import Any

from swarmapi import imagename
from swarmctl.errors import ClientError

HUB = "https://index.docker.io/v1/"
"""The name Docker Hub's credentials are kept under."""
_HUB_NAMES = {"", "docker.io", "index.docker.io", "registry-1.docker.io"}
_TOKEN_USER = "<token>"
_NOT_FOUND = "credentials not found in native keychain"

Login = dict[str, str]
"""username and password, or identitytoken; and serveraddress. Empty where nobody logged in."""


def registry_of(image: str) -> str:
    """Return the name credentials of an image's registry are kept under."""
    return address(imagename.registry_of(image))


def address(server: str) -> str:
    """Return the name a server's credentials are kept under: a bare host, Docker Hub's URL."""
    host = server.partition("://")[2] if "://" in server else server
    host = host.partition("/")[0]
    return HUB if host in _HUB_NAMES else host


def config_path(environment: Mapping[str, str] = os.environ) -> str:
    """Return the path of the Docker CLI's configuration."""
    folder = environment.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return os.path.join(folder, "config.json")


class Credentials:
    """The file, read once; raises ClientError where it is damaged."""

    def __init__(self, path: str) -> None:
        self.path = path
        found: Any = {}
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise ClientError(f"cannot read {path}: {error}") from error
        if not isinstance(found, dict) or not isinstance(found.get("auths") or {}, dict):
            raise ClientError(f"cannot read {path}: it holds no JSON object of logins")
        self._config: dict[str, Any] = found

    def get(self, server: str) -> Login:
        """Return the login of a registry, empty where there is none."""
        if helper := self.helper(server):
            return _from_helper(helper, server)
        for name, entry in self._auths().items():
            if address(name) == server and isinstance(entry, dict):
                return _from_entry(entry, server, self.path)
        return {}

    def all(self) -> dict[str, Login]:
        """Return every login by registry; a helper is asked for what the file names."""
        names = {*self._auths(), *self._config.get("credHelpers", {})}
        found = {name: self.get(address(name)) for name in names}
        return {name: login for name, login in found.items() if login}

    def put(self, server: str, login: Login) -> None:
        """Keep a login."""
        if helper := self.helper(server):
            secret = login.get("identitytoken") or login["password"]
            user = _TOKEN_USER if login.get("identitytoken") else login["username"]
            _ask(helper, "store", {"ServerURL": server, "Username": user, "Secret": secret})
            self._config.setdefault("auths", {})[server] = {}
        else:
            pair = f"{login['username']}:{login['password']}".encode()
            entry = {"auth": base64.b64encode(pair).decode()}
            if login.get("identitytoken"):
                entry["identitytoken"] = login["identitytoken"]
            self._config.setdefault("auths", {})[server] = entry
        self._write()

    def remove(self, server: str) -> None:
        """Forget a login."""
        if helper := self.helper(server):
            _ask(helper, "erase", server)
        for name in [name for name in self._auths() if address(name) == server]:
            del self._config["auths"][name]
        self._write()

    def helper(self, server: str) -> str:
        """Return the credential helper of a registry, empty where the file keeps its login."""
        helpers = self._config.get("credHelpers", {})
        return str(helpers.get(server) or self._config.get("credsStore") or "")

    def _auths(self) -> Any:
        return self._config.get("auths") or {}

    def _write(self) -> None:
        import tempfile

        folder = os.path.dirname(self.path)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            fd, partial = tempfile.mkstemp(prefix=".config-", dir=folder)  # mode 0600
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump(self._config, file, indent="\t")
            os.replace(partial, os.path.realpath(self.path))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ClientError(f"cannot write {self.path}: {reason}") from error


def auth_header(login: Login) -> dict[str, str]:
    """Return X-Registry-Auth."""
    return {"X-Registry-Auth": _encoded(login)}


def build_header() -> dict[str, str]:
    """Return X-Registry-Config: every login, for the base images of a build."""
    return {"X-Registry-Config": _encoded(Credentials(config_path()).all())}


def header_for(image: str) -> dict[str, str]:
    """Return X-Registry-Auth with the login of an image's registry."""
    return auth_header(Credentials(config_path()).get(registry_of(image)))


def _encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def _from_entry(entry: dict[str, Any], server: str, path: str) -> Login:
    login = {"serveraddress": server}
    if entry.get("identitytoken"):
        return {**login, "identitytoken": str(entry["identitytoken"])}
    if not entry.get("auth"):
        return {}
    try:
        user, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError) as error:
        raise ClientError(f"cannot read {path}: the login of {server} is damaged") from error
    return {**login, "username": user, "password": password.rstrip("\0")}


def _from_helper(helper: str, server: str) -> Login:
    answer = _ask(helper, "get", server)
    if not answer:
        return {}
    try:
        found = json.loads(answer)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise ClientError(f"docker-credential-{helper} answered no credentials") from error
    if user == _TOKEN_USER:
        return {"serveraddress": server, "identitytoken": secret}
    return {"serveraddress": server, "username": user, "password": secret}


def _ask(helper: str, action: str, question: Any) -> str:
    """Run a credential helper; empty where it knows nothing of the server."""
    import subprocess

    program = f"docker-credential-{helper}"
    text = question if isinstance(question, str) else json.dumps(question)
    try:
        done = subprocess.run(
            [program, action], input=text, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ClientError(f"cannot run {program}: {(error.strerror or '').lower()}") from error
    if done.returncode == 0:
        return done.stdout
    if _NOT_FOUND in done.stdout:
        return ""
    raise ClientError(f"{program} {action} failed: {(done.stdout or done.stderr).strip()}")
