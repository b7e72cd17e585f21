"""What a manager writes into its audit log: the calls it answered itself, with who asked first."""

import json
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from swarmapi.access import CALLER_HEADER, ApiRole, needed
from swarmapi.audit import AuditLog, Entry, outcome_of
from swarmapi.query import DECLARED

AUDIT: Final = web.AppKey("audit", AuditLog)


class _Named(msgspec.Struct):
    """The part of a body, or of an answer, that may be written down."""

    name: Any = msgspec.field(default="", name="Name")
    made: Any = msgspec.field(default="", name="ID")
    made_network: Any = msgspec.field(default="", name="Id")


def log_of(state_dir: Path) -> AuditLog:
    """Return a manager's log: beside its state, which goes when it leaves the cluster."""
    return AuditLog(state_dir.parent / "audit" / "manager.log", "manager")


def is_written(request: web.Request) -> bool:
    """Tell whether a call asks for more than a viewer."""
    return AUDIT in request.app and needed(request.method, request.path)[0] > ApiRole.VIEWER


def reads_all(request: web.Request) -> bool:
    """Tell whether the handler has read a whole document, which is kept by the request then."""
    route = request.app[DECLARED].get(request.match_info.route)
    return route is not None and route.body is not None and route.content == "json"


def write(
    request: web.Request,
    body: bytes,
    answer: object,
    status: int,
    *,
    node: str,
    via: str,
    request_id: str,
) -> None:
    """Write down a call that was answered here, by `node`, for a client of the manager `via`."""
    asked, answered = _named(body), _named(answer)
    entry = Entry(
        method=request.method,
        path=request.path,
        object=request.match_info.get("id") or asked.name,
        object_id=answered.made or answered.made_network,
        outcome=outcome_of(status),
        status=status,
        node=node,
        via=via,
        request_id=request_id,
    )
    request.app[AUDIT].write(_with_caller(entry, request.headers.get(CALLER_HEADER, "")))


def _named(document: object) -> _Named:
    """Read what is a string of a JSON object, blanks of anything else."""
    try:
        found = msgspec.json.decode(document if isinstance(document, bytes) else b"", type=_Named)
    except msgspec.DecodeError:
        return _Named()
    values = (found.name, found.made, found.made_network)
    return _Named(*(value if isinstance(value, str) else "" for value in values))


def _with_caller(entry: Entry, header: str) -> Entry:
    """Add who asked, in the words of the node that let it in; without any, that node itself."""
    if not header:
        return msgspec.structs.replace(entry, by="node", role=ApiRole.OPERATOR.word)
    told = json.loads(header)
    return msgspec.structs.replace(
        entry,
        by=told["by"],
        who=told["name"],
        role=told["role"],
        uid=int(told.get("uid", -1)),
        pid=int(told.get("pid", 0)),
        peer=told.get("peer", ""),
    )
