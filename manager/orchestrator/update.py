"""Rolling updates. All progress is in the store: the update status and the tasks' records.

Which earlier specs may come back is the service's; `update` itself goes back by one.

A slot is *dirty* when it holds a wanted task of an outdated spec, or ended there. An update
takes at most `parallelism` slots at once; a slot stays taken until its new task runs or ended,
and for `delay` afterwards. The end is judged once more for `monitor` after the last slot.
"""

from typing import Final

from msgspec.structs import replace

from manager.orchestrator.drain import is_known, stop
from manager.orchestrator.slots import (
    Slot,
    SlotKey,
    create_task,
    ended_by_itself,
    may_restart,
    must_leave,
    slots_of,
)
from manager.scheduler.constraints import matches_all
from manager.scheduler.schedule import hindrances
from manager.store.changes import PutService, SetUpdateStatus
from manager.store.turn import NOT_COMMITTED, Turn
from manager.store.view import View, is_live, is_wanted
from swarmapi.model import defaults
from swarmapi.model.objects import Service, Task, TaskState, UpdateState, UpdateStatus
from swarmapi.model.spec import Placement, ServiceSpec, UpdateConfig

Slots = dict[SlotKey, Slot]
_PAUSED: Final = (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED)
_BUSY: Final = (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)


class Outdated:
    """Tells which tasks of a service run an outdated spec; remembers answers per version."""

    def __init__(self, view: View, service: Service) -> None:
        self._view = view
        self._service = service
        self._differs: dict[int, str] = {}

    def __call__(self, task: Task) -> bool:
        """Tell whether a task must be replaced to follow the service's spec.

        A placement that its node satisfies anyway and changes of service-level fields
        (labels, count, update settings) replace nothing.
        """
        if task.spec_version == self._service.spec_version:
            return False
        differs = self._differs.get(task.spec_version)
        if differs is None:
            record = self._view.spec_of(task)
            differs = "all" if record is None else _difference(record.spec, self._service.spec)
            self._differs[task.spec_version] = differs
        if differs == "placement":
            node = self._view.nodes.get(task.node_id)
            placement = self._service.spec.task_template.placement or Placement()
            return node is None or not matches_all(placement.constraints or (), node)
        return differs == "all"


def _difference(old: ServiceSpec, new: ServiceSpec) -> str:
    same = defaults.mean_the_same
    old = defaults.in_force(old, new)  # what is swapped in place replaces nothing
    before, after = defaults.task_template(old), defaults.task_template(new)
    if not same(defaults.endpoint(old), defaults.endpoint(new)):
        return "all"
    if (old.networks or ()) != (new.networks or ()):
        return "all"
    if same(before, after):
        return "none"
    return "placement" if same(replace(before, placement=after.placement), after) else "all"


def update(turn: Turn, service: Service, slots: Slots) -> None:
    """Take the service's update one step further, if it has one."""
    status = service.update_status
    if status is not None and status.state in _PAUSED:
        return
    outdated = Outdated(turn.view, service)
    dirty = [s for s in slots.values() if _is_dirty(turn, s, outdated)]
    if status is None or status.state not in _BUSY:
        behind = [s for s in dirty if any(outdated(t) for t in s.tasks)]
        if status is not None:
            behind = [s for s in behind if _may_begin(turn, service, status, s)]
        if not behind:
            _drop_extras(turn, dirty)
            return
        status = UpdateStatus(
            state=UpdateState.UPDATING,
            started_ns=turn.now_ns,
            message="update in progress",
            dirty_slots=len(dirty),
        )
        _store(turn, service, status, "the spec changed")
    elif not status.dirty_slots and dirty:
        started_ns = status.started_ns or turn.now_ns
        status = replace(status, dirty_slots=len(dirty), started_ns=started_ns)
        _store(turn, service, status, "the rollback begins")
    rolling_back = status.state == UpdateState.ROLLBACK_STARTED
    config = defaults.update_config(
        service.spec.rollback_config if rolling_back else service.spec.update_config
    )
    judged = _judge(turn, service, slots, status, config)
    if judged is None:
        return
    _Step(turn, service, outdated, config, judged).run(slots, dirty)


def is_busy(service: Service) -> bool:
    """Tell whether a service has an update or a rollback under way, or paused."""
    status = service.update_status
    return status is not None and status.state in (*_BUSY, *_PAUSED)


def _staying(turn: Turn, slot: Slot) -> list[Task]:
    """Return the wanted tasks that are not on their way off a drained node or to another one."""
    moved = {t.replaces for t in slot.wanted if t.replaces and is_live(t)}
    return [t for t in slot.wanted if t.id not in moved and not must_leave(turn, t)]


def _is_dirty(turn: Turn, slot: Slot, outdated: Outdated) -> bool:
    wanted = slot.wanted
    if not wanted:
        return not is_live(slot.newest) and outdated(slot.newest)
    return len(_staying(turn, slot)) > 1 or any(outdated(t) for t in wanted)


def _drop_extras(turn: Turn, dirty: list[Slot]) -> None:
    """Keep one task of slots that hold several: the one that is furthest."""
    for slot in dirty:
        staying = _staying(turn, slot)
        kept = max(staying, key=lambda t: (is_live(t), t.status.state, t.id), default=None)
        for task in staying:
            if kept is not None and task.id != kept.id:
                stop(turn, task, TaskState.SHUTDOWN, f"slot is held by {kept.id}")


def _store(turn: Turn, service: Service, status: UpdateStatus, reason: str) -> None:
    turn.emit(
        SetUpdateStatus(
            service_id=service.id,
            spec_version=service.spec_version,
            status=status,
            reason=reason,
        )
    )


def _made_now(task: Task, service: Service, status: UpdateStatus) -> bool:
    """Tell whether this update made the task."""
    return (
        task.by_update
        and task.spec_version == service.spec_version
        and task.meta.created_ns >= status.started_ns
    )


def _may_begin(turn: Turn, service: Service, status: UpdateStatus, slot: Slot) -> bool:
    """Tell whether a slot without a new task may have one: once, unless it was taken away.

    Started first, a new task that is stopped with its node, or to make room for others,
    leaves the old one alone in its slot; only what ends by itself is no reason to try again.
    """
    made = [t for t in slot.tasks if _made_now(t, service, status)]
    if not made:
        return True
    tries = [t for t in slot.tasks if t.meta.created_ns >= made[0].meta.created_ns]
    tries = [t for t in tries if t.spec_version == service.spec_version]
    if any(is_wanted(t) for t in tries):
        return False
    last = tries[-1]
    return not ended_by_itself(last) or may_restart(turn.view, service, slot, last)


def _judge(
    turn: Turn, service: Service, slots: Slots, status: UpdateStatus, config: UpdateConfig
) -> UpdateStatus | None:
    """Count new failures; return the status to go on with, None when the update stopped."""
    if config.failure_action == "continue":
        return status
    failed = list(status.failed_tasks)
    for slot in slots.values():
        for task in slot.tasks:
            if task.id in failed or not _made_now(task, service, status):
                continue
            if _ended_early(task, config) or is_stuck(turn, task, config):
                failed.append(task.id)
    if len(failed) == len(status.failed_tasks):
        return status
    status = replace(status, failed_tasks=tuple(failed))
    counted = len(failed) - status.forgiven
    if counted / max(status.dirty_slots, 1) <= config.max_failure_ratio:
        _store(turn, service, status, "a new task failed")
        return status
    _act_on_failure(turn, service, status, config)
    return None


def _ended_early(task: Task, config: UpdateConfig) -> bool:
    if not ended_by_itself(task):
        return False
    return not task.running_ns or task.status.applied_ns - task.running_ns <= config.monitor


def is_stuck(turn: Turn, task: Task, config: UpdateConfig) -> bool:
    """Tell whether a wanted task did not run within the progress deadline.

    It was ready when it began to run; one that is not ready for a while later is not stuck.
    """
    limit_ns = defaults.progress_deadline_ns(config)
    runs = task.status.state >= TaskState.RUNNING
    if not limit_ns or not is_wanted(task) or runs:
        return False
    due_ns = task.meta.created_ns + limit_ns
    if turn.now_ns < due_ns:
        turn.wake_at(due_ns)
        return False
    return True


def _cause(turn: Turn, task_id: str, config: UpdateConfig) -> str:
    task = turn.view.tasks.get(task_id)
    if task is None or not is_stuck(turn, task, config):
        return f"due to failure or early termination of task {task_id}"
    limit_s = defaults.progress_deadline_ns(config) / defaults.SECOND_NS
    return f"due to task {task_id}, which did not run within {limit_s:g}s"


def _act_on_failure(
    turn: Turn, service: Service, status: UpdateStatus, config: UpdateConfig
) -> None:
    cause = _cause(turn, status.failed_tasks[-1], config)
    if status.state == UpdateState.ROLLBACK_STARTED:
        _pause(turn, service, status, UpdateState.ROLLBACK_PAUSED, f"rollback paused {cause}")
        return
    previous = turn.view.specs.get((service.id, service.previous_spec_version))
    missing = lost_reference(turn.view, previous.spec) if previous is not None else ""
    if config.failure_action != "rollback" or previous is None or missing:
        message = f"update paused {cause}"
        if config.failure_action == "rollback":
            gone = f"the previous spec cannot run any more: {missing} was removed"
            message += f"; {gone if missing else 'there is no previous spec to roll back to'}"
        _pause(turn, service, status, UpdateState.PAUSED, message)
        return
    message = f"update rolled back {cause}"
    back = UpdateStatus(state=UpdateState.ROLLBACK_STARTED, started_ns=turn.now_ns, message=message)
    restored = replace(
        service,
        spec=previous.spec,
        spec_version=previous.version,
        previous_spec_version=0,
        older_spec_versions=service.older_spec_versions,
        update_status=back,
    )
    turn.again.add(("service", service.id))
    if service.meta.version < NOT_COMMITTED:  # else this turn wrote it: the next one goes on
        turn.emit(PutService(service=restored, expect_version=service.meta.version, reason=message))


def lost_reference(view: View, spec: ServiceSpec) -> str:
    """Return what a kept spec refers to and the cluster has no more, `secret NAME`; or blank.

    Nothing keeps a secret for a rollback alone: rotating one by hand ends with its removal.
    """
    for kind, reference in defaults.references(spec):
        if reference.id not in view.table_of(kind):
            return f"{kind} {reference.name or reference.id}"
    return ""


def _pause(
    turn: Turn, service: Service, status: UpdateStatus, state: UpdateState, message: str
) -> None:
    paused = replace(status, state=state, message=message, completed_ns=turn.now_ns)
    _store(turn, service, paused, message)


class _Step:
    """One look at all slots of an update under way."""

    def __init__(
        self,
        turn: Turn,
        service: Service,
        outdated: Outdated,
        config: UpdateConfig,
        status: UpdateStatus,
    ) -> None:
        self.turn = turn
        self.service = service
        self.outdated = outdated
        self.config = config
        self.status = status

    def run(self, slots: Slots, dirty: list[Slot]) -> None:
        """Finish slots whose new task runs, take new slots, or end the update."""
        # Slots on paused nodes are not given, and yet under way where they were begun before.
        every = slots_of(self.turn.view, self.service.id)
        busy = sum(self._is_busy(slot) for slot in every.values())
        remedy: list[Slot] = []
        for slot in dirty:
            clean = [t for t in _staying(self.turn, slot) if not self.outdated(t)]
            if clean:
                self._finish(slot, clean)
            elif _may_begin(self.turn, self.service, self.status, slot):
                remedy.append(slot)
        limit = self.config.parallelism or len(slots)
        for slot in remedy[: max(limit - busy, 0)]:
            if self.turn.is_full():
                self.turn.again.add(("service", self.service.id))
                return
            self._begin(slot)
        if remedy or any(self._is_moving(slot) for slot in slots.values()):
            return
        if not any(self._may_yet_run(slot) for slot in dirty):
            self._conclude(sum(self._keeps_old(slot) for slot in dirty))

    def _keeps_old(self, slot: Slot) -> bool:
        """Tell whether an outdated task of the slot goes on."""
        tasks = [self.turn.view.tasks[t.id] for t in slot.tasks]
        return any(is_wanted(t) and self.outdated(t) for t in tasks)

    def _may_yet_run(self, slot: Slot) -> bool:
        """Tell whether a new task that never ran is still wanted beside an outdated one."""
        tasks = [self.turn.view.tasks[t.id] for t in slot.tasks]
        return self._keeps_old(slot) and any(is_wanted(t) and not self.outdated(t) for t in tasks)

    def _is_moving(self, slot: Slot) -> bool:
        return any(
            _made_now(t, self.service, self.status)
            and is_wanted(t)
            and t.status.state < TaskState.RUNNING
            and not is_stuck(self.turn, t, self.config)
            for t in slot.tasks
        )

    def _is_busy(self, slot: Slot) -> bool:
        """Tell whether a slot takes a share of the parallelism."""
        for task in slot.tasks:
            if not _made_now(task, self.service, self.status):
                continue
            if task.status.state < TaskState.RUNNING:
                if is_wanted(task) and not is_stuck(self.turn, task, self.config):
                    return True
                continue
            free_ns = (task.running_ns or task.status.applied_ns) + self.config.delay
            if self.config.delay and self.turn.now_ns < free_ns:
                self.turn.wake_at(free_ns)
                return True
        return False

    def _begin(self, slot: Slot) -> None:
        old = slot.wanted
        start_first = self.config.order == "start-first"
        live = [t for t in old if is_live(t)]
        parked = bool(live) and not start_first
        create_task(
            self.turn,
            self.service,
            slot.key,
            f"update to spec version {self.service.spec_version}",
            desired=TaskState.READY if parked else TaskState.RUNNING,
            waits_for=live[-1].id if parked else "",
            by_update=True,
        )
        if not start_first:
            self._stop(old)

    def _finish(self, slot: Slot, clean: list[Task]) -> None:
        """Stop outdated and surplus tasks of a slot that has a task of the new spec."""
        kept = max(clean, key=lambda t: (is_live(t), t.status.state, t.id))
        others = [t for t in slot.wanted if t.id != kept.id]
        staying = _staying(self.turn, slot)
        surplus = [t for t in others if t in staying and not self.outdated(t)]
        self._stop(surplus)
        old = [t for t in others if self.outdated(t)]
        running = kept.status.state == TaskState.RUNNING
        if (
            self.config.order != "start-first"
            or (running and is_known(self.turn, kept))
            or any(self._is_barred(kept, task) for task in old)
        ):
            self._stop(old)

    def _is_barred(self, new: Task, old: Task) -> bool:
        """Tell whether the new task would find room where the old one is, were it not there.

        Started first, two tasks that publish one host port, or share a node's maximum of
        replicas, would wait for each other for ever.
        """
        if new.status.state != TaskState.PENDING or not new.explanation:
            return False
        why = hindrances(self.turn.view, new, old.node_id)
        return bool(why) and why <= {"host-port", "max-replicas"}

    def _stop(self, tasks: list[Task]) -> None:
        for task in tasks:
            reason = f"replaced by spec version {self.service.spec_version}"
            stop(self.turn, task, TaskState.SHUTDOWN, reason)

    def _conclude(self, kept: int) -> None:
        """All slots are done: watch for `monitor` (longer than `delay`), then complete.

        So many slots keep their outdated task, as the new one failed and may not restart.
        """
        status, config = self.status, self.config
        if not status.done_ns:
            status = replace(status, done_ns=self.turn.now_ns)
            _store(self.turn, self.service, status, "all slots are replaced")
        watch_ns = config.monitor
        if config.delay >= watch_ns:
            watch_ns = config.delay + defaults.SECOND_NS
        end_ns = status.done_ns + watch_ns
        if self.turn.now_ns < end_ns:
            self.turn.wake_at(end_ns)
            return
        rolled = status.state == UpdateState.ROLLBACK_STARTED
        message = "rollback completed" if rolled else "update completed"
        if kept:
            message += f", but {kept} of its tasks are still the old ones: the new ones failed"
        done = replace(
            status,
            state=UpdateState.ROLLBACK_COMPLETED if rolled else UpdateState.COMPLETED,
            completed_ns=self.turn.now_ns,
            message=message,
        )
        _store(self.turn, self.service, done, done.message)
