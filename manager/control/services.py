"""Services: create, update, roll back, remove, list."""

from typing import Final, NamedTuple

from msgspec.structs import replace

from manager.control.lookup import (
    Filters,
    find_network,
    find_service,
    matches_labels,
    matches_one,
    matches_prefix,
)
from manager.control.ports import check_ports, with_ports
from manager.control.references import resolve_references
from manager.control.registry_auth import kept_auth
from manager.control.validate import check_service
from manager.orchestrator.jobs import is_complete
from manager.orchestrator.runs import first_status, updated_status
from manager.orchestrator.slots import slots_of
from manager.orchestrator.update import Outdated, lost_reference
from manager.replica import OUT_OF_SEQUENCE, Store
from manager.store.changes import Delete, PutService, PutSpecVersion, SetUpdateStatus
from manager.store.ports import ports_of
from manager.store.view import View, is_live, is_wanted
from swarmapi.errors import FailedPrecondition, Internal, InvalidArgument
from swarmapi.model import defaults
from swarmapi.model.objects import (
    JobStatus,
    RegistryAuth,
    Service,
    SpecVersion,
    TaskState,
    UpdateState,
    UpdateStatus,
)
from swarmapi.model.spec import (
    NetworkAttachmentConfig,
    Replicated,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)

FILTERS: Final = ("id", "name", "label", "mode", "runtime")


class ServiceCounts(NamedTuple):
    """`ServiceStatus` of the list: tasks running, wanted and completed."""

    running: int
    desired: int
    completed: int


async def create_service(
    store: Store, spec: ServiceSpec, request_id: str = "", auth: RegistryAuth | None = None
) -> Service:
    """Create a service whose image is pulled with `auth`, and return it.

    Raises:
        SwarmError: invalid, name taken, network or port not available.
    """
    service_id = store.object_id(request_id)
    if not spec.name:
        spec = replace(spec, name=f"service-{service_id[:10]}")
    spec = with_ports(replace(spec, mode=_filled_mode(spec.mode)), None)
    check_service(spec)
    spec, networks = _resolve_networks(store.view, resolve_references(store.view, spec))
    check_ports(store.view, spec, service_id)
    job = first_status(spec, store.now_ns()) if defaults.is_job(spec) else None
    service = Service(id=service_id, spec=spec, spec_version=1, job_status=job)
    record = SpecVersion(
        service_id=service_id, version=1, spec=spec, networks=networks, registry_auth=auth
    )
    changes = (
        PutSpecVersion(record=record, reason="service created"),
        PutService(service=service, expect_version=0, reason="service created"),
    )
    await store.propose(changes, request_id)
    return store.made(store.view.services.get(service_id), spec.name)


async def update_service(
    store: Store,
    key: str,
    spec: ServiceSpec,
    version: int,
    request_id: str = "",
    auth: RegistryAuth | None = None,
    auth_from: str = "spec",
) -> Service:
    """Replace a service's spec; its tasks follow by a rolling update.

    Without `auth`, the login of the spec in force is kept, or with `auth_from`
    "previous-spec" that of the one before.

    Raises:
        SwarmError: a stale version, an invalid spec, another name or mode, no previous spec.
    """
    service = find_service(store.view, key)
    _check_version(store, service, version, request_id)
    if not spec.name:
        spec = replace(spec, name=service.spec.name)
    spec = replace(spec, mode=_kept_mode(spec.mode, service.spec.mode))
    spec = with_ports(_with_deadlines(spec, service.spec), service.spec)
    if spec.name != service.spec.name:
        raise InvalidArgument(f"Name: service {service.spec.name} cannot be renamed")
    if defaults.mode(spec) != defaults.mode(service.spec):
        raise InvalidArgument("Mode: the mode of a service cannot be changed: create another one")
    check_service(spec)
    spec, networks = _resolve_networks(
        store.view, resolve_references(store.view, spec, service.spec)
    )
    check_ports(store.view, spec, service.id)
    auth = auth or kept_auth(store.view, service, spec, auth_from)
    number = store.view.next_spec_version(service.id)
    record = SpecVersion(
        service_id=service.id, version=number, spec=spec, networks=networks, registry_auth=auth
    )
    return await _put(store, service, record, None, version, request_id)


async def rollback_service(
    store: Store,
    key: str,
    version: int,
    request_id: str = "",
    auth: RegistryAuth | None = None,
    to: int = 0,
) -> Service:
    """Return a service to its previous spec, or version `to`; without `auth`, to its login too.

    Raises:
        FailedPrecondition: that spec is not kept.
    """
    service = find_service(store.view, key)
    _check_version(store, service, version, request_id)
    record = store.view.specs.get((service.id, to or service.previous_spec_version))
    if record is None and not to:
        raise FailedPrecondition(f"service {service.spec.name} does not have a previous spec")
    if record is None or to == service.spec_version:
        others = ", ".join(str(r.version) for r in kept_specs(store.view, service)[1:]) or "none"
        raise FailedPrecondition(
            f"service {service.spec.name} cannot go back to spec version {to}: kept are {others}"
        )
    kept = record.spec
    if missing := lost_reference(store.view, kept):
        raise FailedPrecondition(
            f"service {service.spec.name} cannot go back to spec version {record.version}: "
            f"{missing} was removed: see service history for others, or update the service"
        )
    spec, networks = _resolve_networks(store.view, resolve_references(store.view, kept))
    check_ports(store.view, spec, service.id)
    auth = auth or record.registry_auth
    number = store.view.next_spec_version(service.id)
    record = SpecVersion(
        service_id=service.id, version=number, spec=spec, networks=networks, registry_auth=auth
    )
    status = UpdateStatus(
        state=UpdateState.ROLLBACK_STARTED,
        started_ns=store.now_ns(),
        message="manually requested rollback",
    )
    return await _put(store, service, record, status, version, request_id)


async def resume_service(store: Store, key: str, request_id: str = "") -> Service:
    """Go on with an update or a rollback that paused; what failed until now is forgiven.

    Raises:
        FailedPrecondition: nothing of it is paused.
    """
    service = find_service(store.view, key)
    if store.knows(request_id):
        return service
    status = service.update_status
    going_on = {
        UpdateState.PAUSED: (UpdateState.UPDATING, "update resumed"),
        UpdateState.ROLLBACK_PAUSED: (UpdateState.ROLLBACK_STARTED, "rollback resumed"),
    }
    if status is None or status.state not in going_on:
        raise FailedPrecondition(f"service {service.spec.name} has no update that is paused")
    state, message = going_on[status.state]
    resumed = replace(
        status, state=state, message=message, completed_ns=0, forgiven=len(status.failed_tasks)
    )
    change = SetUpdateStatus(
        service_id=service.id, spec_version=service.spec_version, status=resumed, reason=message
    )
    await store.propose((change,), request_id)
    return store.view.services.get(service.id, service)


async def remove_service(store: Store, key: str, request_id: str = "") -> None:
    """Remove a service; its tasks are stopped and removed after it."""
    if store.knows(request_id):
        return
    service = find_service(store.view, key)
    change = Delete(object="service", id=service.id, reason="service removed")
    await store.propose((change,), request_id)


def list_services(view: View, filters: Filters) -> list[Service]:
    """Return the services that match, by id."""
    return [
        s
        for _, s in sorted(view.services.items())
        if matches_prefix(filters, "id", s.id)
        and matches_prefix(filters, "name", s.spec.name)
        and matches_labels(filters, "label", s.spec.labels)
        and matches_one(filters, "mode", defaults.mode(s.spec))
        and matches_one(filters, "runtime", "container")
    ]


def previous_spec(view: View, service: Service) -> ServiceSpec | None:
    """Return what a rollback returns to."""
    record = view.specs.get((service.id, service.previous_spec_version))
    return record.spec if record is not None else None


def kept_specs(view: View, service: Service) -> list[SpecVersion]:
    """Return the spec in force, the previous one and older ones that a rollback may return to."""
    versions = (service.spec_version, service.previous_spec_version, *service.older_spec_versions)
    found = (view.specs.get((service.id, version)) for version in versions)
    return [record for record in found if record is not None]


def count_tasks(view: View, service: Service) -> ServiceCounts:
    """Return how many tasks run, shall run and completed."""
    if service.job_status is not None:
        return _count_job(view, service, service.job_status)
    running = desired = completed = 0
    outdated = Outdated(view, service)
    for task in view.tasks_of_service(service.id):
        node = view.nodes.get(task.node_id)
        if task.status.state == TaskState.RUNNING and task.desired == TaskState.RUNNING:
            running += 1
        if task.status.state == TaskState.COMPLETE and not outdated(task):
            completed += 1
        if is_wanted(task) and is_live(task) and (node is None or node.is_fit):
            desired += 1
    if not defaults.is_global(service.spec):
        desired = defaults.replicas(service.spec)
    return ServiceCounts(running, desired, completed)


def _count_job(view: View, service: Service, status: JobStatus) -> ServiceCounts:
    """Count an iteration as Docker does: wanted are the tasks that shall run at once."""
    slots = slots_of(view, service.id, status.iteration).values()
    wanted = [s for s in slots if s.wanted and not is_complete(s)]
    running = sum(s.is_running for s in wanted)
    completed = sum(is_complete(s) for s in slots)
    if defaults.is_per_node(service.spec):
        return ServiceCounts(running, len(wanted), completed)
    return ServiceCounts(running, defaults.max_concurrent(service.spec), completed)


def _filled_mode(mode: ServiceMode) -> ServiceMode:
    """Return the mode of a new service: replicated when none is given, a job with a schedule."""
    if any((mode.replicated, mode.global_, mode.replicated_job, mode.global_job)):
        return mode
    if mode.cron is not None:
        return replace(mode, replicated_job=ReplicatedJob())
    return replace(mode, replicated=Replicated(replicas=1))


def _kept_mode(mode: ServiceMode, old: ServiceMode) -> ServiceMode:
    """Return the mode of an update: what Docker's clients do not know of it stays."""
    if mode == ServiceMode():
        return old
    if not any((mode.replicated, mode.global_, mode.replicated_job, mode.global_job)):
        job = {"replicated_job": old.replicated_job, "global_job": old.global_job}
        mode = replace(mode, replicated=old.replicated, global_=old.global_, **job)
    deadline = old.deadline if mode.deadline is None else mode.deadline
    return replace(mode, deadline=deadline, cron=mode.cron or old.cron)


async def _put(
    store: Store,
    service: Service,
    record: SpecVersion,
    status: UpdateStatus | None,
    version: int,
    request_id: str,
) -> Service:
    cluster = store.view.cluster
    kept = defaults.specs_kept(cluster.spec) if cluster is not None else defaults.SPECS_KEPT
    older = (service.previous_spec_version, *service.older_spec_versions)
    new = replace(
        service,
        spec=record.spec,
        spec_version=record.version,
        previous_spec_version=service.spec_version,
        update_status=None if defaults.is_job(record.spec) else status,
        job_status=updated_status(service, record.spec, store.now_ns(), rerun=status is not None),
        older_spec_versions=tuple(v for v in older if v)[: kept - 1],
    )
    reason = "rollback requested" if status is not None else "service updated"
    changes = (
        PutSpecVersion(record=record, reason=reason),
        PutService(service=new, expect_version=version, reason=reason),
    )
    await store.propose(changes, request_id)
    return store.view.services.get(service.id, new)


def _check_version(store: Store, service: Service, version: int, request_id: str) -> None:
    if service.meta.version != version and not store.knows(request_id):
        raise Internal(OUT_OF_SEQUENCE)


def _with_deadlines(spec: ServiceSpec, old: ServiceSpec) -> ServiceSpec:
    """Keep the progress deadlines where a client that does not know them wrote the spec back."""

    def kept(new: UpdateConfig | None, before: UpdateConfig | None) -> UpdateConfig | None:
        if new is None or before is None or new.progress_deadline is not None:
            return new
        return replace(new, progress_deadline=before.progress_deadline)

    return replace(
        spec,
        update_config=kept(spec.update_config, old.update_config),
        rollback_config=kept(spec.rollback_config, old.rollback_config),
    )


def _resolve_networks(view: View, spec: ServiceSpec) -> tuple[ServiceSpec, tuple[str, ...]]:
    """Return the spec with network ids as targets, and the ids its tasks attach to."""
    in_template = spec.task_template.networks is not None
    given = spec.task_template.networks if in_template else spec.networks
    attached: list[NetworkAttachmentConfig] = []
    for number, attachment in enumerate(given or ()):
        path = f"{'TaskTemplate.' if in_template else ''}Networks[{number}].Target"
        network = find_network(view, attachment.target)
        if network.spec.ingress:
            raise InvalidArgument(f"{path}: the ingress network cannot be attached explicitly")
        if any(network.id == other.target for other in attached):
            raise InvalidArgument(f"{path}: network {network.spec.name} is given twice")
        attached.append(replace(attachment, target=network.id))
    if in_template:
        spec = replace(spec, task_template=replace(spec.task_template, networks=tuple(attached)))
    elif spec.networks is not None:
        spec = replace(spec, networks=tuple(attached))
    ids = tuple(a.target for a in attached)
    if any(p.publish_mode != "host" for p in ports_of(spec)):
        ingress = view.ingress_network()
        if ingress is None:
            raise FailedPrecondition(
                "EndpointSpec.Ports: the cluster has no ingress network: create one with "
                "--ingress, or publish in host mode"
            )
        ids = (*ids, ingress.id)
    return spec, ids
