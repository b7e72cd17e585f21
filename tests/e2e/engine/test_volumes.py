"""Volumes and mounts of one machine, by the docker CLI and by swarmctl."""

import json
import signal
import subprocess
import tarfile
import time
from pathlib import Path

from tests.e2e.engine.clients import Client
from tests.e2e.engine.machine import Machine
from tests.e2e.lab import connect


def build_image(client: Client, tag: str) -> None:
    """Make an image with a directory /data of its own, owned by 7:8, mode 1770."""
    rootfs = client.machine.root / "rootfs"
    with tarfile.open(client.machine.root / "data.tar", "w") as tar:
        tar.add(rootfs, ".")
        for name, kind, mode in (
            ("data", tarfile.DIRTYPE, 0o1770),
            ("data/sub", tarfile.DIRTYPE, 0o755),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid = kind, mode, 7, 8
            tar.addfile(entry)
        entry = tarfile.TarInfo("data/away")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
        note = client.machine.root / "note"
        note.write_text("from the image\n")
        tar.add(note, "data/sub/note")
    client.good("import", "-c", "VOLUME /data", str(client.machine.root / "data.tar"), tag)


def test_a_volume_from_create_to_prune(client: Client) -> None:
    assert client.out("volume", "create", "--label", "q=1", "v1") == "v1"
    assert client.out("volume", "create", "v1") == "v1"
    shown = client.inspect("volume", "inspect", "v1")
    assert (shown["Labels"], shown["Driver"], shown["Scope"]) == ({"q": "1"}, "local", "local")
    client.good("volume", "create", "v2")
    anonymous = client.out("volume", "create")
    assert len(anonymous) == 64
    run = ["run", "--name", "c1", "-v", "v1:/data", "-v", "/anon", "box:1"]
    client.good(*run, "sh", "-c", "echo kept > /data/f; echo gone > /anon/f")
    assert client.out("run", "--rm", "-v", "v1:/x:ro", "box:1", "cat", "/x/f") == "kept"
    listing = ["volume", "ls", "-q"]
    assert set(client.out(*listing, "-f", "dangling=true").split()) == {"v2", anonymous}
    assert client.out(*listing, "-f", "label=q=1") == "v1"
    assert client.out(*listing, "-f", "name=v2") == "v2"
    own = next(m for m in client.inspect("inspect", "c1")["Mounts"] if m["Destination"] == "/anon")
    in_use = client.refused("volume", "rm", "v1")
    assert "remove v1: volume is in use - [" in in_use
    client.good("rm", "-v", "c1")
    assert own["Name"] not in client.out(*listing)
    assert anonymous in client.out("volume", "prune", "-f")
    assert client.out(*listing).split() == ["v1", "v2"]
    assert "v1" in client.out("volume", "prune", "-a", "-f", "--filter", "label!=x", "--filter",
                       "label=q")  # fmt: skip
    assert client.out("volume", "rm", "v2") == "v2"
    assert "get nosuch: no such volume" in client.refused("volume", "rm", "nosuch")
    client.good("volume", "rm", "-f", "nosuch")
    assert "includes invalid characters" in client.refused("volume", "create", "a/b")
    assert "too short" in client.refused("volume", "create", "a")


def test_before_142_a_prune_takes_named_volumes_too(shared: Machine) -> None:
    shared.docker("volume", "create", "v1")
    connection = connect(f"{shared.run_dir}/swarmd.sock")
    try:
        connection.request("POST", "/v1.41/volumes/prune")
        assert json.loads(connection.getresponse().read())["VolumesDeleted"] == ["v1"]
    finally:
        connection.close()


def test_an_empty_volume_takes_what_the_image_has(client: Client) -> None:
    build_image(client, "data:1")
    show = ["sh", "-c", "stat -c '%u %g %a' /data; cat /data/sub/note; ls /data"]
    expected = "7 8 1770\nfrom the image\naway\nsub"
    assert client.out("run", "--rm", "data:1", *show) == expected
    assert client.out("run", "--rm", "-v", "v1:/data", "data:1", *show) == expected
    client.good("run", "--rm", "-v", "v1:/data", "data:1", "rm", "/data/sub/note")
    assert client.out("run", "--rm", "-v", "v1:/data", "data:1", "ls", "/data/sub") == ""
    assert client.out("run", "--rm", "-v", "v2:/data:nocopy", "data:1", "ls", "/data") == ""
    mount = "type=volume,src=v3,dst=/data,volume-nocopy"
    assert client.out("run", "--rm", "--mount", mount, "data:1", "ls", "/data") == ""
    assert client.out("volume", "ls", "-q").split() == ["v1", "v2", "v3"]


def test_driver_options_mount_a_bind_or_a_tmpfs_while_they_are_used(
    client: Client, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "note").write_text("outside\n")
    words = ["-o", "type=none", "-o", "o=bind,ro", "-o", f"device={place}"]
    client.good("volume", "create", *words, "bound")
    assert client.out("run", "--rm", "-v", "bound:/b", "box:1", "cat", "/b/note") == "outside"
    failed = client.run("run", "--rm", "-v", "bound:/b", "box:1", "touch", "/b/x")
    assert "Read-only file system" in failed.err
    words = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=5"]
    client.good("volume", "create", *words, "fast")
    first = ["run", "-d", "--name", "c1", "-v", "fast:/f", "box:1"]
    client.good(*first, "sh", "-c", "echo shared > /f/x; exec sleep 100")
    client.machine.stop(signal.SIGKILL)
    client.machine.start()
    words = ["run", "--rm", "-v", "fast:/f", "box:1", "sh", "-c", "stat -c %u /f; cat /f/x"]
    assert client.out(*words) == "5\nshared"
    client.good("rm", "-f", "c1")
    mounts = subprocess.run(["cat", "/proc/mounts"], capture_output=True, text=True).stdout
    assert str(client.machine.data / "volumes") not in mounts
    assert "missing required option" in client.refused("volume", "create", "-o", "type=tmpfs", "v9")
    assert 'invalid option: "x"' in client.refused("volume", "create", "-o", "x=y", "v9")
    missing = ["-o", "type=none", "-o", "o=bind", "-o", "device=/nowhere"]
    client.good("volume", "create", *missing, "lost")
    gone = client.refused("run", "--rm", "-v", "lost:/b", "box:1", "true", code=127)
    assert "failed to mount local volume: mount /nowhere" in gone
    assert "no such file system" in client.refused(
        "volume", "create", "-o", "type=nosuchfs", "-o", "device=x", "v9"
    )


def test_mounts_and_their_options(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text\n")
    source = str(tmp_path)
    bind = f"type=bind,src={source},dst=/b"
    assert client.out("run", "--rm", "--mount", bind, "box:1", "cat", "/b/f") == "text"
    for words in (["--mount", bind + ",readonly"], ["-v", f"{source}:/b:ro"]):
        failed = client.run("run", "--rm", *words, "box:1", "touch", "/b/x")
        assert "Read-only" in failed.err
    client.good("run", "--rm", "--mount", bind + ",bind-propagation=rslave", "box:1", "true")
    for recursion in ("disabled", "writable"):
        top = bind + f",readonly,bind-propagation=rprivate,bind-recursive={recursion}"
        failed = client.run("run", "--rm", "--mount", top, "box:1", "touch", "/b/x")
        assert "Read-only" in failed.err
    assert "bind source path does not exist" in client.refused(
        "run",
        "--rm",
        "--mount",
        "type=bind,src=/nowhere,dst=/b",
        "box:1",
        "true",
        code=125,
    )
    assert "invalid mode" in client.refused("run", "-v", "v:/b:rshared", "box:1", "true", code=125)
    client.good("run", "--rm", "-v", f"{source}:/b:z", "box:1", "true")
    client.good("run", "--rm", "-v", "deep:/v", "box:1", "mkdir", "/v/sub")
    inner = "type=volume,src=deep,dst=/s,volume-subpath=sub"
    client.good("run", "--rm", "--mount", inner, "box:1", "touch", "/s/made")
    assert client.out("run", "--rm", "-v", "deep:/v", "box:1", "ls", "/v/sub") == "made"
    absent = client.refused("run", "--rm", "--mount", inner + "/none", "box:1", "true", code=127)
    assert "cannot access path" in absent
    client.good("run", "--rm", "-v", "deep:/v", "box:1", "sh", "-c", "cd /v; busybox ln -s /etc x")
    away = inner.replace("=sub", "=x")
    assert "cannot access path" in client.refused(
        "run", "--rm", "--mount", away, "box:1", "true", code=127
    )


def test_tmpfs_options(client: Client) -> None:
    show = ["box:1", "sh", "-c", "grep ' /t ' /proc/mounts"]
    shown = client.out("run", "--rm", "--tmpfs", "/t:exec,size=1m,mode=700", *show)
    assert "size=1024k" in shown
    assert "mode=700" in shown
    assert "noexec" not in shown
    assert "nosuid" in shown
    assert "noexec" in client.out("run", "--rm", "--tmpfs", "/t", *show)
    words = "type=tmpfs,dst=/t,tmpfs-size=2m,tmpfs-mode=1770,readonly"
    shown = client.out("run", "--rm", "--mount", words, *show)
    assert "size=2048k" in shown
    assert "mode=1770" in shown
    assert " ro," in shown
    wrong = client.refused("run", "--rm", "--tmpfs", "/t:colour=red", "box:1", "true", code=125)
    assert 'invalid tmpfs option ["colour=red"]' in wrong


def test_volume_events(client: Client) -> None:
    since = f"{time.time():.9f}"
    client.good("run", "--rm", "-v", "v1:/data", "box:1", "true")
    client.good("volume", "rm", "v1")
    now = f"{time.time():.9f}"
    words = ["events", "--since", since, "--until", now, "--filter", "type=volume"]
    shown = client.out(*words, "--format", "{{.Action}} {{.Actor.ID}}").splitlines()
    assert shown == ["create v1", "mount v1", "unmount v1", "destroy v1"]


def test_a_volume_does_not_hide_the_files_of_the_network(client: Client) -> None:
    shown = client.out("run", "--rm", "-v", "v1:/etc", "-h", "box", "box:1", "cat", "/etc/hosts")
    assert "\tbox" in shown
