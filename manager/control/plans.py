"""Plans: what a list of requests about services would do, found by doing it to a copy."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from manager.control import services
from manager.control.lookup import find_service
from manager.control.secrets import create_secret
from manager.plan.future import Future
from manager.plan.outcome import CREATE, KEEP, REPLACE, Plan, PlannedContent, compare
from manager.replica import Replica, Store, error_of
from manager.store.changes import Change
from manager.store.view import View
from swarmapi.errors import Conflict, InvalidArgument
from swarmapi.model.objects import Secret
from swarmapi.model.spec import SecretSpec, ServiceSpec
from swarmapi.override import override

ACTIONS: Final = ("create", "update", "remove", "rollback")
ATTEMPTS: Final = 3
"""How often a plan is begun anew because the cluster moved."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do: `id` (or a name) and `version` are not for create, `spec` not for remove."""

    action: str
    id: str = ""
    version: int = -1
    """Of the service as it was read; -1 is any."""
    to: int = 0
    """Of a rollback: the spec version to go back to, 0 for the previous one."""
    spec: ServiceSpec = ServiceSpec()


Content = tuple[type[Secret], SecretSpec]
"""A secret or config that is made first, or takes over its name."""


class _Rehearsal(Store):
    """The store as the use cases know it, of a future: what they propose happens there alone."""

    def __init__(self, store: Store, future: Future) -> None:
        super().__init__(Replica(), store.log, future.new_id, lambda: future.now_ns)
        self._future = future

    @property
    @override
    def view(self) -> View:
        return self._future.view

    @override
    async def propose(self, changes: Iterable[Change], request_id: str = "") -> None:
        conflict = self._future.commit(changes).conflict
        if conflict is not None:
            raise error_of(conflict)


async def make_plan(
    store: Store, requests: Sequence[Request], contents: Sequence[Content] = ()
) -> Plan:
    """Return what would come of storing `contents`, then doing all requests, one after the other.

    It is foretold a turn at a time, so that beats and reports are served meanwhile. What happens
    to the cluster then is foretold from anew: at last in one go.

    Raises:
        SwarmError: what doing them would raise, with the number of the request where there are
            several; or that it is too much to foretell.
    """
    for _ in range(ATTEMPTS):
        try:
            return await _make_plan(store, requests, contents, _Pace(store))
        except _Moved:
            continue
    return await _make_plan(store, requests, contents, None)


class _Moved(Exception):
    """The cluster is another than the one that is looked at."""


class _Pace:
    """Lets others have the loop between two turns, for as long as nothing changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._view, self._index = store.view, store.view.index

    async def rest(self) -> None:
        await asyncio.sleep(0)
        if (self._store.view, self._store.view.index) != (self._view, self._index):
            raise _Moved


async def _settle(future: Future, service_ids: Iterable[str], pace: _Pace | None) -> None:
    for _ in future.settling(service_ids):
        if pace is not None:
            await pace.rest()


async def _make_plan(
    store: Store, requests: Sequence[Request], contents: Sequence[Content], pace: _Pace | None
) -> Plan:
    future = Future(store.view, store.now_ns())
    rehearsal = _Rehearsal(store, future)
    made = [await _keep(rehearsal, kind, spec) for kind, spec in contents]
    actions = {
        service_id: "update"
        for service_id, service in sorted(store.view.services.items())
        if made and future.view.services[service_id].spec_version != service.spec_version
    }
    if actions:
        await _settle(future, actions, pace)
    for number, request in enumerate(requests):
        if request.action not in ACTIONS:
            raise InvalidArgument(f"Services[{number}].Action: one of {', '.join(ACTIONS)}")
        service_id = await _do(rehearsal, request)
        actions[service_id] = request.action
        await _settle(future, [service_id], pace)
    return compare(store.view, future.view, actions)._replace(contents=tuple(made))


async def _keep(store: Store, kind: type[Secret], spec: SecretSpec) -> PlannedContent:
    before = store.view.by_name(kind.kind, spec.name)
    after = (await create_secret(store, spec, kind, replacing=True)).id
    action = CREATE if before is None else KEEP if after == before else REPLACE
    return PlannedContent(kind.kind, spec.name, action)


async def _do(store: Store, request: Request) -> str:
    if request.action == "create":
        return (await services.create_service(store, request.spec)).id
    service = find_service(store.view, request.id)
    version = service.meta.version if request.version < 0 else request.version
    if request.action == "update":
        await services.update_service(store, service.id, request.spec, version)
    elif request.action == "rollback":
        await services.rollback_service(store, service.id, version, to=request.to)
    else:
        await services.remove_service(store, service.id)
    return service.id


async def check_plan(store: Store, request: Request, version: int, request_id: str) -> None:
    """Refuse a request whose plan is not any more the one with this version.

    Raises:
        Conflict: something that matters to it has moved.
    """
    if version < 0 or store.knows(request_id):
        return
    now = (await make_plan(store, (request,))).version
    if now != version:
        raise Conflict(
            f"the cluster moved since plan {version}: look at the plan again, it is {now} now"
        )
