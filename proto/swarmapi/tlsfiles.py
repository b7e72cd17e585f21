"""A node's certificate and private key on its disk: a pair that a power cut does not part.

The next key is written beside the present one, then its certificate takes the present one's place,
which decides; last, the key follows. Who reads takes the key that fits the certificate.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from swarmapi.durable import move_durably, write_durably
from swarmapi.errors import Internal
from swarmapi.identity import TLSMaterial

Change = Callable[[bytes], bytes]


class TLSFiles:
    """The files of one directory. `write` and `move` are durable, one after the other."""

    def __init__(
        self,
        directory: Path,
        write: Callable[[Path, bytes], None] = write_durably,
        move: Callable[[Path, Path], None] = move_durably,
    ) -> None:
        self._directory = directory
        self._write = write
        self._move = move
        self.ca = directory / "ca.pem"
        self.cert = directory / "node.pem"
        self.key = directory / "node.key"
        self._next = directory / "node.key.next"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the files, or the ring that seals the key."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def save(self, material: TLSMaterial, seal: Change = bytes) -> None:
        """Make certificate and key durable; `seal` makes the key's file, under the lock."""
        with self.locked():
            self._write(self._next, seal(material.key_pem))
            self._write(self.ca, material.ca_pem)
            self._write(self.cert, material.cert_pem)
            self._move(self._next, self.key)

    def read(self, unseal: Change = bytes) -> TLSMaterial:
        """Return the certificate and the key that fits it.

        Raises:
            OSError: they are not there.
            Internal: no key fits, or `unseal` does not open it.
        """
        ca_pem, cert_pem = self.ca.read_bytes(), self.cert.read_bytes()
        failure: Exception = FileNotFoundError(f"{self.key} is missing")
        for path in (self.key, self._next):
            try:
                key_pem = unseal(path.read_bytes())
                if _fits(cert_pem, key_pem):
                    return TLSMaterial(ca_pem, cert_pem, key_pem)
                failure = Internal(f"{path} does not fit its certificate: join the node again")
            except FileNotFoundError:
                continue
            except Internal as error:
                failure = error
        raise failure

    def keep(self, key: bytes) -> None:
        """Have this file for the key that fits, and no other; for who holds the lock."""
        self._write(self.key, key)
        self._next.unlink(missing_ok=True)

    @property
    def is_settled(self) -> bool:
        """Whether no power cut came between certificate and key; for who holds the lock."""
        return not self._next.exists()

    def forget_key(self) -> None:
        """Remove the private key."""
        self.key.unlink(missing_ok=True)
        self._next.unlink(missing_ok=True)


def _fits(cert_pem: bytes, key_pem: bytes) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        key = serialization.load_pem_private_key(key_pem, None)
    except ValueError as error:
        raise Internal(f"the node's certificate cannot be read: {error}") from error
    return certificate.public_key() == key.public_key()
