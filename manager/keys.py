"""The node's keys on its disk: made at the first start, locked while the cluster says so."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from manager.config import Paths
from manager.raft.disk import make_directory
from manager.replica import Store
from manager.store.apply import Applied
from manager.store.changes import SetNodeLock
from swarmapi.durable import write_durably
from swarmapi.errors import SwarmError
from swarmapi.identity import TLSMaterial
from swarmapi.keyring import (
    Keyring,
    locked_at,
    open_key,
    pack_keyring,
    seal_key,
    unpack_keyring,
)

log = logging.getLogger(__name__)
RETRY_S: Final = 1.0


def load_keyring(paths: Paths, unlock_key: str = "") -> Keyring:
    """Return this node's keys; a node without any gets fresh ones.

    Raises:
        Locked, Unauthenticated: they are locked, and the key is missing or wrong.
        Internal: the file is damaged.
    """
    try:
        return unpack_keyring(paths.keys.read_bytes(), unlock_key)
    except FileNotFoundError:
        keyring = Keyring.fresh()
        make_directory(paths.state_dir)
        write_durably(paths.keys, pack_keyring(keyring))
        return keyring


def load_tls(paths: Paths, keyring: Keyring | None) -> TLSMaterial:
    """Return this node's certificate and the key that fits it.

    A key in clear is sealed on the disk, and what a power cut left there is settled. Raises
    OSError, Internal.
    """
    files = paths.tls
    with files.locked():
        tls = files.read(lambda key: open_key(key, keyring))
        settled = files.is_settled and files.key.read_bytes() != tls.key_pem
        if keyring is not None and not settled:
            files.keep(seal_key(tls.key_pem, keyring))
    return tls


class Locker:
    """Keeps this node's keys locked, or not, as the cluster says.

    `unlock_key` is the one that opened them. `reseal` returns when journal and snapshot are
    sealed with the newest key.
    """

    def __init__(
        self,
        node_id: str,
        paths: Paths,
        keyring: Keyring,
        unlock_key: str,
        store: Store,
        reseal: Callable[[], Awaitable[None]],
    ) -> None:
        self._node_id = node_id
        self._paths = paths
        self._keyring = keyring
        self._store = store
        self._reseal = reseal
        self.unlock_key = unlock_key
        """What opens the file on the disk; empty while it is in clear."""
        self._wake = asyncio.Event()
        store.replica.subscribe(self._on_applied)
        store.replica.on_restore(self._wake.set)

    def _on_applied(self, applied: Applied) -> None:
        if any(kind == "cluster" for kind, _ in applied.changed):
            self._wake.set()

    async def run(self) -> None:
        """Follow the cluster until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.finish()
                await self.step()
                await self.report()
            except (SwarmError, OSError) as error:
                log.warning("the keys of this node do not follow yet: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            await self._wake.wait()

    async def finish(self) -> None:
        """Bring a new key into use where it is not yet: the power failed, or the disk is full.

        Raises Unavailable: there is no room; the former key goes on opening what it sealed.
        """
        if len(self._keyring.keys) > 1:
            await self._take_newest()
            version = locked_at(self._paths.keys.read_bytes())
            self._save(self.unlock_key, version, self._keyring.keys)

    async def step(self) -> None:
        """Make the disk as the cluster is now. Raises Unavailable for want of room (`finish`).

        What a log that is still being replayed says of older times is not heard: the keys would
        lie in clear for a moment.
        """
        cluster = self._store.view.cluster
        if cluster is None or cluster.unlock_key == self.unlock_key:
            return
        wanted, version = cluster.unlock_key, cluster.meta.version
        if version <= locked_at(self._paths.keys.read_bytes()):
            return
        if wanted and not self.unlock_key:
            # The present key lay in clear on this disk: it may seal nothing that is locked.
            fresh = Keyring.fresh().keys[0]
            self._save(wanted, version, (fresh, *self._keyring.keys))
            self._keyring.add(fresh)  # not before: what it seals needs it on the disk
        else:
            self._save(wanted, version, self._keyring.keys)
        self.unlock_key = wanted
        await self.finish()
        log.info("the keys of this node are %s", "locked" if wanted else "not locked any more")

    async def report(self) -> None:
        """Tell the cluster that the disk is as it wants; raises SwarmError when it cannot hear."""
        cluster, node = self._store.view.cluster, self._store.view.nodes.get(self._node_id)
        if cluster is None or node is None or cluster.unlock_key != self.unlock_key:
            return
        if node.lock_index < cluster.lock_index:
            done = SetNodeLock(node_id=self._node_id, lock_index=cluster.lock_index)
            await self._store.propose((done,))

    def _save(self, unlock_key: str, version: int, keys: Sequence[bytes]) -> None:
        with self._paths.tls.locked():  # swarmd may be at sealing a key with the ring of before
            write_durably(self._paths.keys, pack_keyring(Keyring(keys), unlock_key, version))

    async def _take_newest(self) -> None:
        """Seal everything with the newest key and forget the others."""
        await self._reseal()
        files = self._paths.tls
        with files.locked():
            key_pem = files.read(lambda key: open_key(key, self._keyring)).key_pem
            files.keep(seal_key(key_pem, self._keyring))
        self._keyring.forget_old()
