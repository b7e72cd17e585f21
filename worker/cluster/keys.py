"""The keys of this machine's manager, as far as the daemon needs them.

The daemon writes the manager's certificate, whose private key is sealed with the node's keyring,
and hands the unlock key to the manager it launches. It keeps that key in memory alone; when it
starts anew beside a running manager, it asks that one.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

from swarmapi.errors import Unauthenticated, Unavailable
from swarmapi.identity import TLSMaterial
from swarmapi.keyring import (
    CERTIFICATE_PATH,
    UNLOCK_KEY_PATH,
    Keyring,
    Locked,
    is_locked,
    open_key,
    seal_key,
    unpack_keyring,
)
from worker.cluster.proxy import ManagerProxy
from worker.cluster.state import ClusterFiles

_ASK_TIMEOUT_S = 5.0


class NodeKeys:
    """The ring in the manager's state directory, and what opens it."""

    def __init__(self, state_dir: Path, socket_path: Path) -> None:
        self._files = ClusterFiles(state_dir)
        self._path = state_dir / "raft.keys"
        self._socket_path = socket_path
        self._unlock_key = ""

    async def unlock(self, unlock_key: str) -> None:
        """Take the unlock key; raises Unauthenticated when it does not open the ring."""
        file = await asyncio.to_thread(self._read)
        if file:
            unpack_keyring(file, unlock_key)
        self._unlock_key = unlock_key

    async def unlock_key(self) -> str:
        """Return what opens the ring; empty where it is in clear, or there is none yet.

        Raises:
            Locked: nobody has told the key.
        """
        file = await asyncio.to_thread(self._read)
        if not file or not is_locked(file):
            return ""
        with suppress(Unauthenticated, Locked):
            unpack_keyring(file, self._unlock_key)
            return self._unlock_key
        asked = await self._ask_manager()
        with suppress(Unauthenticated):
            unpack_keyring(file, asked)
            self._unlock_key = asked
            return asked
        raise Locked

    async def keyring(self) -> Keyring | None:
        """Return the ring, None where the manager has not made one yet. Raises Locked."""
        unlock_key = await self.unlock_key()
        file = await asyncio.to_thread(self._read)
        return unpack_keyring(file, unlock_key) if file else None

    async def load_tls(self) -> TLSMaterial:
        """Return the manager's certificate and key. Raises Locked, Internal."""
        keyring = await self.keyring()
        return await asyncio.to_thread(self._files.load_tls, lambda key: open_key(key, keyring))

    async def save_tls(self, tls: TLSMaterial) -> None:
        """Give the manager its certificate, the key sealed where there is a ring. Raises Locked."""
        unlock_key = await self.unlock_key()

        def seal(
            key_pem: bytes,
        ) -> bytes:  # the manager may have added to the ring
            file = self._read()
            return seal_key(key_pem, unpack_keyring(file, unlock_key)) if file else key_pem

        await asyncio.to_thread(self._files.save_tls, tls, seal)

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    async def renewed(self) -> None:
        """Have the running manager go on with the certificate that was saved.

        Raises:
            Unavailable: it does not run, or does not take it.
        """
        proxy = ManagerProxy(self._socket_path)
        try:
            status, body = await proxy.call("POST", CERTIFICATE_PATH, timeout_s=_ASK_TIMEOUT_S)
        finally:
            await proxy.close()
        if status != 200:
            raise Unavailable(f"the manager does not take its certificate: {body}")

    async def _ask_manager(self) -> str:
        proxy = ManagerProxy(self._socket_path)
        try:
            status, body = await proxy.call("GET", UNLOCK_KEY_PATH, timeout_s=_ASK_TIMEOUT_S)
        except Unavailable:
            return ""
        finally:
            await proxy.close()
        known = body.get("UnlockKey") if status == 200 and isinstance(body, dict) else ""
        return known if isinstance(known, str) else ""
