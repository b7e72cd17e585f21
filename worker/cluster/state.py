"""What a node keeps of its membership: `cluster.json` and, beside it, its certificate.

Everything is written as write, fsync, rename, fsync of the directory, so a power cut leaves the
old state or the new one. `cluster.json` comes last: without it the node is in no cluster.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from swarmapi.errors import Internal
from swarmapi.identity import TLSMaterial

_CA, _CERT, _KEY = "ca.pem", "node.pem", "node.key"


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """A node's place in a cluster."""

    node_id: str
    cluster_id: str
    role: str
    """`manager` or `worker`: what the certificate says."""
    managers: list[str]
    """`host:port` of every manager that is known."""
    listen_addr: str
    advertise_addr: str
    """`host:port`."""
    data_path_addr: str
    join_addr: str = ""
    """Manager through which this one enters Raft; empty on the first of a cluster."""

    @property
    def is_manager(self) -> bool:
        return self.role == "manager"

    @property
    def address(self) -> str:
        """Return the IPv4 address that other nodes reach this one at."""
        return self.advertise_addr.rpartition(":")[0]


class ClusterFiles:
    """The directory of a node's membership; blocking."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self) -> Membership | None:
        """Return the membership, None outside a cluster; raises Internal when it is damaged."""
        path = self.directory / "cluster.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Membership)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise Internal(
                f"{path} cannot be read ({error}): restore it or remove {self.directory}"
            ) from error

    def save(self, membership: Membership) -> None:
        """Make the membership durable."""
        self._prepare()
        body = msgspec.json.format(msgspec.json.encode(membership), indent=2) + b"\n"
        self._write("cluster.json", body)

    def load_tls(self) -> TLSMaterial:
        """Return the node's certificate and key; raises Internal when they are gone."""
        names = (self.directory / name for name in (_CA, _CERT, _KEY))
        try:
            return TLSMaterial.read(*names)
        except OSError as error:
            raise Internal(f"the node's certificate cannot be read: {error}") from error

    def save_tls(self, material: TLSMaterial) -> None:
        """Make certificate and key durable, readable by root alone.

        The key is replaced before the certificate; `load_tls` of a mixture fails in TLS, so a
        renewal that a power cut interrupts is mended by joining again.
        """
        self._prepare()
        self._write(_CA, material.ca_pem)
        self._write(_KEY, material.key_pem)
        self._write(_CERT, material.cert_pem)

    def forget_key(self) -> None:
        """Remove the private key: a manager's lies sealed with its other state."""
        (self.directory / _KEY).unlink(missing_ok=True)

    def erase(self) -> None:
        """Forget the membership, then everything else of the directory."""
        with suppress(FileNotFoundError):
            (self.directory / "cluster.json").unlink()
            self._sync()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _write(self, name: str, body: bytes) -> None:
        fresh = self.directory / (name + ".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(fd)
        fresh.rename(self.directory / name)
        self._sync()

    def _sync(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
