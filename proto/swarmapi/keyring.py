"""A node's keys for what it keeps on its disk, and the unlock key that may lock them.

Everything a manager keeps (journal, snapshot, its TLS key) is sealed with AES-256-GCM under the
first key of a ring that no other node has. The ring is one small file: in clear, or, with
autolock, itself sealed under the cluster's unlock key, so that locking, unlocking and a new
unlock key rewrite that file and nothing else.

sealed  nonce(12) ciphertext tag(16)

Nonces are random: up to 2^32 seals under one key keep a repetition unlikely (NIST SP 800-38D),
which is a year of a hundred frames a second; every rotation begins anew.
"""

import base64
import binascii
import os
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmapi.errors import Internal, InvalidArgument, NotSwarmManager, Unauthenticated

NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
LOCKED: Final = (
    "Swarm is encrypted and needs to be unlocked before it can be used. "
    'Please use "docker swarm unlock" to unlock it.'
)
"""What Docker's clients are told on a locked node."""
INVALID_KEY: Final = "swarm could not be unlocked: invalid key provided"
UNLOCK_KEY_PATH: Final = "/local/unlock-key"
CERTIFICATE_PATH: Final = "/local/certificate"
"""On the manager's own socket, for swarmd alone: what opens the keys of this node."""
_UNLOCK_PREFIX: Final = "SWMKEY-1-"
_SEALED_KEY: Final = b"SWKEY01\n"
_RING_BOUND: Final = b"swarm keyring 1"
RandomBytes = Callable[[int], bytes]


class Locked(NotSwarmManager):
    """The node's keys are sealed and nobody has given the unlock key."""

    def __init__(self) -> None:
        super().__init__(LOCKED)


class WrongKey(Exception):
    """No key of the ring opens it, or it was changed."""


class Keyring:
    """Keys of one node, the newest first: it seals; all of them open."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys: tuple[bytes, ...] = tuple(keys)
        self._ciphers = [AESGCM(key) for key in self.keys]

    @classmethod
    def fresh(cls, random_bytes: RandomBytes = os.urandom) -> "Keyring":
        """Return a ring of one new key."""
        return cls([random_bytes(KEY_BYTES)])

    def seal(self, data: bytes, bound: bytes) -> bytes:
        """Return `data` sealed; it opens only together with the same `bound` bytes."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, data, bound)

    def open(self, sealed: bytes, bound: bytes) -> tuple[bytes, bool]:
        """Return what was sealed, and whether the newest key did it. Raises WrongKey."""
        nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        for position, cipher in enumerate(self._ciphers):
            try:
                return cipher.decrypt(nonce, rest, bound), position == 0
            except (InvalidTag, ValueError):
                continue
        raise WrongKey

    def add(self, key: bytes) -> None:
        """Seal with a new key from now on; the others still open."""
        self.keys = (key, *self.keys)
        self._ciphers.insert(0, AESGCM(key))

    def forget_old(self) -> None:
        """Keep the newest key alone: nothing is sealed with another any more."""
        self.keys = self.keys[:1]
        del self._ciphers[1:]


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    format: int = 1
    locked: bool = False
    version: int = 0
    """Of the cluster, when it last said whether and how to lock; older words do not count."""
    ring: bytes = b""
    """msgpack of the keys, sealed under the unlock key where `locked`."""


def pack_keyring(keyring: Keyring, unlock_key: str = "", version: int = 0) -> bytes:
    """Return the file of a ring, locked where there is an unlock key.

    `version` is the cluster's as of which that holds.
    """
    ring = msgspec.msgpack.encode(keyring.keys)
    if unlock_key:
        ring = Keyring([unlock_secret(unlock_key)]).seal(ring, _RING_BOUND)
    return msgspec.msgpack.encode(_Stored(locked=bool(unlock_key), version=version, ring=ring))


def is_locked(file: bytes) -> bool:
    """Tell whether a ring's file needs the unlock key. Raises Internal."""
    return _stored(file).locked


def locked_at(file: bytes) -> int:
    """Return the version of the cluster that a ring's file was packed with. Raises Internal."""
    return _stored(file).version


def unpack_keyring(file: bytes, unlock_key: str = "") -> Keyring:
    """Return the ring in a file.

    Raises:
        Locked: it is sealed, and no unlock key is given.
        Unauthenticated: it is another one's.
        Internal: the file is damaged.
    """
    stored = _stored(file)
    ring = stored.ring
    if stored.locked:
        if not unlock_key:
            raise Locked
        try:
            ring, _ = Keyring([unlock_secret(unlock_key)]).open(ring, _RING_BOUND)
        except (InvalidArgument, WrongKey):
            raise Unauthenticated(INVALID_KEY) from None
    try:
        return Keyring(msgspec.msgpack.decode(ring, type=tuple[bytes, ...]))
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, IndexError) as error:
        raise Internal(f"the node's keys cannot be read ({error}): restore the file") from error


def _stored(file: bytes) -> _Stored:
    try:
        return msgspec.msgpack.decode(file, type=_Stored)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Internal(f"the node's keys cannot be read ({error}): restore the file") from error


def seal_key(key_pem: bytes, keyring: Keyring) -> bytes:
    """Return the file of a private key, sealed."""
    return _SEALED_KEY + keyring.seal(key_pem, _SEALED_KEY)


def open_key(file: bytes, keyring: Keyring | None) -> bytes:
    """Return the private key in a file, sealed or not; raises Internal."""
    if not file.startswith(_SEALED_KEY):
        return file
    try:
        if keyring is None:
            raise WrongKey
        return keyring.open(file[len(_SEALED_KEY) :], _SEALED_KEY)[0]
    except WrongKey:
        raise Internal(
            "the node's private key is sealed with a key this node does not have: "
            "restore its raft.keys"
        ) from None


def new_unlock_key(random_bytes: RandomBytes) -> str:
    """Return a fresh unlock key: `SWMKEY-1-` and 32 bytes in base64 without padding."""
    secret = base64.b64encode(random_bytes(KEY_BYTES)).decode().rstrip("=")
    return _UNLOCK_PREFIX + secret


def unlock_secret(text: str) -> bytes:
    """Return the 32 bytes of an unlock key; raises InvalidArgument when it is none."""
    body = text.strip().removeprefix(_UNLOCK_PREFIX)
    try:
        secret = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.strip().startswith(_UNLOCK_PREFIX) or len(secret) != KEY_BYTES:
        raise InvalidArgument(f"invalid unlock key: want {_UNLOCK_PREFIX} and 43 characters")
    return secret
