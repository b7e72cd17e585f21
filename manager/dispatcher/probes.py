"""Asking the nodes to try out the network, and waiting for what they find."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from swarmapi.model.probes import ProbeFindings, ProbeOrder
from swarmapi.v1 import dispatcher_pb2 as pb

ANSWER_WAIT_S: Final = 10.0
"""Longer than a node takes whose packets are all lost."""
AskNode = Callable[[str, pb.ProbeRequest], bool]


class ProbeBroker:
    """Requests under way, on the leader."""

    def __init__(self, ask_node: AskNode, new_id: Callable[[], str]) -> None:
        self._ask_node = ask_node
        self._new_id = new_id
        self._waiting: dict[str, dict[str, asyncio.Future[ProbeFindings]]] = {}

    async def ask(
        self, orders: Iterable[tuple[str, ProbeOrder]], wait_s: float = ANSWER_WAIT_S
    ) -> dict[str, ProbeFindings]:
        """Send each node its order; return what came in time, by node id."""
        request_id, loop = self._new_id(), asyncio.get_running_loop()
        waiting = self._waiting[request_id] = {}
        try:
            for node_id, order in orders:
                raw = msgspec.msgpack.encode(order)
                if self._ask_node(node_id, pb.ProbeRequest(request_id=request_id, order=raw)):
                    waiting[node_id] = loop.create_future()
            if waiting:
                await asyncio.wait(waiting.values(), timeout=wait_s)
            return {node_id: found.result() for node_id, found in waiting.items() if found.done()}
        finally:
            del self._waiting[request_id]

    def take(self, node_id: str, probed: pb.Probed) -> None:
        """Take a node's answer; one that nobody waits for any more is dropped."""
        found = self._waiting.get(probed.request_id, {}).get(node_id)
        if found is None or found.done():
            return
        try:
            findings = msgspec.msgpack.decode(probed.findings, type=ProbeFindings)
        except msgspec.MsgspecError as error:
            findings = ProbeFindings(error=f"its answer cannot be read: {error}")
        found.set_result(findings)
