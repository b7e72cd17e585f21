"""pull, push, login, logout, search; the logins in the Docker CLI's file."""

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from swarmctl.credentials import Credentials, address, registry_of
from swarmctl.errors import ClientError
from tests.unit.swarmctl.conftest import Run
from tests.unit.swarmctl.daemon import Daemon, Reply, lines, refusal

LAYER = {"status": "Pull complete", "progressDetail": {}, "id": "0123456789ab"}
HUB = "https://index.docker.io/v1/"


def sent_login(daemon: Daemon, path: str) -> Any:
    (seen,) = (seen for seen in daemon.seen if seen.path == path)
    return json.loads(base64.urlsafe_b64decode(seen.headers["X-Registry-Auth"]))


def config(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "docker/config.json").read_text())


def log_in(ctl: Run, monkeypatch: pytest.MonkeyPatch, server: str = "r.example:5000") -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("sekret\n"))
    result = ctl("login", "-u", "alice", "--password-stdin", server)
    assert result.code == 0, result.err
    assert result.out == "Login Succeeded\n"
    assert "stored unencrypted" in result.err


def test_pull_names_what_it_fetched(daemon: Daemon, ctl: Run) -> None:
    daemon.on("POST", "/images/create", lines(LAYER))
    result = ctl("pull", "--platform", "linux/arm64", "bb")
    assert result.out == (
        "Using default tag: latest\n0123456789ab: Pull complete\ndocker.io/library/bb:latest\n"
    )
    expected = {"fromImage": "bb", "tag": "latest", "platform": "linux/arm64"}
    assert daemon.seen[-1].query == expected
    assert ctl("pull", "-q", "r.example/x:2").out == "r.example/x:2\n"
    digest = "sha256:" + "0" * 64
    ctl("pull", f"r.example/x@{digest}")
    assert daemon.seen[-1].query == {"fromImage": "r.example/x", "tag": digest}
    assert ctl("pull", "-a", "localhost:5000/x").out.endswith("\nlocalhost:5000/x\n")
    assert daemon.seen[-1].query == {"fromImage": "localhost:5000/x"}
    assert ctl("pull", "-a", "x:1").err == "tag can't be used with --all-tags/-a\n"


def test_push_sends_the_login_of_the_registry(
    daemon: Daemon, ctl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.on("POST", "/auth", {"IdentityToken": "", "Status": "Login Succeeded"})
    log_in(ctl, monkeypatch)
    aux = {"progressDetail": {}, "aux": {"Tag": "1", "Digest": "sha256:0", "Size": 5}}
    done = {"status": "1: digest: sha256:0 size: 5"}
    daemon.on("POST", "/images/r.example:5000/x/push", lines(done, aux))
    assert ctl("push", "r.example:5000/x:1").out == "1: digest: sha256:0 size: 5\n"
    assert daemon.seen[-1].query == {"tag": "1"}
    login = sent_login(daemon, "/images/r.example:5000/x/push")
    expected = {"username": "alice", "password": "sekret", "serveraddress": "r.example:5000"}
    assert login == expected
    assert ctl("push", "-a", "r.example:5000/x").code == 0
    assert daemon.seen[-1].query == {}
    assert ctl("push", "r.example:5000/x@sha256:" + "0" * 64).code == 1


def test_login_and_logout_keep_dockers_file(
    daemon: Daemon, ctl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.on("POST", "/auth", {"IdentityToken": "", "Status": "Login Succeeded"})
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text('{"psFormat": "kept"}')
    log_in(ctl, monkeypatch)
    pair = base64.b64encode(b"alice:sekret").decode()
    assert config(tmp_path) == {"psFormat": "kept", "auths": {"r.example:5000": {"auth": pair}}}
    assert os.stat(tmp_path / "docker/config.json").st_mode & 0o777 == 0o600
    log_in(ctl, monkeypatch, "")
    assert daemon.seen[-1].body["serveraddress"] == HUB
    again = ctl("login", "https://r.example:5000/v2/")
    assert again.out.startswith("Authenticating with existing credentials...")
    assert daemon.seen[-1].body["username"] == "alice"
    out = ctl("logout", "r.example:5000").out
    assert out == "Removing login credentials for r.example:5000\n"
    assert list(config(tmp_path)["auths"]) == [HUB]


def test_a_refused_login_is_not_kept(
    daemon: Daemon, ctl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.on("POST", "/auth", refusal(401, "login attempt failed"))
    monkeypatch.setattr("sys.stdin", io.StringIO("wrong"))
    result = ctl("login", "-u", "alice", "--password-stdin", "r.example")
    assert result.code == 1
    assert result.err.endswith("login attempt failed\n")
    assert not (tmp_path / "docker/config.json").exists()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "without a terminal" in ctl("login", "r.example").err


def test_a_credential_helper_keeps_the_secret(
    daemon: Daemon, ctl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "bin/docker-credential-vault"
    helper.parent.mkdir()
    helper.write_text(
        f"""#!/bin/sh
case $1 in
store) cat > {tmp_path}/vault ;;
get) [ -e {tmp_path}/vault ] && exec cat {tmp_path}/vault
     echo credentials not found in native keychain; exit 1 ;;
erase) rm {tmp_path}/vault ;;
esac
"""
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text('{"credsStore": "vault"}')
    daemon.on("POST", "/auth", {"IdentityToken": "", "Status": "Login Succeeded"})
    monkeypatch.setattr("sys.stdin", io.StringIO("sekret"))
    result = ctl("login", "-u", "alice", "--password-stdin", "r.example")
    assert "unencrypted" not in result.err
    assert config(tmp_path)["auths"] == {"r.example": {}}
    kept = Credentials(str(tmp_path / "docker/config.json"))
    assert kept.get("r.example")["password"] == "sekret"
    assert list(kept.all()) == ["r.example"]
    ctl("logout", "r.example")
    assert kept.get("r.example") == {}


def test_search(daemon: Daemon, ctl: Run) -> None:
    few = {"name": "few", "description": "x" * 60, "star_count": 1, "is_official": False}
    many = {"name": "many", "description": "d", "star_count": 9, "is_official": True}
    body = json.dumps([few, many]).encode()
    daemon.on("GET", "/images/search", Reply(200, (body,)))
    rows = [line.split() for line in ctl("search", "--limit", "5", "box").out.splitlines()]
    assert rows == [
        ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"],
        ["many", "d", "9", "[OK]"],
        ["few", "x" * 44 + "…", "1"],
    ]
    assert daemon.seen[-1].query == {"term": "box", "limit": "5"}
    daemon.on("GET", "/images/search", refusal(501, "registry r.example has no search"))
    assert ctl("search", "r.example/box").err.endswith("registry r.example has no search\n")


def test_where_logins_are_kept() -> None:
    assert [registry_of(name) for name in ("bb", "me/bb", "docker.io/me/bb")] == [HUB] * 3
    assert registry_of("localhost/bb") == "localhost"
    assert registry_of("r.example:5000/a/b:1") == "r.example:5000"
    assert address("https://r.example/v1/") == "r.example"


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"auths": 5}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ClientError, match="cannot read"):
        Credentials(str(tmp_path / "config.json"))
