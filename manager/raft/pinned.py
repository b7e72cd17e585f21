"""The parts of PySyncObj this package stands on, typed, and the check that they are the known ones.

Raft's state machine comes from PySyncObj 0.3.17; `manager.raft.core` replaces its unsafe private
methods, so any other source would silently change what the log guarantees. Importing this module
fails unless version and source are the audited ones. It also takes pickle, sockets and files away
from PySyncObj: members exchange plain data through our own transport and journal only.
"""

# ruff: noqa: N802, N803 - the names are PySyncObj's

import hashlib
import importlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

VERSION: Final = "0.3.17"
SOURCE_SHA256: Final = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"
FOLLOWER: Final = 0
LEADER: Final = 2
REGULAR: Final = b"\x00"
NO_OP: Final = b"\x01"
MEMBERSHIP: Final = b"\x02"
"""The first byte of a log entry's command."""

Callback = Callable[[Any, int], None]
_inet_ntop = socket.inet_ntop
syncobj: Any = importlib.import_module("pysyncobj.syncobj")
"""The module itself: its clock, chance and codec are globals of it."""
socket.inet_ntop = _inet_ntop
"""The library puts one for Windows in its place everywhere, which fails on other systems."""

if TYPE_CHECKING:

    class Node:
        def __init__(self, id: str) -> None: ...
        @property
        def id(self) -> str: ...

    class Transport:
        def __init__(self, core: None, me: None, others: None) -> None: ...

    class JournalBase: ...

    class SyncObjConf:
        def __init__(self, **values: object) -> None: ...

    class SyncObj:
        """What `core` uses of the original; `_SyncObj__x` is how a subclass reaches its `__x`."""

        _SyncObj__raftState: int
        _SyncObj__raftCurrentTerm: int
        _SyncObj__votedForNodeId: str | None
        _SyncObj__raftLeader: Any
        _SyncObj__raftElectionDeadline: float
        _SyncObj__transferInProgress: bool
        _SyncObj__raftCommitIndex: int
        _SyncObj__raftLastApplied: int
        _SyncObj__raftNextIndex: dict[Any, int]
        _SyncObj__raftMatchIndex: dict[Any, int]
        _SyncObj__lastResponseTime: dict[Any, float]
        _SyncObj__otherNodes: set[Any]
        _SyncObj__connectedNodes: set[Any]
        _SyncObj__noopIDx: int | None
        _SyncObj__newAppendEntriesTime: float
        _SyncObj__needLoadDumpFile: bool
        _SyncObj__commandsWaitingCommit: dict[int, list[tuple[int, Callback]]]

        def __init__(
            self, me: Any, others: Any, conf: SyncObjConf, nodeClass: Any, transport: Any
        ) -> None: ...
        def _onTick(self, timeToWait: float = 0.0) -> None: ...
        def doTick(self, timeToWait: float = 0.0) -> None: ...
        def _applyCommand(self, command: bytes, callback: Callback, kind: int) -> None: ...
        def _checkCommandsToApply(self) -> None: ...
        def transferLeadership(self, node: Any = None, callback: Any = None) -> None: ...
        def _SyncObj__onMessageReceived(self, node: Any, message: dict[str, Any]) -> None: ...
        def _SyncObj__setCurrentTerm(self, term: int, vote: str | None) -> None: ...
        def _SyncObj__onBecomeLeader(self) -> None: ...
        def _SyncObj__setState(self, state: int) -> None: ...
        def _SyncObj__generateRaftTimeout(self) -> float: ...
        def _SyncObj__sendAppendEntries(self) -> None: ...
        def _SyncObj__sendNextNodeIdx(
            self, node: Any, reset: bool = False, nextNodeIdx: int = 0, success: bool = False
        ) -> None: ...
        def _SyncObj__doChangeCluster(self, request: Any, reverse: bool = False) -> bool: ...
        def _SyncObj__updateClusterConfiguration(self, nodes: list[Any]) -> None: ...
        def _SyncObj__onNodeDisconnected(self, node: Any) -> None: ...

else:
    from pysyncobj import SyncObj, SyncObjConf
    from pysyncobj.journal import Journal as JournalBase
    from pysyncobj.node import Node
    from pysyncobj.transport import Transport


__all__ = [
    "FOLLOWER",
    "LEADER",
    "MEMBERSHIP",
    "NO_OP",
    "REGULAR",
    "Callback",
    "JournalBase",
    "Node",
    "PlainData",
    "SyncObj",
    "SyncObjConf",
    "Transport",
    "monotonic",
    "syncobj",
    "verify",
]

_REPLACED: Final = (
    "sendAppendEntries",
    "applyLogEntries",
    "doApplyCommand",
    "changeCluster",
    "doChangeCluster",
    "connectedToAnyone",
    "tryLogCompaction",
    "loadDumpFile",
    "onBecomeLeader",
    "setCurrentTerm",
    "setState",
    "onNodeDisconnected",
)


class PlainData:
    """Takes the place of the module `pickle` in PySyncObj: msgpack, so bytes never become code."""

    @staticmethod
    def dumps(value: object, protocol: object = None) -> bytes:
        """Encode plain data."""
        return msgspec.msgpack.encode(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        """Decode plain data. Raises msgspec.DecodeError."""
        return msgspec.msgpack.decode(data)


class _NoPoller:
    """Takes the place of the socket poller: PySyncObj owns no socket here."""

    def poll(self, timeout_s: float) -> None:
        """Nothing can have happened."""


def monotonic() -> float:
    """Return PySyncObj's clock in seconds; a simulation replaces it for both of us."""
    now: float = syncobj.monotonicTime()
    return now


def verify(version: str, source: bytes) -> None:
    """Refuse any PySyncObj but the audited one. Raises ImportError."""
    digest = hashlib.sha256(source).hexdigest()
    if version != VERSION or digest != SOURCE_SHA256:
        raise ImportError(
            f"pysyncobj {version} (syncobj.py {digest[:12]}) is not the audited {VERSION}; "
            f"install pysyncobj=={VERSION}"
        )


def _install() -> None:
    verify(syncobj.VERSION, Path(syncobj.__file__).read_bytes())
    for name in _REPLACED:
        if not hasattr(SyncObj, f"_SyncObj__{name}"):
            raise ImportError(f"pysyncobj {VERSION} lacks the private method __{name}")
    syncobj.pickle = PlainData
    syncobj.createJournal = lambda journal: journal
    syncobj.createPoller = lambda kind: _NoPoller()
    syncobj.PIPE_NOTIFIER_ENABLED = False


_install()
