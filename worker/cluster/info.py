"""The Swarm block of `/info` and the Swarm header of a ping."""

from typing import Any

from swarmapi.errors import Unavailable
from worker.cluster.membership import Member
from worker.cluster.proxy import ManagerProxy

_TIMEOUT_S = 2.0


class SwarmInfo:
    """What this node says of its cluster; a manager's figures are as of the last `refresh`."""

    def __init__(self, member: Member, proxy: ManagerProxy) -> None:
        self._member = member
        self._proxy = proxy
        self._nodes: list[dict[str, Any]] = []
        self._cluster: dict[str, Any] | None = None
        self._error = ""
        self._warnings: list[str] = []

    def ping_state(self) -> str:
        """Return the ping's header: inactive, pending, locked, error or active/ROLE."""
        state, here = self.local_state(), self._member.membership
        return f"active/{here.role}" if here is not None and state == "active" else state

    def local_state(self) -> str:
        """Return Docker's LocalNodeState."""
        node = self._member.node
        if self._member.locked:
            return "locked"
        if node is None:
            return "pending" if self._member.pending else "inactive"
        return "error" if node.manager_error else "active"

    async def refresh(self) -> None:
        """Ask the local manager for the cluster; without an answer the block says why."""
        self._nodes, self._cluster, self._error, self._warnings = [], None, "", []
        here = self._member.membership
        if here is None or not here.is_manager or self._member.locked:
            return
        try:
            status, cluster = await self._proxy.call("GET", "/swarm", timeout_s=_TIMEOUT_S)
            listed, nodes = await self._proxy.call("GET", "/nodes", timeout_s=_TIMEOUT_S)
        except Unavailable as error:
            self._error = error.message
            return
        if status == 200 and isinstance(cluster, dict):
            self._cluster = {k: v for k, v in cluster.items() if k != "JoinTokens"}
        elif isinstance(cluster, dict):
            self._error = str(cluster.get("message", ""))
        if listed == 200 and isinstance(nodes, list):
            self._nodes = nodes
        await self._ask_for_disk()
        if any(one.get("Status", {}).get("State") == "down" for one in self._nodes):
            await self._ask_for_pause()

    async def _ask_for_pause(self) -> None:
        try:
            _, paused = await self._proxy.call(
                "GET", "/swarm/v1/rescheduling", timeout_s=_TIMEOUT_S
            )
        except Unavailable:
            return
        if isinstance(paused, dict) and paused.get("Message"):
            self._warnings.append(f"WARNING: {paused['Message']}")

    async def _ask_for_disk(self) -> None:
        try:
            _, usage = await self._proxy.call("GET", "/swarm/v1/raft", timeout_s=_TIMEOUT_S)
        except Unavailable:
            return
        if not isinstance(usage, dict):
            return
        if usage.get("DiskFull"):
            self._warnings.append(f"WARNING: {usage['DiskFull']}")
        if since := usage.get("DiffersSince"):
            self._warnings.append(
                f"WARNING: the state here differs from the others' since entry {since}: "
                "this manager starts anew with theirs, or demote it and promote it again"
            )
        if usage.get("Returning"):
            self._warnings.append(
                "WARNING: the log of this manager was damaged: it comes back with the others'"
            )

    def warnings(self) -> list[str]:
        """Return what an operator should know of the cluster, as of the last `refresh`."""
        managers = sum("ManagerStatus" in one for one in self._nodes)
        return [*self._warnings, *quorum_warnings(managers)]

    def block(self) -> dict[str, Any]:
        """Return the Swarm block."""
        node = self._member.node
        if node is None or self._member.locked:
            return {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": self.local_state(),
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            }
        here = node.membership
        block: dict[str, Any] = {
            "NodeID": here.node_id,
            "NodeAddr": here.address,
            "LocalNodeState": self.local_state(),
            "ControlAvailable": here.is_manager,
            "Error": node.manager_error or self._error,
            "RemoteManagers": self._managers(here.managers),
        }
        if here.is_manager:
            block["Nodes"] = len(self._nodes)
            block["Managers"] = sum("ManagerStatus" in one for one in self._nodes)
        if self._cluster is not None:
            block["Cluster"] = self._cluster
        return block

    def _managers(self, known: list[str]) -> list[dict[str, str]]:
        """List managers; a worker knows their addresses but not their ids."""
        if self._nodes:
            return [
                {"NodeID": one["ID"], "Addr": one["ManagerStatus"].get("Addr", "")}
                for one in self._nodes
                if "ManagerStatus" in one
            ]
        return [{"NodeID": "", "Addr": address} for address in known]


def quorum_warnings(managers: int) -> list[str]:
    """Return what is dangerous about so many managers."""
    told = "WARNING: Two managers tolerate the loss of none: add a third, or demote one"
    return [told] if managers == 2 else []
