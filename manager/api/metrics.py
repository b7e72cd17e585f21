"""Figures of the manager that is asked: its share in Raft, and the cluster as it knows it."""

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from aiohttp import web

from manager.api.keys import STORE
from manager.replica import LogStatus
from manager.store.view import View
from swarmapi import rest
from swarmapi.metrics import CONTENT_TYPE, Metric, by, of_process, render, single
from swarmapi.model.objects import NodeState, TaskState
from swarmapi.rest import Route


async def get_metrics(request: web.Request) -> web.Response:
    """Show figures in Prometheus' text format, also while the cluster has no leader."""
    store = request.app[STORE]
    found = [*raft_metrics(store.log.status, store.view), *cluster_metrics(store.view)]
    text = render([*found, *of_process("swarm_manager")])
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def raft_metrics(status: LogStatus, view: View) -> list[Metric]:
    """Return how this member stands."""
    has_leader = bool(status.leader_id or status.is_leader)
    return [
        single("swarm_raft_is_leader", "1 on the leader.", int(status.is_leader)),
        single("swarm_raft_has_leader", "1 where a leader is known.", int(has_leader)),
        single("swarm_raft_applied_index", "Index of the last applied change.", view.index),
    ]


_state = attrgetter("status.state")


def cluster_metrics(view: View) -> list[Metric]:
    """Return what the cluster holds, by state."""
    nodes = Counter(dict.fromkeys((state.name.lower() for state in NodeState), 0))
    nodes.update(node.state.name.lower() for node in view.nodes.values())
    states = Counter(map(_state, view.tasks.values()))  # names are made once, tasks are many
    tasks = Counter(dict.fromkeys((state.name.lower() for state in TaskState), 0))
    tasks.update({state.name.lower(): count for state, count in states.items()})
    return [
        Metric("swarm_nodes", "Nodes by state.", by("state", nodes)),
        Metric("swarm_tasks", "Tasks by state, ended ones that are kept too.", by("state", tasks)),
        single("swarm_services", "Services.", len(view.services)),
        single("swarm_networks", "Networks of the cluster.", len(view.networks)),
        single("swarm_secrets", "Secrets.", len(view.secrets)),
        single("swarm_configs", "Configs.", len(view.configs)),
    ]


ROUTES: Final[Sequence[rest.Declared]] = (
    Route("GET", "/swarm/v1/metrics", get_metrics, answer=str, content="text"),
)
SERVED_ALONE: Final = frozenset((get_metrics,))
"""Handlers that need neither a leader nor a cluster."""
