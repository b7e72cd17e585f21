"""What a container must not do to the host, however it is arranged inside."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from runtime.errors import Unsupported
from runtime.oci import MASKED_PATHS
from tests.privileged.runtime.bench import Bench, run


def _owner_and_mode(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_uid, status.st_gid, status.st_mode


@pytest.mark.parametrize("how", ["start", "exec"])
@pytest.mark.parametrize("uid", [0, 4321])
def test_the_hosts_null_device_stays_as_it_is(how: str, uid: int) -> None:
    async def story(bench: Bench) -> None:
        before = _owner_and_mode("/dev/null")
        (bench.rootfs / "bin" / "chmod").symlink_to("busybox")
        words = ["sh", "-c", "exec 2>&1; chmod 600 /proc/self/fd/0; cat; echo read"]
        try:
            if how == "start":
                await bench.run("c", *words, uid=uid)
                assert bench.output("c").endswith("read\n")
            else:
                await bench.supervisor.start(bench.launch("c", "sleep", "60"))
                process = bench.launch("c", *words, uid=uid).config["process"]
                running = await bench.supervisor.exec("c", process, None)
                assert await running.wait() == 0
                running.close()
            assert _owner_and_mode("/dev/null") == before
        finally:
            os.chown("/dev/null", before[0], before[1])
            os.chmod("/dev/null", before[2] & 0o7777)

    run(story)


def test_a_device_directory_of_the_containers_own_masks_nothing_with_its_links() -> None:
    async def story(bench: Bench) -> None:
        devices = bench.base / "dev"
        devices.mkdir()
        (devices / "null").symlink_to("/proc/sys/kernel/core_pattern")
        bind = {"destination": "/dev", "type": "bind", "source": str(devices)}
        hidden = next(path for path in MASKED_PATHS if os.path.isfile(path))
        script = f"grep ' {hidden} ' /proc/self/mountinfo; ls -lL {hidden}"
        await bench.run("c", "sh", "-c", script, mounts=[{**bind, "options": ["rbind"]}])
        text = bench.output("c")
        assert f" /null {hidden} " in text
        assert "1,   3" in text

    run(story)


def test_what_is_to_be_masked_or_read_only_need_not_be_on_the_host() -> None:
    async def story(bench: Bench) -> None:
        for name in ("hidden", "kept"):
            (bench.rootfs / name).mkdir()
            (bench.rootfs / name / "file").write_text("secret")
        (bench.rootfs / "single").write_text("secret")
        script = "exec 2>&1; ls /hidden; cat /single; echo x > /kept/new; echo done"
        launch = bench.launch("c", "sh", "-c", script)
        launch.config["linux"]["maskedPaths"] += ["/hidden", "/single", "/absent"]
        launch.config["linux"]["readonlyPaths"] += ["/kept", "/absent"]
        await bench.supervisor.start(launch)
        await bench.supervisor.wait("c")
        text = bench.output("c")
        assert "secret" not in text
        assert "file" not in text.replace("Read-only file system", "")
        assert text.endswith("done\n")
        assert not (bench.rootfs / "kept" / "new").exists()

    run(story)


@pytest.mark.parametrize("place", ["/proc", "/proc/self", "/proc/sys/kernel"])
def test_nothing_is_mounted_over_the_kernels_word(place: str) -> None:
    async def story(bench: Bench) -> None:
        bind = {"destination": place, "type": "bind", "source": str(bench.base)}
        with pytest.raises(Unsupported, match="inside /proc"):
            await bench.supervisor.start(bench.launch("c", "true", mounts=[bind]))
        uptime = bench.base / "uptime"
        uptime.write_text("7.00 1.00\n")
        allowed = {"destination": "/proc/uptime", "type": "bind", "source": str(uptime)}
        await bench.run("c", "cat", "/proc/uptime", mounts=[allowed])
        assert bench.output("c") == "7.00 1.00\n"

    run(story)


def test_an_exec_has_the_containers_oom_score() -> None:
    async def story(bench: Bench) -> None:
        await bench.supervisor.start(bench.launch("c", "sleep", "60", oom_score_adj=321))
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        words = ["cat", "/proc/self/oom_score_adj"]
        process = bench.launch("c", *words, oom_score_adj=321).config["process"]
        running = await bench.supervisor.exec("c", process, (null, writer, writer))
        assert await running.wait() == 0
        running.close()
        assert os.read(reader, 100) == b"321\n"
        for fd in (reader, writer, null):
            os.close(fd)

    run(story)


def test_an_attached_client_that_never_reads_does_not_hold_up_the_end() -> None:
    async def story(bench: Bench) -> None:
        attachment = await bench.supervisor.attach("c")
        await bench.supervisor.start(bench.launch("c", "yes"))
        log, sizes = bench.base / "c.log", [0, 1]
        while sizes[-1] < 1 << 20 or sizes[-1] != sizes[-2]:  # until the pump has paused it
            await asyncio.sleep(0.05)
            sizes.append(log.stat().st_size)
        await bench.supervisor.kill("c", signal.SIGKILL)
        assert (await bench.supervisor.wait("c")).exit_code == 128 + signal.SIGKILL
        await attachment.close()

    run(story)
