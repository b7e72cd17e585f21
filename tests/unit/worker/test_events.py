"""The history of events: on disk, bounded, whole after a restart and a torn line."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from worker.engine.events import EventBus


def clock() -> Iterator[int]:
    return count(1)


def names(bus: EventBus, since_ns: int, until_ns: int) -> list[str]:
    with bus.listen(since_ns) as listener:
        return [event.actor_id for event in listener.past if event.time_ns < until_ns]


def test_a_new_bus_knows_what_the_last_one_told(tmp_path: Path) -> None:
    ticks = clock()
    path = tmp_path / "events.json"
    bus = EventBus(lambda: next(ticks), path)
    bus.open()
    for number in range(3):
        bus.emit("container", "start", f"c{number}", {"name": "x"})
    bus.close()
    with path.open("ab") as file:
        file.write(b'{"kind":"container","acti')
    later = EventBus(lambda: 1000, path)
    later.open()
    assert names(later, 2, 1000) == ["c1", "c2"]
    later.emit("container", "die", "c9", {})
    later.close()
    last = EventBus(lambda: 2000, path)
    last.open()
    assert names(last, 1, 2000) == ["c0", "c1", "c2", "c9"]
    last.close()


def test_the_history_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    bus = EventBus(lambda: 7, path)
    bus.open()
    for number in range(6000):
        bus.emit("container", "exec_start", f"c{number}", {"words": "x" * 300})
    bus.close()
    assert path.stat().st_size < 2 << 20
    later = EventBus(lambda: 8, path)
    later.open()
    assert names(later, 1, 8)[-1] == "c5999"
    later.close()
