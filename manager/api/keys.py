"""What the application hands to its handlers."""

from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from manager.dispatcher.probes import ProbeBroker
from manager.events import EventLog
from manager.execs.broker import ExecBroker
from manager.logbroker.broker import LogBroker
from manager.replica import Store

STORE: Final = web.AppKey("store", Store)
NODE_ID: Final = web.AppKey("node_id", str)
BROKER: Final = web.AppKey("broker", LogBroker)
EXECS: Final = web.AppKey("execs", ExecBroker)
RAFT_USAGE: Final[web.AppKey[Callable[[], dict[str, Any]]]] = web.AppKey("raft_usage")
PROBES: Final = web.AppKey("probes", ProbeBroker)
EVENTS: Final = web.AppKey("events", EventLog)
