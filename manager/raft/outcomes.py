"""What the Raft thread tells the API loop, in order."""

import asyncio
from dataclasses import dataclass
from typing import NamedTuple


class RaftStatus(NamedTuple):
    """How this member stands; `leader_address` is the leader's Raft port, empty when not known."""

    is_leader: bool = False
    ready: bool = False
    """It leads and has applied everything committed before its term."""
    leader_id: str = ""
    leader_address: str = ""
    term: int = 0
    commit_index: int = 0
    applied_index: int = 0
    first_index: int = 0
    """Of the log's oldest entry."""
    last_index: int = 0
    snapshot_index: int = 0
    """The last entry in the snapshot; 0 without one."""
    disk_full: str = ""
    """Why no changes are taken: the directory whose disk is full."""


@dataclass(frozen=True)
class Applied:
    """A committed entry; the payload of an election or a membership change is empty."""

    index: int
    term: int
    payload: bytes


@dataclass(frozen=True)
class Restored:
    """A snapshot that replaces the state."""

    index: int
    parts: list[bytes]


@dataclass(frozen=True)
class Done:
    """The answer to a request: a number, or why there is none."""

    future: "asyncio.Future[int]"
    result: int | Exception


@dataclass(frozen=True)
class FreezeWanted:
    """The state is to be frozen for a snapshot."""


@dataclass(frozen=True)
class Standing:
    """The status and the members as of here."""

    status: RaftStatus
    members: dict[str, str]


Outcome = Applied | Restored | Done | FreezeWanted | Standing
