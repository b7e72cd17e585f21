"""Answers the leader's requests for processes in tasks' containers, each with one call of Attach.

The call lives as long as both the process and its client. When the client goes, or the leader, the
process is hung up on like one whose terminal was lost.
"""

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import Any, Final

import grpc

from swarmapi.errors import SwarmError
from swarmapi.v1 import exec_pb2 as pb
from worker.agent.answers import Answers
from worker.agent.ports import ExecSource, NotStarted, TaskExec
from worker.engine.execs import ExecConfig

logger = logging.getLogger(__name__)
MOST_EXECS: Final = 256
"""Processes at once; more are refused."""


class ExecRunner:
    """Over one session's channel; ends with the session."""

    def __init__(self, channel: grpc.aio.Channel, source: ExecSource) -> None:
        self._source = source
        self._attach: Any = channel.stream_stream(  # the stubs want an iterator of requests
            "/swarmapi.v1.Execs/Attach",
            request_serializer=pb.ExecOutput.SerializeToString,
            response_deserializer=pb.ExecInput.FromString,
        )
        self._answers = Answers()

    @property
    def running(self) -> int:
        """How many processes there are."""
        return len(self._answers)

    def answer(self, request: pb.ExecRequest) -> None:
        """Run what is asked for in the background."""
        self._answers.begin(self._answer(request))

    async def close(self) -> None:
        """Hang up on every process."""
        await self._answers.close()

    async def _answer(self, request: pb.ExecRequest) -> None:
        call = self._attach()
        try:
            await call.write(pb.ExecOutput(head=pb.ExecHead(request_id=request.request_id)))
            first = await call.read()
            if isinstance(first, pb.ExecInput) and first.HasField("start"):
                await self._run(call, first.start)
        except _CALL_ENDED:
            return  # nobody waits for it any more
        except Exception:
            logger.exception("exec %s", request.request_id)
        finally:
            call.cancel()

    async def _run(self, call: Any, start: pb.ExecStart) -> None:
        """Run a process and tell its end, unless the call ends before it, or it is left alone."""
        ended = asyncio.ensure_future(call.code())
        jobs: list[asyncio.Future[Any]] = [ended]
        try:
            begun = await self._begin(start)
            if isinstance(begun, pb.ExecEnd):
                end = begun
            elif start.detach:
                end = pb.ExecEnd()
            else:
                jobs.append(asyncio.ensure_future(_take(call, begun)))
                if not await _carry(call, begun, ended):
                    return
                end = pb.ExecEnd(exit_code=begun.exit_code)
            await call.write(pb.ExecOutput(end=end))
            await ended  # cancelling before would lose what is on its way
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _begin(self, start: pb.ExecStart) -> TaskExec | pb.ExecEnd:
        if len(self._answers) > MOST_EXECS:
            return pb.ExecEnd(error=f"this node runs {MOST_EXECS} execs already: try again later")
        try:
            return await self._source.run_in(start.task_id, _config(start))
        except NotStarted as refusal:
            return pb.ExecEnd(exit_code=refusal.exit_code, error=refusal.message)
        except SwarmError as refusal:
            return pb.ExecEnd(error=refusal.message)


async def _carry(call: Any, running: TaskExec, ended: "asyncio.Future[Any]") -> bool:
    """Send what a process writes; returns whether its end came before that of the call."""
    sending = asyncio.ensure_future(_send(call, running))
    try:
        await asyncio.wait({sending, ended}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
        return sending.done()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        running.hang_up()


async def _send(call: Any, running: TaskExec) -> None:
    async with aclosing(running.output()) as output:
        async for stream, data in output:
            await call.write(pb.ExecOutput(chunk=pb.ExecChunk(stream=stream, data=data)))


async def _take(call: Any, running: TaskExec) -> None:
    while isinstance(part := await call.read(), pb.ExecInput):
        kind = part.WhichOneof("part")
        if kind == "stdin":
            await running.write(part.stdin)
        elif kind == "stdin_end":
            await running.close_stdin()
        elif kind == "size":
            with suppress(SwarmError, OSError):  # it has just ended
                await running.resize(part.size.rows, part.size.columns)


def _config(start: pb.ExecStart) -> ExecConfig:
    return ExecConfig(
        attach_stdin=start.stdin and not start.detach,
        attach_stdout=not start.detach,
        attach_stderr=not start.detach,
        detach=start.detach,
        tty=start.tty,
        cmd=list(start.command),
        env=list(start.env),
        user=start.user,
        privileged=start.privileged,
        working_dir=start.working_dir,
        console_size=[start.size.rows, start.size.columns],
    )


_CALL_ENDED = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""What a read or a write raises when the leader has ended the call."""
