"""The replicated state as a whole: what it takes on the disk, and a backup of it."""

import time
from collections.abc import Sequence
from typing import Final, TypedDict

from aiohttp import web

from manager.api.keys import RAFT_USAGE, STORE
from manager.api.responses import Object, answer
from manager.control.cluster import the_cluster
from manager.recovery import backup
from swarmapi import rest
from swarmapi.rest import Route


class RaftUsage(TypedDict):
    """This manager's log."""

    NodeID: str
    LeaderID: str
    Term: int
    Members: Object
    Entries: int
    FirstIndex: int
    LastIndex: int
    CommitIndex: int
    AppliedIndex: int
    Segments: int
    LogBytes: int
    DiskFull: str
    Returning: bool
    DiffersSince: int
    SnapshotIndex: int
    SnapshotBytes: int
    LastCompactionNs: int
    LastChangeNs: int


async def get_usage(request: web.Request) -> web.Response:
    """Show the log of the manager that is asked, also while the cluster has no leader.

    `LastChangeNs` is the cluster's time of the last change that is held here.
    """
    usage = request.app[RAFT_USAGE]()
    store = request.app[STORE]
    since = store.replica.differs_since
    return answer({**usage, "DiffersSince": since, "LastChangeNs": store.view.now_ns})


async def get_backup(request: web.Request) -> web.StreamResponse:
    """Send the cluster's whole state as of now, keys and secrets among it.

    With autolock the file opens with the unlock key alone; otherwise it is in clear.
    """
    store = request.app[STORE]
    the_cluster(store)
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    name = time.strftime("swarm-%Y%m%dT%H%M%SZ.backup", time.gmtime(store.view.now_ns / 1e9))
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.enable_chunked_encoding()
    pieces = backup(store.view, 1, store.log.members())
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response


ROUTES: Final[Sequence[rest.Declared]] = (
    Route("GET", "/swarm/v1/raft", get_usage, answer=RaftUsage),
    Route("GET", "/swarm/v1/backup", get_backup, answer=bytes, content="file"),
)
SERVED_ALONE: Final = frozenset((get_usage,))
"""Handlers that need neither a leader nor a cluster."""
