"""RUN of a build: one throw-away container per step, on the supervisor."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import NoSuchContainer
from runtime.oci import Launch, LogConfig, Overlay, default_config
from swarmapi.errors import Unsupported
from worker.engine.bundle import resources_of
from worker.engine.ports import JoinRequest, Networking, Supervisor
from worker.engine.rootfs import read_member, resolve_user
from worker.engine.spec import EndpointSpec, HostConfig

Output = Callable[[str, bytes], None]
KILLED_EXIT_CODE = 137


class Stepper:
    """Runs build steps; called from a worker thread, works on the engine's loop."""

    def __init__(
        self,
        supervisor: Supervisor,
        networking: Networking,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._supervisor = supervisor
        self._networking = networking
        self._random_bytes = random_bytes
        self._loop = asyncio.get_running_loop()

    def run(
        self,
        lower: tuple[Path, ...],
        upper: Path,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        user: str,
        hostname: str,
        network: str,
        limits: Mapping[str, int],
        output: Output,
    ) -> int:
        """Run a step to its end; changes land in `upper`; return the exit code."""
        step_id = self._random_bytes(32).hex()
        layers = [str(upper), *(str(path) for path in lower)]
        account = resolve_user(
            user, (), read_member(layers, "etc/passwd"), read_member(layers, "etc/group")
        )
        work = upper.parent / f"{upper.name}.work"
        merged = upper.parent / f"{upper.name}.merged"
        work.mkdir()
        merged.mkdir()
        config = default_config(
            argv,
            [f"{name}={value}" for name, value in env.items()],
            cwd,
            hostname,
            str(merged),
            uid=account["uid"],
            gid=account["gid"],
            additional_gids=account.get("additionalGids", ()),
            mounts=self._files(upper.parent, hostname),
            resources=_resources(limits),
        )
        overlay = Overlay(tuple(map(str, lower)), str(upper), str(work), str(merged))
        try:
            return asyncio.run_coroutine_threadsafe(
                self._run(step_id, config, overlay, network, output), self._loop
            ).result()
        finally:
            shutil.rmtree(work, ignore_errors=True)

    async def _run(
        self,
        step_id: str,
        config: dict[str, Any],
        overlay: Overlay,
        network: str,
        output: Output,
    ) -> int:
        netns, netns_fd = await self._network(step_id, network, config["hostname"])
        launch = Launch(
            container_id=step_id,
            config=config,
            overlay=overlay,
            log=LogConfig("none", "", 0, 1),
            stdin_open=False,
            netns=netns,
        )
        try:
            attachment = await self._supervisor.attach(step_id)
            try:
                await self._supervisor.start(launch, netns_fd=netns_fd)
                async for stream, data in attachment:
                    output(stream, data)
                state = await self._supervisor.wait(step_id)
            finally:
                await attachment.close()
            return KILLED_EXIT_CODE if state.exit_code is None else state.exit_code
        finally:
            if netns_fd is not None:
                os.close(netns_fd)
            with contextlib.suppress(NoSuchContainer):
                await self._supervisor.delete(step_id, force=True)
            await self._networking.leave(step_id)

    async def _network(self, step_id: str, mode: str, hostname: str) -> tuple[str, int | None]:
        if mode == "host":
            return "host", None
        if mode == "none":
            return "new", None
        if mode not in ("", "default", "bridge"):
            raise Unsupported(f"build network mode {mode!r} is not default, host or none")
        joined = await self._networking.join(
            JoinRequest(step_id, hostname, (), {"bridge": EndpointSpec()})
        )
        return "fd", joined.netns_fd

    @staticmethod
    def _files(directory: Path, hostname: str) -> list[dict[str, Any]]:
        try:
            resolvers = Path("/etc/resolv.conf").read_text()
        except OSError:
            resolvers = ""
        texts = {
            "resolv.conf": resolvers,
            "hosts": f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost\n",
        }
        mounts = []
        for name, text in texts.items():
            path = directory / f"step.{name}"
            path.write_text(text)
            mounts.append(
                {
                    "destination": f"/etc/{name}",
                    "type": "bind",
                    "source": str(path),
                    "options": ["rbind", "rprivate", "ro"],
                }
            )
        return mounts


def _resources(limits: Mapping[str, int]) -> dict[str, Any]:
    return resources_of(
        HostConfig(
            memory=limits.get("memory", 0),
            memory_swap=limits.get("memswap", 0),
            cpu_shares=limits.get("cpushares", 0),
            cpu_period=limits.get("cpuperiod", 0),
            cpu_quota=limits.get("cpuquota", 0),
        )
    )
