"""Rebalancing: replicated services spread out again over the nodes there are by now.

Every move makes things more even, in the scheduler's own order: label values of the placement
preferences, outermost first, then what is preferred, tasks of the service on a node, all tasks on a
node. Sums of squares fall with each move, so moves end, and what is balanced stays as it is. A move
starts first: the old task goes when the new one runs and is known. At most `parallelism` moves of a
service are under way, with its update's `delay` between them, and MAX_MOVES in all.
"""

from collections import Counter
from typing import Final, NamedTuple

from msgspec.structs import replace

from manager.orchestrator.drain import is_known, stop
from manager.orchestrator.slots import Slot, create_task, must_leave, slots_of
from manager.orchestrator.update import Outdated, is_busy, is_stuck
from manager.scheduler.candidates import Candidate, Needs
from manager.scheduler.constraints import BINPACK, label_of
from manager.scheduler.placer import Placer
from manager.store.changes import SetRebalance
from manager.store.turn import Turn
from manager.store.view import MOVED, is_live, is_placed, is_wanted
from swarmapi.model import defaults
from swarmapi.model.objects import Rebalance, Service, Task, TaskState

MAX_MOVES: Final = 10


class _Site(NamedTuple):
    """A node in the eyes of one service; equal sites are as good as each other."""

    branches: tuple[tuple[str, ...], ...]
    """The branch of the preference tree at each level."""
    gain: int
    replicas: int
    tasks: int


class _Move(NamedTuple):
    """An old task and the new one that will take its place."""

    old: Task
    new: Task


def rebalance(turn: Turn) -> None:
    """Take the rebalancing one step further, if one is under way."""
    cluster = turn.view.cluster
    state = cluster.rebalance if cluster is not None else None
    if state is None or state.ended_ns:
        return
    before = state
    placer = Placer(turn.view, turn.now_ns)
    under_way: dict[str, list[_Move]] = {}
    for service_id, moves in _moves(turn, state).items():
        state, under_way[service_id] = _follow(turn, state, service_id, moves)
    for moves in under_way.values():
        for move in moves:
            _count(turn, placer, move)
    rests = not state.stopping and _start_all(turn, placer, state, under_way)
    if turn.is_full():
        turn.wake_at(turn.now_ns)
    elif not rests and not any(under_way.values()) and (state.stopping or not _leave(turn, state)):
        state = replace(state, ended_ns=turn.now_ns, skipped=_left_alone(turn, state))
    if state != before:
        turn.emit(SetRebalance(state=state, reason="rebalancing"))


def _left_alone(turn: Turn, state: Rebalance) -> tuple[str, ...]:
    """Return the services that were not evened out: with those whose update is not over."""
    if state.stopping:
        return state.skipped
    busy = sorted(
        s.id
        for s in turn.view.services.values()
        if is_busy(s) and not defaults.is_global(s.spec) and s.id not in state.skipped
    )
    return (*state.skipped, *busy)


def _start_all(
    turn: Turn, placer: Placer, state: Rebalance, under_way: dict[str, list[_Move]]
) -> bool:
    """Begin moves; tell whether a service waits for the delay after its last one."""
    rests = False
    room = MAX_MOVES - sum(len(moves) for moves in under_way.values())
    for service_id in sorted(turn.view.services):
        if room <= 0 or turn.is_full():
            break
        service, moves = turn.view.services[service_id], under_way.setdefault(service_id, [])
        if service_id in state.skipped or not _may_move(service):
            continue
        slots = list(slots_of(turn.view, service_id).values())
        if _rests(turn, service, slots):
            rests = True
        elif _is_settled(turn, slots, {m.new.id for m in moves}):
            room -= _start(turn, placer, service, slots, moves, room)
    return rests


def _moves(turn: Turn, state: Rebalance) -> dict[str, list[_Move]]:
    """Return by service the moves whose old task goes on: under way, or failed."""
    found: dict[str, list[_Move]] = {}
    for new in turn.view.tasks_in(MOVED):
        old = turn.view.tasks.get(new.replaces)
        if old is None or not is_wanted(old) or new.meta.created_ns < state.started_ns:
            continue
        if new.service_id in turn.view.services:
            found.setdefault(new.service_id, []).append(_Move(old, new))
    return found


def _leave(turn: Turn, state: Rebalance) -> bool:
    """Tell whether what was moved is not gone yet: its room may be what the next move needs.

    A node that is down ends nothing.
    """
    for new in turn.view.tasks_in(MOVED):
        old = turn.view.tasks.get(new.replaces)
        if old is None or new.meta.created_ns < state.started_ns:
            continue
        node = turn.view.nodes.get(old.node_id)
        if is_live(old) and not is_wanted(old) and node is not None and node.is_fit:
            return True
    return False


def _follow(
    turn: Turn, state: Rebalance, service_id: str, moves: list[_Move]
) -> tuple[Rebalance, list[_Move]]:
    """End moves that are done or that fail; return the rest."""
    service = turn.view.services[service_id]
    config = defaults.update_config(service.spec.update_config)
    failed = False
    left: list[_Move] = []
    for move in moves:
        if not is_wanted(move.new) or not is_live(move.new):
            failed = True
        elif move.new.status.state == TaskState.RUNNING and is_known(turn, move.new):
            reason = f"moved by rebalancing: {move.new.id} replaces it"
            stop(turn, move.old, TaskState.SHUTDOWN, reason)
            state = replace(state, moved=state.moved + 1)
        elif move.new.explanation or is_busy(service) or is_stuck(turn, move.new, config):
            stop(turn, move.new, TaskState.REMOVE, "rebalancing gave this move up")
            failed = failed or not is_busy(service)
        else:
            left.append(move)
    if failed and service_id not in state.skipped:
        state = replace(state, skipped=(*state.skipped, service_id))
    return state, left


def _count(turn: Turn, placer: Placer, move: _Move) -> None:
    """Let the counts be as after a move; the old task keeps what it reserves meanwhile."""
    needs = placer.needs(move.new)
    if needs is None:
        return
    placer.replicas(needs.service_id)[move.old.node_id] -= 1
    placer.candidate(move.old.node_id).tasks -= 1
    if not is_placed(move.new) and move.new.node_id in turn.view.nodes:
        placer.take(needs, placer.candidate(move.new.node_id))


def _may_move(service: Service) -> bool:
    return not (
        defaults.is_global(service.spec) or service.job_status is not None or is_busy(service)
    )


def _rests(turn: Turn, service: Service, slots: list[Slot]) -> bool:
    """Tell whether the service's update delay after the last move is not over."""
    delay_ns = defaults.update_config(service.spec.update_config).delay
    last_ns = max((t.running_ns for s in slots for t in s.wanted if t.replaces), default=0)
    if not delay_ns or not last_ns or turn.now_ns >= last_ns + delay_ns:
        return False
    turn.wake_at(last_ns + delay_ns)
    return True


def _start(
    turn: Turn,
    placer: Placer,
    service: Service,
    slots: list[Slot],
    moves: list[_Move],
    room: int,
) -> int:
    """Begin moves of a service as far as it allows; return how many."""
    parallelism = defaults.update_config(service.spec.update_config).parallelism or len(slots)
    taken = {m.old.id for m in moves}
    started = 0
    while started < min(room, parallelism - len(moves)) and not turn.is_full():
        move = _begin(turn, placer, service, slots, taken)
        if move is None:
            break
        moves.append(move)
        taken.add(move.old.id)
        started += 1
    return started


def _is_settled(turn: Turn, slots: list[Slot], moving: set[str]) -> bool:
    """Tell whether each slot has a task that runs where it may stay."""
    return all(
        t.status.state == TaskState.RUNNING and not must_leave(turn, t)
        for slot in slots
        for t in slot.wanted
        if t.id not in moving
    )


def _begin(
    turn: Turn, placer: Placer, service: Service, slots: list[Slot], taken: set[str]
) -> _Move | None:
    """Begin the move that evens out most, if there is one."""
    outdated = Outdated(turn.view, service)
    movable = {
        task.node_id: task
        for slot in slots
        for task in slot.wanted
        if task.id not in taken and not outdated(task)
    }
    needs = placer.needs_of_spec((service.id, service.spec_version))
    if not movable or needs is None or (needs.rules.strategy or placer.strategy) == BINPACK:
        return None
    found = _best(placer, needs, movable, service.spec_version)
    if found is None:
        return None
    source, target = found
    old, node = movable[source], target.node
    name = node.description.hostname or node.id
    new = create_task(
        turn,
        service,
        (old.slot, node.id),
        f"replaces {old.id}: rebalancing moves it to {name}",
        replaces=old.id,
    )
    move = _Move(old, new)
    _count(turn, placer, move)
    return move


def _best(
    placer: Placer, needs: Needs, movable: dict[str, Task], spec_version: int
) -> tuple[str, Candidate] | None:
    """Return the node to take a task from and the one to give it to; None where all is even."""
    replicas, failures = (
        placer.replicas(needs.service_id),
        placer.failures(needs.service_id, spec_version),
    )
    weight: Counter[tuple[str, ...]] = Counter()
    sources: dict[_Site, str] = {}
    targets: dict[_Site, Candidate] = {}
    for node_id, candidate in _worth_looking_at(placer, needs, movable, replicas, failures).items():
        site = _site(needs, candidate, replicas[node_id])
        for branch in site.branches:
            weight[branch] += site.replicas
        if node_id in movable:
            sources.setdefault(site, node_id)
        if not failures[node_id] and placer.fits(needs, candidate):
            targets.setdefault(site, candidate)
    best: tuple[tuple[int, ...], str, Candidate] | None = None
    for source, node_id in sources.items():
        for target, candidate in targets.items():
            cost = _cost(weight, source, target)
            if cost < (0,) * len(cost) and (best is None or cost < best[0]):
                best = (cost, node_id, candidate)
    return (best[1], best[2]) if best is not None else None


def _worth_looking_at(
    placer: Placer,
    needs: Needs,
    movable: dict[str, Task],
    replicas: dict[str, int],
    failures: Counter[str],
) -> dict[str, Candidate]:
    """Return suitable nodes by id; where labels do not matter, one is enough without a task."""
    if needs.spread or needs.rules.preferred:
        return {c.node.id: c for c in placer.suitable(needs)}
    found: dict[str, Candidate] = {}
    suitable = placer.suitable_ids(needs)
    for node_id in placer.emptiest_first():
        if node_id not in suitable:
            continue
        candidate = placer.candidate(node_id)
        if not replicas[node_id] and node_id not in movable:
            if failures[node_id] or not placer.fits(needs, candidate):
                continue
            found[node_id] = candidate
            break
    for node_id in sorted({*movable, *(i for i, count in replicas.items() if count)}):
        if node_id in suitable:
            found[node_id] = placer.candidate(node_id)
    return found


def _site(needs: Needs, candidate: Candidate, replicas: int) -> _Site:
    values = tuple(label_of(label, candidate.node) for label in needs.spread)
    gain = sum(
        rule.weight or 0
        for rule in needs.rules.preferred
        if not rule.asks_for_services and rule.matches(candidate.node)
    )
    branches = tuple(values[: level + 1] for level in range(len(values)))
    return _Site(branches, gain, replicas, candidate.tasks)


def _cost(weight: Counter[tuple[str, ...]], source: _Site, target: _Site) -> tuple[int, ...]:
    """Return by how much a move changes each sum of squares, halved; negative is more even."""
    levels = (
        0 if one == other else weight[other] - weight[one] + 1
        for one, other in zip(source.branches, target.branches, strict=True)
    )
    return (
        *levels,
        source.gain - target.gain,
        target.replicas - source.replicas + 1,
        target.tasks - source.tasks + 1,
    )
