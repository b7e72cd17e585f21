"""The bugs: a file, a text that stands in it once, and what is put in its place."""

from typing import Final, NamedTuple


class Planted(NamedTuple):
    """One bug; `name` says what it breaks."""

    name: str
    path: str
    old: str
    new: str


_ORCHESTRATOR: Final = "manager/orchestrator"

DRAINS: Final = (
    Planted(
        "a stop does not wait for acknowledgements",
        f"{_ORCHESTRATOR}/drain.py",
        "elif turn.is_acknowledged(task):",
        "elif True:",
    ),
    Planted(
        "a stop waits for ever for acknowledgements",
        f"{_ORCHESTRATOR}/drain.py",
        "elif turn.now_ns >= task.endpoint.deadline_ns:",
        "elif False:",
    ),
    Planted(
        "a serving endpoint is stopped without being withdrawn",
        f"{_ORCHESTRATOR}/drain.py",
        "if task.endpoint.state is EndpointState.SERVING or",
        "if",
    ),
    Planted(
        "what is not ready is not withdrawn",
        f"{_ORCHESTRATOR}/drain.py",
        "or serving is task.status.ready:",
        "or serving:",
    ),
    Planted(
        "an unready task is stopped before the nodes know",
        f"{_ORCHESTRATOR}/drain.py",
        " or not turn.is_acknowledged(task):\n            lease",
        ":\n            lease",
    ),
    Planted(
        "an ill task may be stopped before the nodes know",
        f"{_ORCHESTRATOR}/drain.py",
        "    if turn.is_acknowledged(task):\n        lease",
        "    if True:\n        lease",
    ),
    Planted(
        "what is not ready replaces what is",
        f"{_ORCHESTRATOR}/drain.py",
        "    if not task.status.ready:\n",
        "    if False:\n",
    ),
    Planted(
        "a task that no agent knows never ends",
        f"{_ORCHESTRATOR}/drain.py",
        "    if task.status.state < TaskState.ASSIGNED:\n        # No agent",
        "    if False:\n        # No agent",
    ),
    Planted(
        "an endpoint counts as known at once",
        f"{_ORCHESTRATOR}/drain.py",
        "    if turn.now_ns >= limit_ns:\n        return True",
        "    if True:\n        return True",
    ),
    Planted(
        "drains ignore the parallelism",
        f"{_ORCHESTRATOR}/leaving.py",
        "remedy[: max((config.parallelism or total) - moving, 0)]",
        "remedy",
    ),
    Planted(
        "drains stop first where updates start first",
        f"{_ORCHESTRATOR}/leaving.py",
        'start_first = config.order == "start-first"',
        "start_first = False",
    ),
    Planted(
        "a drain without room waits for ever",
        f"{_ORCHESTRATOR}/leaving.py",
        "stuck = is_stuck(turn, new, config)",
        "stuck = False",
    ),
    Planted(
        "tasks are not moved off lost nodes",
        f"{_ORCHESTRATOR}/slots.py",
        "    return node is None or (not node.is_fit and not is_held(turn, node))",
        "    return node is None or node.spec.availability == 'drain'",
    ),
)

DISAPPEARANCE: Final = (
    Planted(
        "one lost node is a mass",
        f"{_ORCHESTRATOR}/disappearance.py",
        "LEAST: Final = 3",
        "LEAST: Final = 1",
    ),
    Planted(
        "half of the nodes is more than half",
        f"{_ORCHESTRATOR}/disappearance.py",
        "len(self.nodes) > self.share * self.of",
        "len(self.nodes) >= self.share * self.of",
    ),
    Planted(
        "nodes lost in an hour went together",
        f"{_ORCHESTRATOR}/disappearance.py",
        "WITHIN_NS: Final = 60 *",
        "WITHIN_NS: Final = 3600 *",
    ),
    Planted(
        "the pause comes back after it was called off",
        f"{_ORCHESTRATOR}/disappearance.py",
        "since_ns = max(turn.now_ns - WITHIN_NS, cluster.counted_from_ns + 1)",
        "since_ns = turn.now_ns - WITHIN_NS",
    ),
    Planted(
        "held nodes lose their tasks all the same",
        f"{_ORCHESTRATOR}/disappearance.py",
        "    return node.state_changed_ns >= _held_from(turn.view)",
        "    return False",
    ),
    Planted(
        "global tasks of held nodes are stopped",
        f"{_ORCHESTRATOR}/global_.py",
        "    if is_held(turn, node):",
        "    if False:",
    ),
)

RESTARTS: Final = (
    Planted(
        "a delay is not waited for",
        f"{_ORCHESTRATOR}/restart.py",
        "            continue\n        if not is_live(task):",
        "        if not is_live(task):",
    ),
    Planted(
        "the old task is not waited for",
        f"{_ORCHESTRATOR}/restart.py",
        "if old is not None and is_live(old) and not turn.is_lost(old):",
        "if False:",
    ),
    Planted(
        "a lost old task is waited for",
        f"{_ORCHESTRATOR}/restart.py",
        "if old is not None and is_live(old) and not turn.is_lost(old):",
        "if old is not None and is_live(old):",
    ),
    Planted(
        "the old task is waited for ten minutes",
        f"{_ORCHESTRATOR}/restart.py",
        "OLD_TASK_TIMEOUT_NS: Final = 60_000_000_000",
        "OLD_TASK_TIMEOUT_NS: Final = 600_000_000_000",
    ),
    Planted(
        "a slot with a successor gets another",
        f"{_ORCHESTRATOR}/restart.py",
        "if successor or restarted or not may_restart",
        "if not may_restart",
    ),
    Planted(
        "condition none restarts",
        f"{_ORCHESTRATOR}/slots.py",
        'if policy.condition == "none":\n        return False',
        'if policy.condition == "none":\n        return True',
    ),
    Planted(
        "on-failure restarts what completed",
        f"{_ORCHESTRATOR}/slots.py",
        "ended.status.state == TaskState.COMPLETE:\n        return False",
        "ended.status.state == TaskState.COMPLETE:\n        return True",
    ),
    Planted(
        "one attempt too many",
        f"{_ORCHESTRATOR}/slots.py",
        "return used < policy.max_attempts",
        "return used <= policy.max_attempts",
    ),
    Planted(
        "the window is ignored",
        f"{_ORCHESTRATOR}/slots.py",
        "elif task.status.applied_ns > since_ns:",
        "else:",
    ),
    Planted(
        "a rollback leaves dead slots",
        f"{_ORCHESTRATOR}/slots.py",
        "status.state == UpdateState.ROLLBACK_STARTED:\n        return False",
        "status.state == UpdateState.ROLLBACK_STARTED:\n        pass",
    ),
    Planted(
        "no back-off",
        f"{_ORCHESTRATOR}/backoff.py",
        "    if doublings <= 0:",
        "    if True:",
    ),
    Planted(
        "a stable run does not begin anew",
        f"{_ORCHESTRATOR}/backoff.py",
        "return 0 if is_stable(ended) else ended.early_ends + 1",
        "return ended.early_ends + 1",
    ),
    Planted(
        "what completes waits like a crash",
        f"{_ORCHESTRATOR}/backoff.py",
        "completed = ended.status.state == TaskState.COMPLETE",
        "completed = False",
    ),
)

UPDATES: Final = (
    Planted(
        "a paused update goes on",
        f"{_ORCHESTRATOR}/update.py",
        "    if status is not None and status.state in _PAUSED:\n        return\n    outdated",
        "    outdated",
    ),
    Planted(
        "an update ignores the parallelism",
        f"{_ORCHESTRATOR}/update.py",
        "for slot in remedy[: max(limit - busy, 0)]:",
        "for slot in remedy[:limit]:",
    ),
    Planted(
        "an update ignores the delay",
        f"{_ORCHESTRATOR}/update.py",
        "if self.config.delay and self.turn.now_ns < free_ns:",
        "if False:",
    ),
    Planted(
        "stop-first starts first",
        f"{_ORCHESTRATOR}/update.py",
        "parked = bool(live) and not start_first",
        "parked = False",
    ),
    Planted(
        "start-first stops first",
        f"{_ORCHESTRATOR}/update.py",
        "        if not start_first:\n            self._stop(old)",
        "        self._stop(old)",
    ),
    Planted(
        "start-first stops the old before the new one runs",
        f"{_ORCHESTRATOR}/update.py",
        "running = kept.status.state == TaskState.RUNNING",
        "running = True",
    ),
    Planted(
        "start-first waits for itself",
        f"{_ORCHESTRATOR}/update.py",
        '        return bool(why) and why <= {"host-port", "max-replicas"}',
        "        return False",
    ),
    Planted(
        "start-first gives up the old whatever is missing",
        f"{_ORCHESTRATOR}/update.py",
        '        return bool(why) and why <= {"host-port", "max-replicas"}',
        "        return True",
    ),
    Planted(
        "the ratio itself is too much",
        f"{_ORCHESTRATOR}/update.py",
        "if counted / max(status.dirty_slots, 1) <= config.max_failure_ratio:",
        "if counted / max(status.dirty_slots, 1) < config.max_failure_ratio:",
    ),
    Planted(
        "failures after the monitor count",
        f"{_ORCHESTRATOR}/update.py",
        "task.status.applied_ns - task.running_ns <= config.monitor",
        "True",
    ),
    Planted(
        "an update without progress waits for ever",
        f"{_ORCHESTRATOR}/update.py",
        "        turn.wake_at(due_ns)\n        return False\n    return True",
        "        return False\n    return False",
    ),
    Planted(
        "a deadline is missed where nothing else happens",
        f"{_ORCHESTRATOR}/update.py",
        "        turn.wake_at(due_ns)\n",
        "",
    ),
    Planted(
        "a resumed update remembers its failures",
        f"{_ORCHESTRATOR}/update.py",
        "counted = len(failed) - status.forgiven",
        "counted = len(failed)",
    ),
    Planted(
        "a rollback is rolled back",
        f"{_ORCHESTRATOR}/update.py",
        "    if status.state == UpdateState.ROLLBACK_STARTED:\n        _pause(",
        "    if False:\n        _pause(",
    ),
    Planted(
        "an automatic rollback can be undone to the bad spec",
        f"{_ORCHESTRATOR}/update.py",
        "        previous_spec_version=0,\n",
        "",
    ),
    Planted(
        "a rollback ends as an update",
        f"{_ORCHESTRATOR}/update.py",
        "rolled = status.state == UpdateState.ROLLBACK_STARTED",
        "rolled = False",
    ),
    Planted(
        "an update is not watched at its end",
        f"{_ORCHESTRATOR}/update.py",
        "        if self.turn.now_ns < end_ns:",
        "        if False:",
    ),
    Planted(
        "labels replace tasks",
        f"{_ORCHESTRATOR}/update.py",
        '        return "none"',
        '        return "all"',
    ),
    Planted(
        "a placement that fits anyway replaces tasks",
        f"{_ORCHESTRATOR}/update.py",
        'return "placement" if same(',
        'return "all" if same(',
    ),
    Planted(
        "an update forgets slots whose new task went with its node",
        f"{_ORCHESTRATOR}/update.py",
        "return not ended_by_itself(last) or may_restart(turn.view, service, slot, last)",
        "return False",
    ),
    Planted(
        "a turn of an update is over too early",
        f"{_ORCHESTRATOR}/update.py",
        "if not any(self._may_yet_run(slot) for slot in dirty):",
        "if True:",
    ),
    Planted(
        "an update whose failed task may not restart is never over",
        f"{_ORCHESTRATOR}/update.py",
        "if not any(self._may_yet_run(slot) for slot in dirty):",
        "if not any(self._keeps_old(slot) for slot in dirty):",
    ),
    Planted(
        "an update that gave up a slot begins anew",
        f"{_ORCHESTRATOR}/update.py",
        "behind = [s for s in behind if _may_begin(turn, service, status, s)]",
        "pass",
    ),
)

COUNTS: Final = (
    Planted(
        "scale down takes the running first",
        f"{_ORCHESTRATOR}/replicated.py",
        "key=lambda s: (not s.is_running, s.key)",
        "key=lambda s: (s.is_running, s.key)",
    ),
    Planted(
        "scale down does not spread",
        f"{_ORCHESTRATOR}/replicated.py",
        "per_node[wanted[0].node_id] += 1",
        "pass",
    ),
    Planted(
        "scaled down tasks keep their records",
        f"{_ORCHESTRATOR}/replicated.py",
        "stop(turn, task, TaskState.REMOVE, reason)",
        "stop(turn, task, TaskState.SHUTDOWN, reason)",
    ),
    Planted(
        "history is one record too long",
        f"{_ORCHESTRATOR}/reaper.py",
        "surplus = len(slot.tasks) - limit",
        "surplus = len(slot.tasks) - limit - 1",
    ),
    Planted(
        "history forgets the attempts that count",
        f"{_ORCHESTRATOR}/reaper.py",
        " and task.id not in counted:",
        ":",
    ),
    Planted(
        "paused nodes restart global tasks",
        f"{_ORCHESTRATOR}/global_.py",
        "    if node.spec.availability == Availability.ACTIVE:\n        restart_ended",
        "    if True:\n        restart_ended",
    ),
    Planted(
        "the enforcer looks at drained nodes",
        f"{_ORCHESTRATOR}/enforcer.py",
        "    if node.spec.availability != Availability.ACTIVE:\n        return\n",
        "",
    ),
    Planted(
        "the enforcer stops at the first offender",
        f"{_ORCHESTRATOR}/enforcer.py",
        '_reject(turn, task, "node no longer meets its constraints")\n            continue',
        '_reject(turn, task, "node no longer meets its constraints")\n            return',
    ),
    Planted(
        "lost tasks are never given up",
        f"{_ORCHESTRATOR}/nodes.py",
        "        if turn.now_ns < due_ns:",
        "        if True:",
    ),
)

PLACING: Final = (
    Planted(
        "ports of the host are given twice",
        "manager/scheduler/filters.py",
        "if taken or view.holders(candidate.node.id, port):",
        "if taken:",
    ),
    Planted(
        "memory is given twice",
        "manager/scheduler/filters.py",
        "if demand.memory_bytes and demand.memory_bytes > candidate.memory_bytes:",
        "if False:",
    ),
    Planted(
        "one replica too many on a node",
        "manager/scheduler/placer.py",
        "return self.replicas(needs.service_id)[candidate.node.id] < needs.max_replicas",
        "return self.replicas(needs.service_id)[candidate.node.id] <= needs.max_replicas",
    ),
    Planted(
        "a placed task is not counted",
        "manager/scheduler/placer.py",
        "self.replicas(needs.service_id)[candidate.node.id] += 1",
        "pass",
    ),
    Planted(
        "an address goes back while tables name it",
        "manager/allocator/allocate.py",
        "    return record[1] <= known",
        "    return True",
    ),
    Planted(
        "a VIP changes with each update",
        "manager/allocator/allocate.py",
        "vip = next((v for v in old.vips if v.network_id == network.id), None)",
        "vip = None",
    ),
)

STORE: Final = (
    Planted(
        "a task's state goes back",
        "manager/store/effects.py",
        "if status.state < old.state or status.state == TaskState.REMOVE:",
        "if status.state == TaskState.REMOVE:",
    ),
    Planted(
        "a desired state goes back",
        "manager/store/apply.py",
        "if task is not None and change.desired > task.desired:",
        "if task is not None and change.desired != task.desired:",
    ),
    Planted(
        "a task is assigned to a node that is not fit",
        "manager/store/apply.py",
        "if task.desired > TaskState.COMPLETE or not fit or",
        "if task.desired > TaskState.COMPLETE or",
    ),
    Planted(
        "an address in use is free at the task's end",
        "manager/store/effects.py",
        "        _quarantine_task(fx, old)",
        "        pass",
    ),
    Planted(
        "specs to roll back to are dropped",
        "manager/store/effects.py",
        "        kept = (*current, *service.older_spec_versions)",
        "        kept = (service.spec_version,)",
    ),
)

ALL: Final = (
    *DRAINS,
    *DISAPPEARANCE,
    *RESTARTS,
    *UPDATES,
    *COUNTS,
    *PLACING,
    *STORE,
)
