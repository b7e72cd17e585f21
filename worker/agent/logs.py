"""Answers the leader's requests for logs, each with one call of Publish.

The call lives as long as somebody reads: the leader ends it when its client goes, and a reader
that is slow slows the reading of the log file.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final

import grpc

from swarmapi.errors import SwarmError
from swarmapi.v1 import logs_pb2 as pb
from worker.agent.answers import Answers
from worker.agent.ports import LogSource
from worker.engine.logs import LogLine, LogQuery

logger = logging.getLogger(__name__)
BATCH_BYTES: Final = 1 << 16
MOST_PUBLICATIONS: Final = 512
"""Logs that are read at once; more are refused."""


class LogPublisher:
    """Over one session's channel; ends with the session."""

    def __init__(self, channel: grpc.aio.Channel, source: LogSource) -> None:
        self._source = source
        self._publish: Any = channel.stream_unary(  # the stubs want an iterator of requests
            "/swarmapi.v1.Logs/Publish",
            request_serializer=pb.LogPublication.SerializeToString,
            response_deserializer=pb.LogReceipt.FromString,
        )
        self._answers = Answers()

    @property
    def publications(self) -> int:
        """How many logs are being read."""
        return len(self._answers)

    def answer(self, request: pb.LogRequest) -> None:
        """Publish in the background."""
        self._answers.begin(self._answer(request))

    async def close(self) -> None:
        """End every publication."""
        await self._answers.close()

    async def _answer(self, request: pb.LogRequest) -> None:
        call = self._publish()
        sending = asyncio.ensure_future(self._send(call, request))
        ended = asyncio.ensure_future(call.code())
        try:
            await asyncio.wait({sending, ended}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and sending.exception() is None:
                await ended  # the receipt: cancelling before would lose what is on its way
        finally:
            for job in (sending, ended):
                job.cancel()
            outcome, _ = await asyncio.gather(sending, ended, return_exceptions=True)
            call.cancel()
            if isinstance(outcome, Exception) and not isinstance(outcome, _CALL_ENDED):
                logger.error("log of task %s: %r", request.task_id, outcome)

    async def _send(self, call: Any, request: pb.LogRequest) -> None:
        await call.write(pb.LogPublication(head=pb.LogHead(request_id=request.request_id)))
        error = ""
        if len(self._answers) > MOST_PUBLICATIONS:
            error = f"this node reads {MOST_PUBLICATIONS} logs already: try again later"
        else:
            try:
                async with aclosing(self._source.logs(request.task_id, _query(request))) as log:
                    async for lines in log:
                        for batch in batches(lines):
                            await call.write(pb.LogPublication(batch=batch))
            except SwarmError as refusal:
                error = refusal.message
            except OSError as failure:
                error = f"the log cannot be read: {failure}"
        await call.write(pb.LogPublication(end=pb.LogEnd(error=error)))


_CALL_ENDED = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""What a write raises when the leader has ended the call."""


def batches(lines: Sequence[LogLine]) -> Iterator[pb.LogBatch]:
    """Cut lines into messages of about 64 KiB; no lines are one message that says `live`."""
    if not lines:
        yield pb.LogBatch(live=True)
    batch, size = pb.LogBatch(), 0
    for line in lines:
        if size and size + len(line.data) > BATCH_BYTES:
            yield batch
            batch, size = pb.LogBatch(), 0
        batch.lines.add(
            time_ns=line.time_ns,
            stream=line.stream,
            data=line.data,
            attributes=dict(line.attributes),
        )
        size += len(line.data) + 1
    if size:
        yield batch


def _query(request: pb.LogRequest) -> LogQuery:
    return LogQuery(
        stdout=request.stdout,
        stderr=request.stderr,
        since_ns=request.since_ns,
        until_ns=request.until_ns,
        tail=request.tail if request.tail >= 0 else None,
        follow=request.follow,
    )
