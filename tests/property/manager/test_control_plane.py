"""Properties of the store and the turn under arbitrary histories."""

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from manager import reconcile
from manager.allocator.allocate import allocate
from manager.allocator.pools import AddressPool, free_subnet, overlapping
from manager.store import changes as c
from manager.store.apply import apply
from manager.store.layers import Index, Queues
from manager.store.snapshot import dump, restore
from manager.store.turn import Acks, Env, Turn
from manager.store.view import View
from swarmapi.model.objects import Quarantined
from tests.builders import MIB, World, node, spec
from tests.sim.cluster.simulation import Simulation

FEW = settings(max_examples=25)


def indexes(view: View) -> dict[str, object]:
    """Return every index of a view as plain data, empty sets left out."""
    found: dict[str, object] = {}
    for name, value in vars(view).items():
        if isinstance(value, Index):
            found[name] = {k: sorted(v) for k, v in value._sets.items() if v}
        elif isinstance(value, Queues):
            found[name] = {key: sorted(value.of(key).items()) for key in value.filled()}
        elif name in ("names", "demands", "replicas_on", "members"):
            found[name] = dict(value)
        elif name == "loads":
            found[name] = {k: v for k, v in value.items() if any(v)}
    return found


@FEW
@given(st.integers(0, 10_000), st.integers(20, 250))
def test_snapshot_round_trip(seed: int, steps: int) -> None:
    """A restored view equals the one dumped, with every index rebuilt the same."""
    simulation = Simulation(seed)
    for _ in range(steps):
        simulation.step()
    copy = restore(list(dump(simulation.view)))
    assert list(dump(copy)) == list(dump(simulation.view))
    assert indexes(copy) == indexes(simulation.view)


@FEW
@given(st.integers(0, 10_000), st.integers(20, 250))
def test_apply_is_deterministic(seed: int, steps: int) -> None:
    """The same log gives the same state on every member."""
    simulation = Simulation(seed)
    log: list[tuple[int, int, bytes]] = []
    commit = simulation.world.commit

    def recording(*changes: c.Change, request_id: str = "") -> object:
        applied = commit(*changes, request_id=request_id)
        packed = c.encode(c.Transaction(request_id=request_id, changes=changes))
        log.append((simulation.view.index, simulation.world.now_ns, packed))
        return applied

    start = restore(list(dump(simulation.view)))
    simulation.world.commit = recording  # type: ignore[method-assign, assignment]  # a recorder
    for _ in range(steps):
        simulation.step()
    for index, now_ns, packed in log:
        apply(start, index, now_ns, c.decode(packed))
    assert list(dump(start)) == list(dump(simulation.view))
    assert indexes(start) == indexes(simulation.view)


@FEW
@given(st.integers(0, 10_000), st.integers(20, 250))
def test_turn_is_pure_and_ends(seed: int, steps: int) -> None:
    """A turn leaves the view alone, is repeatable, and repeated turns come to rest."""
    simulation = Simulation(seed)
    for _ in range(steps):
        simulation.step()
    world = simulation.world
    before = list(dump(world.view))
    ids = world._ids
    first = world.propose()
    world._ids = ids
    assert world.propose() == first
    assert list(dump(world.view)) == before
    world.settle()
    world.dirty = set(reconcile.all_keys(world.view))
    assert world.propose().changes == ()


@FEW
@given(
    st.lists(st.integers(0, 2000), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 500)), min_size=1, max_size=4),
)
def test_capacity_is_used_but_never_exceeded(
    memory: list[int], services: list[tuple[int, int]]
) -> None:
    """Reservations never exceed a node; a task waits only where it fits nowhere."""
    world = World()
    world.add_nodes(*(node(f"n{i}", memory_bytes=m * MIB) for i, m in enumerate(memory)))
    for number, (replicas, wanted) in enumerate(services):
        made = spec(f"s{number}", replicas=replicas, memory_bytes=wanted * MIB)
        world.put_service(f"s{number}", made)
    world.converge()
    free = {
        i: n.description.memory_bytes
        - (world.view.loads[i].memory_bytes if i in world.view.loads else 0)
        for i, n in world.view.nodes.items()
    }
    assert min(free.values()) >= 0
    for number, (replicas, wanted) in enumerate(services):
        running = len(world.running(f"s{number}"))
        assert running == replicas or max(free.values()) < wanted * MIB


@given(st.integers(22, 30), st.data())
def test_pool_gives_each_address_once(prefix: int, data: st.DataObject) -> None:
    """Every host address but the gateway comes once, then None."""
    pool = AddressPool(f"10.9.0.0/{prefix}", "10.9.0.1", ())
    size = 2 ** (32 - prefix) - 3
    count = data.draw(st.integers(0, size))
    given_out = [pool.take() for _ in range(count)]
    assert None not in given_out
    assert len(set(given_out)) == count
    if count == size:
        assert pool.take() is None


@given(st.lists(st.integers(16, 28), max_size=30))
def test_subnets_never_overlap(prefixes: list[int]) -> None:
    """Subnets of mixed sizes are cut without overlap, and None means that none is left."""
    used: list[str] = []
    for prefix in prefixes:
        subnet = free_subnet(["10.0.0.0/14"], prefix, used)
        if subnet is None:
            continue
        assert overlapping(subnet, used) is None
        used.append(subnet)


@given(st.lists(st.tuples(st.sampled_from("arwo"), st.sampled_from("xy"), st.integers(0, 9))))
def test_an_index_over_another_is_its_copy(steps: list[tuple[str, str, int]]) -> None:
    """Reads and writes in any order: as if copied at once, and the one below stays as it is."""
    base: Index[str] = Index()
    base.add("x", "0")
    base.add("x", "1")
    over, model = Index(base), {"x": {"0", "1"}, "y": set()}
    for what, key, number in steps:
        if what == "o":
            assert over.of(key) == model[key]
        elif what == "a":
            over.add(key, str(number))
            model[key].add(str(number))
        else:
            over.discard(key, str(number))
            model[key].discard(str(number))
    assert {key: over.of(key) for key in model} == model
    assert base.of("x") == {"0", "1"}


@FEW
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.integers(1, 40),
    st.integers(0, 3),
)
def test_spread_differs_by_one_at_most(zones: list[int], replicas: int, before: int) -> None:
    """Over label values and over the nodes of each, wherever nothing is full."""
    world = World()
    for zone, size in enumerate(zones):
        labels = {"zone": str(zone)} if zone else None
        world.add_nodes(*(node(f"n{zone}{i}", labels=labels) for i in range(size)))
    world.put_service("other", spec("other", replicas=before))
    world.put_service("s", spec("s", replicas=replicas, spread=("node.labels.zone",)))
    world.converge()
    count = Counter(t.node_id for t in world.running("s"))
    in_zone = [sum(count[f"n{z}{i}"] for i in range(size)) for z, size in enumerate(zones)]
    assert max(in_zone) - min(in_zone) <= 1
    for zone, size in enumerate(zones):
        counts = [count[f"n{zone}{i}"] for i in range(size)]
        assert max(counts) - min(counts) <= 1


@FEW
@given(st.integers(0, 10_000), st.integers(50, 250), st.randoms(use_true_random=False))
def test_release_equals_the_computation_over_all_records(
    seed: int, steps: int, chance: Random
) -> None:
    """What leaves quarantine is what every holder's acknowledged revision has passed."""
    simulation = Simulation(seed)
    for _ in range(steps):
        simulation.step()
    world, view = simulation.world, simulation.view
    for number in range(chance.randrange(8)):  # some that no history left, at any index
        network_id = chance.choice(sorted(view.networks))
        world.view.put_quarantined(
            Quarantined(
                id=f"{network_id}/x{number}",
                network_id=network_id,
                address=f"192.0.2.{number}",
                index=chance.randrange(view.index + 2),
            )
        )
    behind = {
        node_id: {n: chance.choice((r, r, chance.randrange(r + 1))) for n, r in known.items()}
        for node_id, known in world.acks.items()
    }
    in_order: dict[str, list[tuple[str, int]]] = {}
    for record in sorted(view.quarantined.values(), key=lambda q: (q.network_id, q.index)):
        in_order.setdefault(record.network_id, []).append((record.id, record.index))
    queues = {n: sorted(view.quarantine.of(n).items()) for n in view.quarantine.filled()}
    assert queues == {n: sorted(records) for n, records in in_order.items()}
    assert all(
        list(view.quarantine.of(n).values()) == [index for _, index in records]
        for n, records in in_order.items()
    )
    turn = Turn(view, Env(world.now_ns, world.new_id), behind)
    allocate(turn)
    released = {x.id for x in turn.changes if isinstance(x, c.Delete) and x.object == "quarantined"}
    assert turn.is_full() or released == {
        record.id for record in view.quarantined.values() if _is_forgotten(view, record, behind)
    }


def _is_forgotten(view: View, record: Quarantined, acks: Acks) -> bool:
    network = view.networks[record.network_id]
    holders = {*view.participants(network), *(n for n in acks if network.id in acks[n])}
    return all(
        acks.get(node_id, {}).get(network.id, 0) >= record.index
        for node_id in holders
        if node_id in view.nodes
    )
