"""The leader's exec broker: which client's process runs on which node.

Nothing of it is in the store: a process lives as long as the leader that was asked for it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from manager.execs.session import Exec, Read, Write
from manager.replica import LogStatus, Store
from swarmapi.errors import Conflict, InvalidArgument, NotFound, NotLeader, Unavailable
from swarmapi.model.objects import NodeState, Task
from swarmapi.v1 import exec_pb2 as pb

ANSWER_WAIT_S: Final = 5.0
"""An agent that is asked has this long to answer; a session in between has it to begin anew."""
MOST_KEPT: Final = 1024
"""Execs that are remembered; of those that do not run, the oldest are forgotten first."""


class ExecBroker:
    """`ask` sends a request to a node's agent, and tells whether it has a session."""

    def __init__(self, store: Store, ask: Callable[[str, pb.ExecRequest], bool]) -> None:
        self._store = store
        self._ask_node = ask
        self._execs: dict[str, Exec] = {}
        store.replica.on_restore(lambda: self._on_status(LogStatus(False, True)))
        store.log.on_status(self._on_status)

    @property
    def running(self) -> int:
        """How many processes there are, or are waited for."""
        return sum(one.running for one in self._execs.values())

    def create(self, task: Task, start: pb.ExecStart) -> Exec:
        """Prepare a process in the container of a running task.

        Raises:
            Unavailable: the task's node is down, or too many run already.
        """
        self._check_node(task.node_id)
        if len(self._execs) >= MOST_KEPT:
            idle = next((one.id for one in self._execs.values() if not one.running), "")
            if not idle:
                raise Unavailable(f"{MOST_KEPT} execs run already: try again later")
            del self._execs[idle]
        made = Exec(self._store.new_id(), task, start)
        self._execs[made.id] = made
        return made

    def find(self, exec_id: str) -> Exec:
        """Return an exec by id.

        Raises:
            NotFound: there is none; the leader that it was made at may be another one.
        """
        found = self._execs.get(exec_id)
        if found is None:
            raise NotFound(
                f"no such exec: {exec_id}; it ended long ago, or the leader changed: run it again"
            )
        return found

    @asynccontextmanager
    async def attached(self, exec_id: str, *, detach: bool = False) -> AsyncGenerator[Exec, None]:
        """Run a prepared process for the length of the block, at most; its node has answered.

        With `detach` the block only sees it begin: its end is told once its node runs it.

        Raises:
            NotFound: as `find`.
            Conflict: it was started before.
            Unavailable: its node is down, or does not answer.
        """
        found = self.find(exec_id)
        if found.started:
            raise Conflict(f"exec {exec_id} has already run")
        self._check_node(found.node_id)
        found.started = True
        found.command.detach = detach
        lost = Unavailable("the client went away")
        try:
            self._ask(found)
            await self._until_answered(found)
            yield found
        except Unavailable as error:
            lost = error
            raise
        finally:
            found.end(lost)

    async def _until_answered(self, found: Exec) -> None:
        waits = [asyncio.ensure_future(e.wait()) for e in (found.answered, found.ended)]
        try:
            await asyncio.wait(waits, timeout=ANSWER_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if found.error is not None:
            raise found.error
        if not found.answered.is_set():
            raise Unavailable(f"{self._node_name(found.node_id)} does not answer")

    async def attach(self, node_id: str, read: Read, write: Write) -> None:
        """Carry a process that a node has; returns at its end, or when nobody has it any more.

        Raises:
            NotFound: nobody asked this node for it.
            InvalidArgument: a message that cannot be.
        """
        first = await read()
        if not isinstance(first, pb.ExecOutput) or not first.HasField("head"):
            raise InvalidArgument("an exec's output begins with its head")
        found = self._execs.get(first.head.request_id)
        asked = found is not None and found.asked and found.running
        if found is None or not asked or found.node_id != node_id or found.answered.is_set():
            raise NotFound("nobody waits for this exec any more")
        found.answered.set()
        taking = asyncio.ensure_future(found.take(read))
        giving = asyncio.ensure_future(found.give(write))
        ended = asyncio.ensure_future(found.ended.wait())
        try:
            await asyncio.wait({taking, ended}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done() and not ended.done():
                taking.result()
        finally:
            for job in (taking, giving, ended):
                job.cancel()
            await asyncio.gather(taking, giving, ended, return_exceptions=True)
            found.end(self._lost(node_id))

    # what the log and the sessions say --------------------------------------------------------

    def on_session(self, node_id: str, began: bool) -> None:
        """Ask a node that was waited for; give up what a node had whose session ended."""
        for one in tuple(self._execs.values()):
            if one.node_id != node_id or not one.running:
                continue
            if not began and one.answered.is_set():
                one.end(self._lost(node_id))
            elif not one.answered.is_set():
                one.asked = False
                if began:
                    self._ask(one)

    def _on_status(self, status: LogStatus) -> None:
        if not (status.is_leader and status.ready):
            error = NotLeader("the leader changed: run it again", status.leader_address)
            for one in self._execs.values():
                one.end(error)
            self._execs.clear()

    def _ask(self, one: Exec) -> None:
        one.asked = self._ask_node(one.node_id, pb.ExecRequest(request_id=one.id))

    def _check_node(self, node_id: str) -> None:
        node = self._store.view.nodes.get(node_id)
        if node is None or node.state == NodeState.DOWN:
            how = "was removed" if node is None else "is down"
            raise Unavailable(f"{self._node_name(node_id)} {how}")

    def _lost(self, node_id: str) -> Unavailable:
        return Unavailable(f"{self._node_name(node_id)} was lost: what became of it is not known")

    def _node_name(self, node_id: str) -> str:
        node = self._store.view.nodes.get(node_id)
        hostname = node.description.hostname if node is not None else ""
        return f"node {hostname} ({node_id})" if hostname else f"node {node_id}"
