"""Image commands through the docker CLI and through swarmctl, against one daemon."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.engine.machine import Machine

Client = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["docker", "swarmctl"])
def client(request: pytest.FixtureRequest, shared: Machine) -> Client:
    """Runs either client; `code` is what it must exit with."""
    programs = {"docker": ["docker"], "swarmctl": [sys.executable, "-m", "swarmctl.main"]}

    def run(
        *words: str, code: int | None = 0, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*programs[request.param], *words],
            input=stdin,
            capture_output=True,
            timeout=60,
            env={
                **os.environ,
                "DOCKER_BUILDKIT": "0",
                "DOCKER_HOST": f"unix://{shared.run_dir}/swarmd.sock",
            },
            check=False,
        )
        text = subprocess.CompletedProcess(
            words, done.returncode, done.stdout.decode("latin-1"), done.stderr.decode()
        )
        log = (shared.root / "log").read_text()
        assert code in (None, done.returncode), text.stdout + text.stderr + log
        return text

    run.__name__ = str(request.param)
    return run


@pytest.fixture
def fresh(client: Client, tmp_path: Path) -> Iterator[str]:
    """A small image `fresh:1` with a label and two layers, gone afterwards."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM box:1\nLABEL by={client.__name__} from={tmp_path.name}\nRUN echo 1 > /one\n"
        "RUN echo 2 > /two && rm /one\nCMD cat /two\n"
    )
    client("build", "-q", "--network", "none", "-t", "fresh:1", str(tmp_path))
    yield "fresh:1"
    client("rmi", "-f", "fresh:1", code=None)


def ids(client: Client, *words: str) -> list[str]:
    return client("images", "-q", "--no-trunc", *words).stdout.split()


def layers(client: Client, image: str) -> list[str]:
    found: list[str] = json.loads(
        client("image", "inspect", "-f", "{{json .RootFS.Layers}}", image).stdout
    )
    return found


def test_lists_and_filters(client: Client, fresh: str) -> None:
    table = client("images").stdout.splitlines()
    assert table[0].split()[:3] == ["REPOSITORY", "TAG", "IMAGE"]
    assert any(line.split()[:2] == ["fresh", "1"] for line in table)
    (identity,) = ids(client, fresh)
    assert identity in ids(client)
    assert len(ids(client, "-a")) > len(ids(client))
    for words, shown in (
        (("--filter", "reference=fre*"), True),
        (("--filter", "reference=fresh:2"), False),
        (("--filter", f"label=by={client.__name__}"), True),
        (("--filter", "label=by=nobody"), False),
        (("--filter", "dangling=true"), False),
        (("--filter", "dangling=false"), True),
        (("--filter", "since=box:1"), True),
        (("--filter", "before=box:1"), False),
        (("--filter", "until=1h"), False),
        (("--filter", "until=2100-01-01T00:00:00Z"), True),
    ):
        assert (identity in ids(client, *words)) == shown, words
    assert "invalid" in client("images", "--filter", "dangling=maybe", code=1).stderr
    assert client("images", "--format", "{{.Repository}}/{{.Tag}}", fresh).stdout == "fresh/1\n"
    assert "<none>" in client("images", "--digests", fresh).stdout


def test_tags_and_removal(client: Client, fresh: str) -> None:
    client("tag", fresh, "again:2")
    assert client("rmi", "again:2").stdout == "Untagged: again:2\n"
    gone = client("rmi", fresh).stdout.splitlines()
    assert gone[0] == "Untagged: fresh:1"
    assert all(line.startswith("Deleted: sha256:") for line in gone[1:])
    assert len(gone) == 1 + 4 + 2, "four steps were images, two of them had layers"
    missing = client("rmi", fresh, code=1)
    assert "No such image: fresh:1" in missing.stderr


def test_an_image_in_use_stays(client: Client, fresh: str, shared: Machine) -> None:
    shared.docker("create", "--name", "user", "--net=none", fresh)
    try:
        refused = client("rmi", fresh, code=1).stderr
        assert 'unable to remove repository reference "fresh:1" (must force)' in refused
        (identity,) = ids(client, fresh)
        refused = client("rmi", identity, code=1).stderr
        assert "(must be forced) - image is being used by stopped container" in refused
        assert "Untagged: fresh:1" in client("rmi", "-f", fresh).stdout
        assert shared.docker("start", "-a", "user").stdout == b"2\n"
    finally:
        shared.docker("rm", "-f", "user")


def test_history_and_squash(client: Client, fresh: str) -> None:
    rows = client("history", "--no-trunc", "--format", "{{.CreatedBy}}", fresh).stdout.splitlines()
    assert rows[0] == '/bin/sh -c #(nop)  CMD ["/bin/sh" "-c" "cat /two"]'
    assert rows[2] == "/bin/sh -c echo 1 > /one"
    assert len(client("history", "-q", fresh).stdout.split()) == len(rows)
    if client.__name__ == "docker":
        return
    before = layers(client, fresh)
    client("image", "squash", fresh, "-t", "flat:1")
    client("image", "squash", fresh, "-t", "flat:2", "--from", "box:1")
    assert len(layers(client, "flat:1")) == 1
    assert layers(client, "flat:2")[:1] == before[:1]
    assert len(layers(client, "flat:2")) == 2
    assert client("run", "--rm", "--net", "none", "flat:1").stdout == "2\n"
    assert client("run", "--rm", "--net", "none", "flat:2", "ls", "/one", code=1).stdout == ""
    client("rmi", "flat:1", "flat:2")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_save_and_load(client: Client, fresh: str, tmp_path: Path, packed: bool) -> None:
    target = tmp_path / "saved.tar"
    client("save", "-o", str(target), fresh, "box:1")
    with tarfile.open(target) as tar:
        names = set(tar.getnames())
        assert {"manifest.json", "index.json", "oci-layout"} <= names
        entries = json.load(tar.extractfile("manifest.json") or io.BytesIO())
    assert [entry["RepoTags"] for entry in entries] == [["fresh:1"], ["box:1"]]
    content = target.read_bytes()
    (identity,) = ids(client, fresh)
    client("rmi", fresh)
    loaded = client("load", stdin=gzip.compress(content, 1) if packed else content).stdout
    assert "Loaded image: fresh:1\nLoaded image: box:1\n" in loaded
    assert ids(client, fresh) == [identity]
    assert "neither manifest.json" in client("load", stdin=b"\0" * 10240, code=1).stderr


def test_a_platform_is_the_images_or_refused(client: Client, fresh: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    own = client("image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", fresh).stdout.strip()
    client("save", "--platform", own, "-o", str(path), fresh)
    lines = (
        ("history", "-q"), ("image", "inspect"), ("save", "-o", str(tmp_path / "b")), ("rmi",),
    )  # fmt: skip
    for words in lines:
        complaint = client(*words, "--platform", "linux/s390x", fresh, code=1).stderr
        assert "does not provide the specified platform (linux/s390x)" in complaint
        if words != ("rmi",):
            client(*words, "--platform", own, fresh)
    refused = client("load", "--platform", "linux/s390x", "-i", str(path), code=1).stderr
    assert "platform linux/s390x cannot be loaded" in refused
    client("load", "--platform", own, "-i", str(path))
    client("rmi", "--platform", own, fresh)


def test_a_bare_repository_is_saved_whole(client: Client, fresh: str, tmp_path: Path) -> None:
    repository = fresh.partition(":")[0]
    client("tag", fresh, f"{repository}:other")
    client("save", "-o", str(tmp_path / "all.tar"), repository)
    with tarfile.open(tmp_path / "all.tar") as tar:
        (entry,) = json.load(tar.extractfile("manifest.json") or io.BytesIO())
    assert entry["RepoTags"] == [fresh, f"{repository}:other"]
    client("rmi", f"{repository}:other")


def test_an_archive_of_an_older_docker(client: Client, tmp_path: Path) -> None:
    """Before 25: layers in directories, equal ones as links, no blobs."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        info = tarfile.TarInfo("f")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    import hashlib

    digest = "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]}}
    ).encode()
    manifest = [{"Config": "c.json", "RepoTags": ["old:1"], "Layers": ["b/layer.tar"]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (
            ("a/layer.tar", layer.getvalue()),
            ("c.json", config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        tar.addfile(link)
    assert client("load", stdin=out.getvalue()).stdout == "Loaded image: old:1\n"
    client("rmi", "old:1")


def rootfs(compression: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        info = tarfile.TarInfo("f")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    return out.getvalue()


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_import(client: Client, tmp_path: Path, compression: str) -> None:
    file = tmp_path / "root.tar"
    file.write_bytes(rootfs(compression))
    made = client(
        *("import", "-c", 'CMD ["/f"]', "-c", "ENV a=b", "-m", "mine", str(file), "imported:1")
    ).stdout
    assert made.startswith("sha256:")
    shown = client("image", "inspect", "-f", "{{json .Config}}", "imported:1").stdout
    assert json.loads(shown)["Cmd"] == ["/f"]
    assert json.loads(shown)["Env"] == ["a=b"]
    assert "mine" in client("history", "imported:1").stdout
    assert client("import", "-", "piped:1", stdin=file.read_bytes()).stdout.startswith("sha256:")
    client("rmi", "piped:1")
    assert "RUN is not a valid change" in client("import", "-c", "RUN x", str(file), code=1).stderr
    client("rmi", "imported:1")


def test_prune(client: Client, fresh: str, tmp_path: Path) -> None:
    client("import", "-", stdin=rootfs())
    client("image", "prune", "-f", "--filter", "label=no=such")
    assert ids(client, "--filter", "dangling=true")
    pruned = client("image", "prune", "-f").stdout
    assert pruned.startswith("Deleted Images:\ndeleted: sha256:")
    assert "Total reclaimed space: " in pruned
    assert ids(client, "--filter", "dangling=true") == []
    client("image", "prune", "-af", "--filter", "until=1h")
    assert ids(client, fresh)
    refused = client("image", "prune", stdin=b"n\n", code=None).stdout
    assert "WARNING! This will remove all dangling images." in refused
    label = f"label=from={tmp_path.name}"
    assert "untagged: fresh:1" in client("image", "prune", "-af", "--filter", label).stdout


def test_import_of_an_address(shared: Machine, client: Client, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(rootfs("gz"))
    server = subprocess.Popen(
        shared.inside(
            *("busybox", "httpd", "-f", "-v", "-p", "127.0.0.1:18081", "-h", str(tmp_path))
        ),
        stderr=subprocess.DEVNULL,
    )
    try:
        fetch = shared.inside("busybox", "wget", "-qO-", "http://127.0.0.1:18081/root.tar")
        for _ in range(200):
            if subprocess.run(fetch, capture_output=True, check=False).returncode == 0:
                break
        done = client("import", "http://127.0.0.1:18081/root.tar", "remote:1").stdout
        assert "sha256:" in done
        missing = client("import", "http://127.0.0.1:18081/none", code=1).stderr
        assert "404" in missing
    finally:
        server.kill()
        server.wait()
    client("rmi", "remote:1")
