"""The node's keys on its disk: made at the first start, locked while the cluster says so."""

from manager.bootstrap import write_durably
from manager.config import Paths
from swarmapi.keyring import Keyring, is_locked, pack_keyring, unpack_keyring


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
        save_keyring(paths, keyring, unlock_key)
        return keyring


def save_keyring(paths: Paths, keyring: Keyring, unlock_key: str) -> None:
    """Make the keys durable, locked where there is an unlock key."""
    paths.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(paths.keys, pack_keyring(keyring, unlock_key))


def are_locked(paths: Paths) -> bool:
    """Tell whether the keys on the disk need an unlock key."""
    return paths.keys.exists() and is_locked(paths.keys.read_bytes())
