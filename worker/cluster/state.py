"""What a node keeps of its membership: `cluster.json` and, beside it, its certificate.

Everything is written as write, fsync, rename, fsync of the directory, so a power cut leaves the
old state or the new one. `cluster.json` comes last: without it the node is in no cluster.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from swarmapi.durable import sync_directory, write_durably
from swarmapi.errors import Internal
from swarmapi.identity import TLSMaterial
from swarmapi.tlsfiles import Change, TLSFiles


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
        self._tls = TLSFiles(directory)

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
        write_durably(self.directory / "cluster.json", body)

    def load_tls(self, unseal: Change = bytes) -> TLSMaterial:
        """Return the node's certificate and key; raises Internal when they are gone."""
        try:
            return self._tls.read(unseal)
        except OSError as error:
            raise Internal(f"the node's certificate cannot be read: {error}") from error

    def save_tls(self, material: TLSMaterial, seal: Change = bytes) -> None:
        """Make certificate and key durable together, readable by root alone."""
        self._prepare()
        self._tls.save(material, seal)

    def forget_key(self) -> None:
        """Remove the private key: a manager's lies sealed with its other state."""
        self._tls.forget_key()

    def erase(self) -> None:
        """Forget the membership, then everything else of the directory."""
        with suppress(FileNotFoundError):
            (self.directory / "cluster.json").unlink()
            sync_directory(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
