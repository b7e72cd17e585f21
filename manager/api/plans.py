"""The routes of plans, of requests about services, and of rebalancing."""

from collections.abc import Sequence
from typing import Any, Final, Required, TypedDict

import msgspec
from aiohttp import web

from manager.api.keys import STORE
from manager.api.responses import answer, request_id
from manager.control import plans, rebalancing
from manager.plan.outcome import CREATE, KEEP, REMOVE, REPLACE, Plan, PlannedService, PlannedTask
from manager.store.view import View
from swarmapi import query, rest
from swarmapi.errors import InvalidArgument
from swarmapi.model.decode import spec_from
from swarmapi.model.objects import Config, Secret
from swarmapi.model.spec import SecretSpec, ServiceSpec
from swarmapi.rest import Route

PLAN_VERSION: Final = rest.integer(
    "planVersion", "refuse where the plan of this request has another version by now", default=-1
)
Json = dict[str, Any]
_CONTENTS: Final = {"Secrets": Secret, "Configs": Config}


class PlanItem(TypedDict, total=False):
    """One thing to do: `Action` is create, update, rollback or remove."""

    Action: str
    ID: str
    Version: int
    To: int
    Spec: ServiceSpec


class PlanRequest(TypedDict, total=False):
    """What to plan, in order; secrets and configs are made first, or take over their names."""

    Services: Required[list[PlanItem]]
    Secrets: list[SecretSpec]
    Configs: list[SecretSpec]


class PlannedName(TypedDict):
    """A secret or config: `Action` is create, replace or keep."""

    Name: str
    Action: str


class PlanAnswer(TypedDict):
    """A plan: `Version` is for `planVersion` of the request itself, where it is the only one."""

    Version: int
    Fits: bool
    Services: list[Json]
    Secrets: list[PlannedName]
    Configs: list[PlannedName]


async def make_plan(request: web.Request) -> web.Response:
    """Tell what creating, updating or removing services would do, and where each task would go."""
    store = request.app[STORE]
    data = _lists(await request.read())
    plan = await plans.make_plan(store, _requests(data["Services"]), _contents(data))
    return answer(plan_json(store.view, plan))


def _lists(raw: bytes) -> dict[str, list[Json]]:
    try:
        data = msgspec.json.decode(raw, type=dict[str, list[dict[str, Any]]])
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}: give Services, a list") from error
    unknown = data.keys() - {"Services", *_CONTENTS}
    if unknown:
        raise InvalidArgument(f"unsupported field {min(unknown)}")
    if not data.get("Services"):
        raise InvalidArgument("Services: a list of what to do is expected")
    return data


def _contents(data: dict[str, list[Json]]) -> list[plans.Content]:
    found = []
    for name, kind in _CONTENTS.items():
        for number, item in enumerate(data.get(name) or ()):
            try:
                found.append((kind, spec_from(item, SecretSpec)))
            except InvalidArgument as error:
                raise InvalidArgument(f"{name}[{number}].{error.message}") from error
    return found


def _requests(items: list[Json]) -> list[plans.Request]:
    found = []
    for number, item in enumerate(items):
        unknown = item.keys() - {"Action", "ID", "Version", "To", "Spec"}
        if unknown:
            raise InvalidArgument(f"unsupported field Services[{number}].{min(unknown)}")
        spec = item.get("Spec") or {}
        if not isinstance(spec, dict):
            raise InvalidArgument(f"Services[{number}].Spec: an object is expected")
        fields = {k.lower(): v for k, v in item.items() if k != "Spec"}
        try:
            found.append(
                msgspec.convert({**fields, "spec": spec_from(spec, ServiceSpec)}, plans.Request)
            )
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"Services[{number}]: {error}") from error
        except InvalidArgument as error:
            raise InvalidArgument(f"Services[{number}].Spec.{error.message}") from error
    return found


def plan_json(view: View, plan: Plan) -> Json:
    """Return a plan with the names of its nodes."""
    return {
        "Version": plan.version,
        "Fits": not any(task.unplaced for s in plan.services for task in s.tasks),
        "Services": [_service_json(view, service) for service in plan.services],
        **{
            name: [
                {"Name": c.name, "Action": c.action} for c in plan.contents if c.kind == kind.kind
            ]
            for name, kind in _CONTENTS.items()
        },
    }


def _service_json(view: View, service: PlannedService) -> Json:
    return {
        "ID": service.id if service.id in view.services else "",
        "Name": service.name,
        "Action": service.action,
        "Changes": list(service.changes),
        "Create": service.having(CREATE),
        "Replace": service.having(REPLACE),
        "Keep": service.having(KEEP),
        "Remove": service.having(REMOVE),
        "Unplaced": sum(bool(task.unplaced) for task in service.tasks),
        "Tasks": [_task_json(view, task) for task in service.tasks],
    }


def _task_json(view: View, task: PlannedTask) -> Json:
    return {
        "Slot": task.slot,
        "Action": task.action,
        "FromNode": _name(view, task.before_node),
        "NodeID": task.node,
        "Node": _name(view, task.node),
        "Unplaced": task.unplaced,
    }


def _name(view: View, node_id: str) -> str:
    node = view.nodes.get(node_id)
    return (node.description.hostname if node is not None else "") or node_id


class RebalanceShown(TypedDict):
    """A rebalancing: `State` is none, running, stopping or done; `Skipped` are services by name.

    A move of theirs failed, or their update was not over when it ended.
    """

    State: str
    Moved: int
    Skipped: list[str]


async def plan_rebalance(request: web.Request) -> web.Response:
    """Tell what a rebalancing would move."""
    store = request.app[STORE]
    return answer(plan_json(store.view, rebalancing.plan_rebalance(store)))


async def begin_rebalance(request: web.Request) -> web.Response:
    """Even out replicated services over the nodes there are by now, starting first."""
    store, planned = request.app[STORE], query.integer(request, "planVersion")
    await rebalancing.begin_rebalance(store, planned, request_id(request))
    return answer(_rebalance_json(store.view), 202)


async def show_rebalance(request: web.Request) -> web.Response:
    """Show the rebalancing that is under way, or the last one."""
    return answer(_rebalance_json(request.app[STORE].view))


async def stop_rebalance(request: web.Request) -> web.Response:
    """Begin no more moves; those under way are finished."""
    store = request.app[STORE]
    await rebalancing.stop_rebalance(store, request_id(request))
    return answer(_rebalance_json(store.view))


def _rebalance_json(view: View) -> RebalanceShown:
    state = view.cluster.rebalance if view.cluster is not None else None
    if state is None:
        return {"State": "none", "Moved": 0, "Skipped": []}
    running = "stopping" if state.stopping else "running"
    names = [view.services[i].spec.name for i in state.skipped if i in view.services]
    return {"State": "done" if state.ended_ns else running, "Moved": state.moved, "Skipped": names}


_REBALANCE: Final = "/swarm/v1/rebalance"
ROUTES: Final[Sequence[Route]] = (
    Route("POST", "/swarm/v1/plan", make_plan, body=PlanRequest, answer=PlanAnswer),
    Route("GET", _REBALANCE, show_rebalance, answer=RebalanceShown),
    Route("GET", _REBALANCE + "/plan", plan_rebalance, answer=PlanAnswer),
    Route("POST", _REBALANCE, begin_rebalance, (PLAN_VERSION,), answer=RebalanceShown, status=202),
    Route("DELETE", _REBALANCE, stop_rebalance, answer=RebalanceShown),
)
