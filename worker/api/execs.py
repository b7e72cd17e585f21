"""Execs: create, start on a hijacked connection, inspect, resize."""

from typing import Any

import msgspec
from aiohttp import web

from runtime.errors import RuntimeFailure
from swarmapi import query, rest
from swarmapi.errors import InvalidArgument, SwarmError
from swarmapi.rest import Route
from worker.api import answers, hijack
from worker.api.keys import engine_of
from worker.api.responses import answer
from worker.engine.execs import ExecConfig


class StartRequest(msgspec.Struct, rename="pascal"):
    """The body of `POST /exec/{id}/start`."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


async def create(request: web.Request) -> web.StreamResponse:
    """Prepare an exec."""
    body = {key: value for key, value in (await query.body(request)).items() if value is not None}
    if isinstance(body.get("Cmd"), str):
        body["Cmd"] = [body["Cmd"]]
    try:
        config = msgspec.convert(body, ExecConfig)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"exec: {error}") from error
    hijack.parse_detach_keys(config.detach_keys)
    exec_id = engine_of(request).create_exec(request.match_info["id"], config)
    return answer({"Id": exec_id}, 201)


async def start(request: web.Request) -> web.StreamResponse:
    """Run a prepared exec, attached unless `Detach` is asked for."""
    engine = engine_of(request)
    body = await query.body(request)
    found = engine.find_exec(request.match_info["id"])
    if size := body.get("ConsoleSize"):
        found.config.console_size = [int(number) for number in size]
    if body.get("Detach"):
        engine.run_detached(await engine.start_exec(found.id))
        return web.Response(status=200)
    config = found.config
    engine.check_exec(found.id)
    # the head first: a client that reads it together with output may lose that output
    connection = hijack.take_over(request, hijack.content_type(request, tty=config.tty))
    try:
        running = await engine.start_exec(found.id)
    except (SwarmError, RuntimeFailure) as error:
        words = f"{error}\r\n".encode()
        await connection.write(words if config.tty else hijack.frame(1, words))
        await connection.close()
        raise hijack.taken(request) from error
    shown = tuple(
        number for number, on in ((1, config.attach_stdout), (2, config.attach_stderr)) if on
    )
    try:
        await hijack.serve(
            connection,
            running,
            tty=config.tty,
            stdin=config.attach_stdin,
            shown=shown,
            detach_keys=hijack.parse_detach_keys(config.detach_keys),
            keep_stdin=False,
        )
    finally:
        if running.running:
            engine.run_detached(running)
    raise hijack.taken(request)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Show an exec, its exit code once it ended."""
    engine = engine_of(request)
    found = engine.find_exec(request.match_info["id"])
    config = found.config
    body: dict[str, Any] = {
        "ID": found.id,
        "Running": found.running,
        "ExitCode": found.exit_code,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": config.cmd[0],
            "arguments": config.cmd[1:],
            "privileged": config.privileged,
            "user": config.user,
        },
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": not found.running,
        "ContainerID": found.container_id,
        "DetachKeys": config.detach_keys,
        "Pid": found.pid,
    }
    return answer(body)


async def resize(request: web.Request) -> web.StreamResponse:
    """Set the size of an exec's terminal."""
    found = engine_of(request).find_exec(request.match_info["id"])
    await found.resize(query.integer(request, "h"), query.integer(request, "w"))
    return web.Response(status=200)


ROUTES = (
    Route(
        "POST",
        "/containers/{id:.+}/exec",
        create,
        body=ExecConfig,
        answer=answers.Id,
        status=201,
    ),
    Route("POST", "/exec/{id}/start", start, body=StartRequest, answer=bytes, content="upgrade"),
    Route("POST", "/exec/{id}/resize", resize, (rest.integer("h"), rest.integer("w"))),
    Route("GET", "/exec/{id}/json", inspect, answer=answers.ExecDetails),
)
