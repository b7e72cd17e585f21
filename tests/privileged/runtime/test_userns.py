"""Containers in user namespaces: root there is nobody here, and files have one owner everywhere."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from runtime.errors import StartFailed, Unsupported
from runtime.oci import Overlay, default_config
from runtime.supervisor.ids import IdMap
from tests.privileged.runtime.bench import Bench, kill_fork_server, run

IDS = IdMap(((0, 100000, 65536),), ((0, 200000, 65536),))


def overlay(bench: Bench, name: str) -> Overlay:
    top = bench.base / f"{name}.layers"
    for part in ("upper", "work", "merged"):
        (top / part).mkdir(parents=True, exist_ok=True)
    return Overlay((str(bench.rootfs),), str(top / "upper"), str(top / "work"), str(top / "merged"))


async def output(bench: Bench, script: str, name: str = "c", **settings: Any) -> str:
    settings = {"ids": IDS, "overlay": overlay(bench, name), **settings}
    state = await bench.run(name, "sh", "-c", script, **settings)
    shown = bench.output(name)
    assert state.exit_code == 0, (shown, state)
    return shown


async def execute(bench: Bench, name: str, script: str, **settings: Any) -> str:
    reader, writer = os.pipe()
    process = default_config(["sh", "-c", script], ["PATH=/bin"], **settings)["process"]
    running = await bench.supervisor.exec(name, process, (writer, writer, writer))
    os.close(writer)
    assert await running.wait() == 0
    running.close()
    with os.fdopen(reader) as file:
        return file.read()


def bind(source: object, target: str, *words: str) -> dict[str, Any]:
    options = ["rbind", "rprivate", *words]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


@pytest.mark.parametrize("copied", [False, True])
def test_files_have_the_containers_ids_on_disk_and_inside(copied: bool) -> None:
    async def story(bench: Bench) -> None:
        os.chown(bench.rootfs / "bin", 7, 8)
        script = "id; cat /proc/self/uid_map /proc/self/gid_map; ls -ldn /bin; echo x > /made"
        more: dict[str, Any] = {"overlay": None} if copied else {}
        lines = (await output(bench, script, **more)).splitlines()
        assert lines[0].startswith("uid=0 gid=0")
        assert [line.split() for line in lines[1:3]] == [
            ["0", "100000", "65536"],
            ["0", "200000", "65536"],
        ]
        assert lines[3].split()[2:4] == ["7", "8"]
        place = bench.rootfs if copied else bench.base / "c.layers/upper"
        made = os.stat(place / "made")
        assert (made.st_uid, made.st_gid) == (0, 0)

    run(story)


def test_outside_every_process_is_a_subordinate_user() -> None:
    async def story(bench: Bench) -> None:
        launch = bench.launch("c", "sleep", "60", ids=IDS, uid=5, init=True)
        state = await bench.supervisor.start(launch)
        pids = await bench.supervisor.processes("c")
        assert len(pids) == 2
        for pid in pids:
            status = os.stat(f"/proc/{pid}")
            assert (status.st_uid, status.st_gid) == (100005, 200000)
        # and its namespaces are its own: what it may do there, it may do nowhere else
        for kind in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup"):
            theirs = os.readlink(f"/proc/{state.pid}/ns/{kind}")
            assert theirs != os.readlink(f"/proc/self/ns/{kind}")

    run(story)


def test_it_reaches_nothing_that_is_the_hosts_roots() -> None:
    async def story(bench: Bench) -> None:
        secret = bench.base / "secret"
        secret.write_text("s")
        secret.chmod(0o600)
        open_to_all = bench.base / "open"
        open_to_all.write_text("o")
        script = """
            cat /secret && echo read; chown 0 /open && echo owned; chmod 777 /open && echo changed
            echo x > /proc/sys/kernel/panic && echo panicked
            mknod /disk b 1 0 && echo made; mount -t proc p /mnt && echo mounted; true
        """
        mounts = [bind(secret, "/secret"), bind(open_to_all, "/open")]
        shown = await output(bench, script, mounts=mounts, cap_add=["MKNOD"])
        for word in ("read", "owned", "changed", "panicked", "made", "mounted"):
            assert word not in shown.split()
        # not even with the capability to mount: what it mounts is not the host's
        more = """
            mount -o remount,rw /proc/sys; echo x > /proc/sys/kernel/panic && echo panicked
            mount -o bind /secret /bin/ls && cat /bin/ls && echo read; true
        """
        bare = {"cap_add": ["ALL"], "seccomp": "unconfined", "mounts": mounts}
        shown = await output(bench, more, name="d", **bare)
        assert "panicked" not in shown
        assert "read" not in shown.split()

    run(story)


def test_a_mapped_bind_has_the_containers_ids_and_another_the_hosts() -> None:
    async def story(bench: Bench) -> None:
        for name in ("volume", "host"):
            (bench.base / name).mkdir(mode=0o777)
            (bench.base / name).chmod(0o777)
        mounts = [bind(bench.base / "volume", "/v", "idmap"), bind(bench.base / "host", "/h")]
        shown = await output(bench, "echo v > /v/f; echo h > /h/f; ls -ldn /v /h", mounts=mounts)
        assert [line.split()[2] for line in shown.splitlines()] == ["65534", "0"]  # /h before /v
        assert os.stat(bench.base / "volume/f").st_uid == 0
        assert os.stat(bench.base / "host/f").st_uid == 100000
        with pytest.raises(Unsupported, match="idmap at /v needs a user namespace"):
            await bench.supervisor.start(bench.launch("plain", "true", mounts=mounts))

    run(story)


def test_devices_terminals_and_streams_are_the_containers() -> None:
    async def story(bench: Bench) -> None:
        script = """
            echo err > /dev/stderr; echo out > /dev/stdout; echo x > /dev/null
            head -c 1 /dev/zero | wc -c; ls -n /dev/null /dev/mine; chmod 600 /dev/mine
        """
        (bench.rootfs / "bin/wc").symlink_to("busybox")
        (bench.rootfs / "bin/chmod").symlink_to("busybox")
        device = {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "uid": 2, "gid": 3}
        shown = await output(bench, script, uid=0, devices=[device])
        assert {"err", "out", "1"} <= set(shown.split())
        assert ["0", "0"] in [line.split()[2:4] for line in shown.splitlines()]
        assert ["2", "3"] in [line.split()[2:4] for line in shown.splitlines()]
        assert os.stat("/dev/null").st_mode & 0o777 == 0o666
        script = "tty; ls -n /dev/pts/0 /dev/console; echo hi > /dev/tty"
        shown = await output(bench, script, name="t", terminal=True, uid=3)
        assert shown.split()[0] == "/dev/pts/0"
        assert "hi" in shown
        owners = [line.split()[2:4] for line in shown.splitlines() if line.startswith("c")]
        assert owners == [["3", "5"], ["3", "5"]]

    run(story)


def test_an_exec_enters_the_user_namespace() -> None:
    async def story(bench: Bench) -> None:
        launch = bench.launch("c", "sleep", "60", ids=IDS, overlay=overlay(bench, "c"))
        state = await bench.supervisor.start(launch)
        shown = await execute(bench, "c", "cat /proc/self/uid_map; echo o > /dev/stdout; id", uid=7)
        assert shown.split()[:4] == ["0", "100000", "65536", "o"]
        assert "uid=7" in shown
        theirs = os.readlink(f"/proc/{state.pid}/ns/user")
        assert theirs in await execute(bench, "c", "ls -l /proc/self/ns/user; echo x > /by-exec")
        assert os.stat(bench.base / "c.layers/upper/by-exec").st_uid == 0
        await kill_fork_server(bench)
        assert theirs in await execute(bench, "c", "ls -l /proc/self/ns/user")

    run(story)


def test_namespaces_are_shared_within_a_user_namespace_alone() -> None:
    async def story(bench: Bench) -> None:
        mapped = await bench.supervisor.start(bench.launch("m", "sleep", "60", ids=IDS))
        plain = await bench.supervisor.start(bench.launch("p", "sleep", "60"))
        theirs = os.readlink(f"/proc/{mapped.pid}/ns/user")
        for kind in ("pid", "ipc"):
            shared = {kind: f"/proc/{mapped.pid}/ns/{kind}"}
            script = f"ls -l /proc/self/ns/user /proc/self/ns/{kind}"
            shown = await output(bench, script, name=kind, shared_namespaces=shared)
            assert theirs in shown
            assert os.readlink(f"/proc/{mapped.pid}/ns/{kind}") in shown
        launch = bench.launch("net", "ls", "-l", "/proc/self/ns/user", ids=IDS)
        await bench.supervisor.start(dataclasses.replace(launch, netns=f"container:{mapped.pid}"))
        await bench.supervisor.wait("net")
        assert theirs in bench.output("net")
        with pytest.raises(StartFailed, match="--userns host"):
            await bench.supervisor.start(
                dataclasses.replace(launch, container_id="n", netns=f"container:{plain.pid}")
            )
        with pytest.raises(Unsupported, match="network namespace of its own"):
            await bench.supervisor.start(
                dataclasses.replace(launch, container_id="n", netns="host")
            )

    run(story)


def test_a_network_namespace_made_for_it_is_its_own() -> None:
    async def story(bench: Bench) -> None:
        fd = await bench.supervisor.new_netns(IDS)
        launch = bench.launch(
            "c", "sh", "-c", "ip link add x type dummy || true; hostname other && hostname",
            ids=IDS, cap_add=["NET_ADMIN", "SYS_ADMIN"],
        )  # fmt: skip
        (bench.rootfs / "bin/ip").symlink_to("busybox")
        await bench.supervisor.start(dataclasses.replace(launch, netns="fd"), netns_fd=fd)
        os.close(fd)
        assert (await bench.supervisor.wait("c")).exit_code == 0
        assert bench.output("c").split()[-1] == "other"
        assert "not permitted" not in bench.output("c")

    run(story)


def test_what_fails_inside_is_told_and_leaves_nothing() -> None:
    async def story(bench: Bench) -> None:
        with pytest.raises(StartFailed, match='exec: "nope": executable file not found'):
            await bench.supervisor.start(bench.launch("c", "nope", ids=IDS))
        with pytest.raises(StartFailed, match="user 70000 is not among the ids"):
            await bench.supervisor.start(bench.launch("c", "true", ids=IDS, uid=70000))
        broken = IdMap(((0, 100000, 65536),), ())
        with pytest.raises(Unsupported, match="gidMappings"):
            await bench.supervisor.start(bench.launch("c", "true", ids=broken))
        assert await bench.supervisor.list() == []
        assert (await bench.run("c", "true", ids=IDS)).exit_code == 0

    run(story)
