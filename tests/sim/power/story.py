"""A manager's first minutes, recorded; and whether it starts from what a power cut left of them."""

import asyncio
import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from manager.bootstrap import found, load_founding, prepare_first
from manager.config import InitConfig, Paths
from manager.control.cluster import update_cluster
from manager.keys import Locker, load_keyring, load_tls
from manager.raft.core import RaftCore
from manager.raft.disk import FileDisk
from manager.raft.driver import Driver
from manager.raft.journal import Journal
from manager.raft.messages import Message
from manager.raft.node import RaftNode
from manager.raft.outcomes import Applied
from manager.raft.ports import Member
from manager.raft.replication import RaftConfig
from manager.raft.snapshots import FileSnapshots
from manager.replica import Replica, Store
from manager.store.changes import PutConfig, SetLabels
from swarmapi.errors import Unauthenticated
from swarmapi.identity import LiveTLS
from swarmapi.keyring import Keyring, Locked
from swarmapi.model.objects import Config
from swarmapi.model.spec import ClusterSpec, EncryptionConfig, SecretSpec
from swarmapi.override import override
from tests.fakes.raft_cluster import free_address
from tests.sim.power.recording import Acknowledged, Image, Recording, Step

CONFIG = RaftConfig(
    snapshot_entries=12,
    keep_entries=3,
    segment_bytes=3000,
    election_min_s=0.05,
    election_max_s=0.1,
    heartbeat_s=0.01,
    reserve_bytes=4096,
)
AUTOLOCK = ClusterSpec(encryption_config=EncryptionConfig(auto_lock_managers=True))


@dataclass(frozen=True)
class Founded:
    """`swarm init` was answered."""

    node_id: str


@dataclass(frozen=True)
class Labelled:
    """The config has this label."""

    number: str


@dataclass(frozen=True)
class Unlocks:
    """The cluster's unlock key is this one, empty without autolock."""

    key: str


async def tell(recording: Recording) -> None:
    """Found a cluster, change it, lock it, rotate its key, restart and unlock it."""
    paths = Paths(recording.root / "state", recording.root.parent)
    address = free_address()
    made = prepare_first(InitConfig(paths, address, ("10.0.0.0/8",), 24), os.urandom)
    recording.acknowledge(Founded(made["node_id"]))
    numbers = itertools.count(1)
    life = await _Life.begin(paths, address, "")
    config = Config(id="config1", spec=SecretSpec(name="c", data=b"a"))
    await life.store.propose((PutConfig(secret=config),))
    await life.label(recording, numbers, 30)
    key = await life.lock(recording, AUTOLOCK)
    await life.label(recording, numbers, 10)
    key = await life.lock(recording, AUTOLOCK, rotate=True)
    await life.node.stop()
    life = await _Life.begin(paths, address, key)
    await life.label(recording, numbers, 20)
    await life.lock(recording, ClusterSpec())
    await life.label(recording, numbers, 10)
    await life.node.stop()


class _Life:
    """A manager's process, without what does not touch its disk."""

    def __init__(self, store: Store, node: RaftNode, locker: Locker) -> None:
        self.store, self.node, self.locker = store, node, locker

    @classmethod
    async def begin(cls, paths: Paths, address: str, unlock_key: str) -> "_Life":
        keyring = load_keyring(paths, unlock_key)
        tls = load_tls(paths, keyring)
        founding, replica = load_founding(paths, keyring), Replica()
        node = RaftNode(
            node_id=tls.identity.node_id,
            address=address,
            state_dir=paths.raft,
            machine=replica,
            tls=LiveTLS(tls),
            bootstrap=founding is not None,
            config=CONFIG,
            keyring=keyring,
        )
        ids = itertools.count(replica.view.index)
        store = Store(replica, _AsLog(node), lambda: f"{os.getpid()}-{next(ids):025d}")
        locker = Locker(tls.identity.node_id, paths, keyring, unlock_key, store, node.reseal)
        await node.start()
        ready = asyncio.Event()
        node.on_status(lambda status: ready.set() if status.ready else None)
        if not node.status.ready:
            await ready.wait()
        await locker.finish()
        if founding is not None:
            await found(store, paths, founding)
        return cls(store, node, locker)

    async def label(
        self, recording: Recording, numbers: "itertools.count[int]", times: int
    ) -> None:
        """Change a label again and again."""
        for _ in range(times):
            number = str(next(numbers))
            version = self.store.view.configs["config1"].meta.version
            change = SetLabels(
                object="config", id="config1", labels={"n": number}, expect_version=version
            )
            await self.store.propose((change,), f"label-{number}")
            recording.acknowledge(Labelled(number))

    async def lock(self, recording: Recording, spec: ClusterSpec, *, rotate: bool = False) -> str:
        """Change whether keys are locked; return the cluster's unlock key."""
        cluster = self.store.view.cluster
        assert cluster is not None
        version = cluster.meta.version
        await update_cluster(self.store, spec, version, os.urandom, rotate_unlock_key=rotate)
        assert self.store.view.cluster is not None
        key = self.store.view.cluster.unlock_key
        recording.acknowledge(Unlocks(key))
        await self.locker.step()
        return key


class _AsLog:
    """`manager.replica.Log` over a member, as far as a store needs one."""

    def __init__(self, node: RaftNode) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


class _AtOnce(Executor):
    """Does the work where it is given."""

    @override
    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(work(*args, **kwargs))
        return future


class _Machine:
    """The replica as the core's state machine."""

    def __init__(self) -> None:
        self.replica = Replica()

    def applied(self, index: int, term: int, payload: bytes) -> None:
        self.replica.apply([Applied(index, term, payload)])

    def restored(self, index: int, parts: list[bytes]) -> None:
        self.replica.restore(parts)

    def lost_leadership(self) -> None:
        """Nobody waits for anything."""

    # Links: there is nobody else.

    def send(self, peer: str, messages: Iterable[Message]) -> None:
        raise AssertionError(f"a member alone writes to {peer}")

    def add(self, member: Member) -> None:
        raise AssertionError(f"a member alone keeps a link to {member.id}")

    def drop(self, peer: str) -> None:
        raise AssertionError(f"a member alone drops {peer}")


def started(paths: Paths, unlock_keys: Iterable[str]) -> Replica:
    """Start a manager's log on its disk, opened by one of the keys; return the state it leads with.

    Raises whatever keeps it from starting.
    """
    keyring = _opened(paths, list(unlock_keys))
    tls = load_tls(paths, keyring)
    node_id, machine = tls.identity.node_id, _Machine()
    disk = FileDisk(paths.raft / "log")
    try:
        driver = Driver(machine)
        core = RaftCore(
            Member((node_id, "127.0.0.1:1")),
            {node_id: "127.0.0.1:1"} if load_founding(paths, keyring) else {},
            machine,
            Journal(disk, CONFIG.segment_bytes, keyring),
            FileSnapshots(paths.raft / "snapshot", _AtOnce(), lambda: None, keyring),
            driver,
            replace(CONFIG, snapshot_entries=10**6),
        )
        for _ in range(20):
            write = driver.begin(core)
            if write is not None:
                core.log.journal.write(write)
            driver.finish(core, write)
            if core.ready:
                return machine.replica
    finally:
        disk.close()
    raise AssertionError("the manager does not lead")


def _opened(paths: Paths, unlock_keys: list[str]) -> Keyring:
    for key in unlock_keys[:-1]:
        try:
            return load_keyring(paths, key)
        except (Locked, Unauthenticated):
            continue
    return load_keyring(paths, unlock_keys[-1])


def check(steps: Sequence[Step], cut: int, seed: int, folder: Path) -> bool:
    """Cut the power and start; return False before there is anything to keep.

    Raises what is wrong with the manager that starts from the image.
    """
    image = Image(steps, cut, Random(f"{cut}-{seed}"))
    told = image.acknowledged
    if not told:
        return False
    image.write(folder)
    keys = [each.key for each in told if isinstance(each, Unlocks)]
    numbers = [int(each.number) for each in told if isinstance(each, Labelled)]
    replica = started(Paths(folder / "state", folder), [*reversed(keys), ""])
    later = [step.what for step in steps[cut:] if isinstance(step, Acknowledged)]
    if numbers:
        held = int((replica.view.configs["config1"].spec.labels or {})["n"])
        if held not in (numbers[-1], numbers[-1] + 1):
            raise AssertionError(f"label {numbers[-1]} was acknowledged, the disk has {held}")
    if keys:
        cluster = replica.view.cluster
        soon = [each.key for each in later[:1] if isinstance(each, Unlocks)]
        if cluster is None or cluster.unlock_key not in (keys[-1], *soon):
            raise AssertionError("the cluster forgot its unlock key")
    return True
