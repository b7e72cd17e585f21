"""The one place where the cluster's side of a daemon is wired to its engine."""

from aiohttp import web

from swarmapi.access import TOKEN_PATH, ApiRole, role_named
from swarmapi.errors import Unauthenticated
from swarmapi.metrics import render, single
from swarmapi.openapi import Json
from worker.agent.leases import NodeLeases
from worker.agent.secrets import NodeSecrets
from worker.api.document import CLUSTER_DOCUMENT
from worker.api.events import CLUSTER_EVENTS
from worker.api.metrics import SOURCES, Source
from worker.cluster.attached import held, let_go
from worker.cluster.description import describe
from worker.cluster.events import ManagersEvents
from worker.cluster.info import SwarmInfo
from worker.cluster.manager_process import ManagerProcess, manager_document
from worker.cluster.membership import Addresses, Member
from worker.cluster.proxy import ManagerProxy
from worker.cluster.routes import install
from worker.cluster.running import NodeParts
from worker.cluster.state import ClusterFiles
from worker.config import Config
from worker.engine.engine import Engine
from worker.executor import EngineExecutor
from worker.networking import MachineNetworking
from worker.secretfiles import SecretFiles


class ClusterSide:
    """Membership, proxy and info of one daemon: `routes` into its application, then `start`."""

    def __init__(self, config: Config, engine: Engine, network: MachineNetworking) -> None:
        manager = ManagerProcess(
            config.data_root / "manager",
            config.run_dir,
            f"{config.cgroup_parent.strip('/')}/manager",
        )
        secrets = NodeSecrets()
        leases = NodeLeases(lambda: held(engine))
        network.attaching.lessor_now = lambda: leases if self.member.membership else None
        self._network = network
        self._document: Json | None = None
        self._proxy = ManagerProxy(manager.socket_path)
        self.member = Member(
            NodeParts(
                files=ClusterFiles(config.data_root / "cluster"),
                manager=manager,
                network=network,
                executor=EngineExecutor(
                    engine,
                    secrets,
                    SecretFiles(config.run_dir / "secrets", ids=config.ids),
                    lambda: describe(config.labels),
                ),
                secrets=secrets,
                leases=leases,
                clock=engine.parts.clock,
                labels=config.labels,
                generic=config.generic,
                let_go=lambda: let_go(engine),
            ),
            self._proxy,
            Addresses(
                config.listen_addr,
                config.advertise_addr,
                config.data_path_addr,
                config.default_addr_pool,
            ),
        )
        self._info = SwarmInfo(self.member, self._proxy)
        engine.swarm_info = self._info.block
        engine.swarm_warnings = self._info.warnings

    def routes(self, app: web.Application) -> None:
        """Add the cluster's routes to an application (`cluster_routes` of `build_app`)."""
        install(app, self.member, self._proxy, self._info)
        app[CLUSTER_DOCUMENT] = self._manager_document
        sources: list[Source] = [self._figures]
        app[SOURCES] = sources
        app[CLUSTER_EVENTS] = ManagersEvents(self.member, self._proxy).stream

    async def check_token(self, text: str) -> tuple[str, ApiRole]:
        """Return name and role of an API token (`check_token` of `Callers`).

        Raises:
            Unauthenticated: this node's manager knows no such token, or there is no manager.
            Unavailable: it does not answer.
        """
        here = self.member.membership
        if here is None or not here.is_manager or self.member.locked:
            raise Unauthenticated("only managers know API tokens: ask one, or show a certificate")
        status, told = await self._proxy.call("POST", TOKEN_PATH, body={"Token": text})
        if status == 200 and isinstance(told, dict):
            return str(told["Name"]), role_named(str(told["Role"]))
        raise Unauthenticated(told["message"] if isinstance(told, dict) else "no such API token")

    def swarm_state(self) -> str:
        """Return the ping's Swarm header (`swarm_state` of `build_app`)."""
        return self._info.ping_state()

    async def _figures(self) -> str:
        repaired = render(
            [
                single(
                    "swarm_network_drift_repaired_total",
                    "What had drifted from the plan in this machine's network and was repaired.",
                    self._network.drift_repaired_total(),
                    "counter",
                )
            ]
        )
        here = self.member.membership
        if here is None or not here.is_manager:
            return repaired
        return repaired + await self._proxy.text("/swarm/v1/metrics", timeout_s=2.0)

    async def _manager_document(self) -> Json:
        if self._document is None:
            self._document = await manager_document()
        return self._document

    async def start(self) -> None:
        """Take up the stored membership; raises Internal when it cannot be read."""
        await self.member.start()

    async def stop(self) -> None:
        """Let go; containers and the manager go on."""
        await self.member.stop()
        await self._proxy.close()
