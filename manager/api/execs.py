"""Execs in tasks' containers on any node, in the form of Docker's execs in containers.

Prepared by one request, started by another. Here the start's body is stdin as it comes, and the
answer what the process writes: Docker's frames, or the bytes of a terminal. `swarmd` makes of the
two the upgraded connection that clients know. A frame of stream 3 is an error that ends the stream.
"""

import asyncio
import struct
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final, TypedDict

import msgspec
from aiohttp import web

from manager.api.keys import EXECS, STORE
from manager.api.responses import answer
from manager.control.tasks import task_of_service, task_to_enter
from manager.execs.session import Exec
from swarmapi import query, rest
from swarmapi.errors import Conflict, InvalidArgument, SwarmError
from swarmapi.model.objects import Task
from swarmapi.rest import Route
from swarmapi.v1 import exec_pb2 as pb

_STDERR: Final = 2
_SYSTEM_ERROR: Final = 3
_FRAME: Final = struct.Struct(">BxxxL")
_MOST_CELLS: Final = 0xFFFF


class TaskExec(msgspec.Struct, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """The body of `POST /swarm/v1/tasks/{id}/exec`: fields of Docker's ExecConfig."""

    cmd: list[str]
    env: list[str] = []
    user: str = ""
    working_dir: str = ""
    tty: bool = False
    privileged: bool = False
    attach_stdin: bool = False
    console_size: list[int] = []
    """Rows and columns of the terminal; zeroes or none where they are not known."""


class PreparedExec(TypedDict):
    """What was prepared, and where it would run."""

    Id: str
    TaskID: str
    NodeID: str


class ExecState(TypedDict):
    """How a process stands; ExitCode is null until it is known, of a detached one for good."""

    ID: str
    TaskID: str
    NodeID: str
    Running: bool
    ExitCode: int | None
    Error: str


async def prepare_in_task(request: web.Request) -> web.StreamResponse:
    """Prepare a process in a task's container: by id, `service.slot` or the container's name."""
    task = task_to_enter(request.app[STORE].view, request.match_info["id"])
    return _prepared(request, task, await _wanted(request))


async def prepare_in_service(request: web.Request) -> web.StreamResponse:
    """Prepare a process in the container of a service's running task of the lowest slot."""
    task = task_of_service(request.app[STORE].view, request.match_info["id"])
    return _prepared(request, task, await _wanted(request))


async def start(request: web.Request) -> web.StreamResponse:
    """Run a prepared process: the body is its stdin, the answer what it writes.

    A detached one is left alone once it runs; the answer tells that it does, its end nothing.
    """
    detach = query.flag(request, "detach")
    async with request.app[EXECS].attached(request.match_info["id"], detach=detach) as found:
        if detach:
            async for _ in found.output():
                continue
            return web.Response()
        tty = found.command.tty
        response = web.StreamResponse()
        kind = "raw" if tty else "multiplexed"
        response.content_type = f"application/vnd.docker.{kind}-stream"
        response.enable_chunked_encoding()
        await response.prepare(request)
        feeding = asyncio.ensure_future(_feed(request, found))
        try:
            async with aclosing(found.output()) as chunks:
                async for chunk in chunks:
                    await response.write(chunk.data if tty else _frame(chunk.stream, chunk.data))
        except SwarmError as error:
            stream = _SYSTEM_ERROR if found.exit_code is None else _STDERR
            words = f"{error.message}\n".encode()
            await response.write(b"\r" + words if tty else _frame(stream, words))
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
    await response.write_eof()
    return response


ENDS_WITH_CLIENT: Final = frozenset((start,))
"""Handlers that are of no use without their client, though they are no reads."""


async def resize(request: web.Request) -> web.StreamResponse:
    """Set the size of a process's terminal."""
    found = request.app[EXECS].find(request.match_info["id"])
    rows, columns = query.integer(request, "h"), query.integer(request, "w")
    if not found.command.tty or not found.running:
        how = "is not running" if found.command.tty else "has no terminal"
        raise Conflict(f"exec {found.id} {how}")
    if not (0 < rows <= _MOST_CELLS and 0 < columns <= _MOST_CELLS):
        raise InvalidArgument(f"a terminal has no {rows} rows and {columns} columns")
    found.resize(rows, columns)
    return web.Response()


async def show(request: web.Request) -> web.StreamResponse:
    """Show a process of a task's container, its exit code once it ended."""
    found = request.app[EXECS].find(request.match_info["id"])
    return answer(
        ExecState(
            ID=found.id,
            TaskID=found.task_id,
            NodeID=found.node_id,
            Running=found.running,
            ExitCode=found.exit_code,
            Error=found.error.message if found.error is not None else "",
        )
    )


async def _feed(request: web.Request, found: Exec) -> None:
    async for data in request.content.iter_any():
        await found.write(data)
    found.close_stdin()


async def _wanted(request: web.Request) -> TaskExec:
    body: dict[str, Any] = await query.body(request)
    try:
        wanted = msgspec.convert(body, TaskExec)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"exec: {error}") from error
    if not wanted.cmd:
        raise InvalidArgument("No exec command specified")
    if wanted.console_size and (
        len(wanted.console_size) != 2
        or not all(0 <= cells <= _MOST_CELLS for cells in wanted.console_size)
    ):
        raise InvalidArgument("exec: ConsoleSize is rows and columns")
    return wanted


def _prepared(request: web.Request, task: Task, wanted: TaskExec) -> web.Response:
    rows, columns = wanted.console_size or (0, 0)
    command = pb.ExecStart(
        task_id=task.id,
        command=wanted.cmd,
        env=wanted.env,
        user=wanted.user,
        working_dir=wanted.working_dir,
        tty=wanted.tty,
        stdin=wanted.attach_stdin,
        privileged=wanted.privileged,
        size=pb.TerminalSize(rows=rows, columns=columns),
    )
    made = request.app[EXECS].create(task, command)
    return answer(PreparedExec(Id=made.id, TaskID=task.id, NodeID=task.node_id), 201)


def _frame(stream: int, data: bytes) -> bytes:
    return _FRAME.pack(stream, len(data)) + data


ROUTES: Final[Sequence[rest.Declared]] = (
    *(
        Route("POST", path, handler, body=TaskExec, answer=PreparedExec, status=201)
        for path, handler in (
            ("/swarm/v1/tasks/{id}/exec", prepare_in_task),
            ("/swarm/v1/services/{id}/exec", prepare_in_service),
        )
    ),
    Route(
        "POST",
        "/swarm/v1/exec/{id}/start",
        start,
        (rest.flag("detach", "leave it alone once it runs"),),
        answer=bytes,
        content="upgrade",
    ),
    Route("POST", "/swarm/v1/exec/{id}/resize", resize, (rest.integer("h"), rest.integer("w"))),
    Route("GET", "/swarm/v1/exec/{id}", show, answer=ExecState),
)
