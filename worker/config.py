"""Configuration of `swarmd`: default < file < environment < flag."""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarmapi.errors import InvalidArgument

DEFAULT_CONFIG_PATH = Path("/etc/swarm/swarmd.toml")


@dataclass(frozen=True)
class Config:
    """The settings of one daemon. Addresses are empty until the cluster needs them."""

    data_root: Path = Path("/var/lib/swarm")
    run_dir: Path = Path("/run/swarm")
    cgroup_parent: str = "swarm"
    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""

    @property
    def socket_path(self) -> Path:
        """Where the Docker Engine API listens."""
        return self.run_dir / "swarmd.sock"


_HELP = {
    "data_root": "directory of images, containers and volumes (default /var/lib/swarm)",
    "run_dir": "directory of sockets and of what a reboot makes void (default /run/swarm)",
    "cgroup_parent": "cgroup below which every container lives (default swarm)",
    "listen_addr": "address the cluster's listeners bind to",
    "advertise_addr": "address other nodes reach this one at",
    "data_path_addr": "address of the overlay networks' traffic",
}


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Return the configuration in force.

    A configuration file named by `--config` or SWARMD_CONFIG must exist; the default one may be
    absent. Its keys are the flags' names, with `-` or `_`.

    Raises:
        InvalidArgument: when the file cannot be read or holds an unknown key or a wrong type.
        SystemExit: by argparse, for a wrong flag or `--help`.
    """
    flags = vars(_parser().parse_args(argv))
    named = flags.pop("config") or environ.get("SWARMD_CONFIG", "")
    settings: dict[str, str] = _from_file(Path(named or DEFAULT_CONFIG_PATH), required=bool(named))
    for name in _HELP:
        if value := environ.get(f"SWARMD_{name.upper()}", ""):
            settings[name] = value
        if flags[name] is not None:
            settings[name] = flags[name]
    return _checked(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swarmd", description="the daemon of one machine")
    parser.add_argument("--config", help=f"TOML file (default {DEFAULT_CONFIG_PATH})")
    for name, text in _HELP.items():
        parser.add_argument("--" + name.replace("_", "-"), help=text)
    return parser


def _from_file(path: Path, *, required: bool) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise InvalidArgument(f"configuration file {path} does not exist") from None
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"configuration file {path}: {error}") from error
    settings = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in _HELP:
            raise InvalidArgument(f"configuration file {path}: unknown key {key!r}")
        if not isinstance(value, str):
            raise InvalidArgument(f"configuration file {path}: {key} must be a string")
        settings[name] = value
    return settings


def _checked(settings: Mapping[str, str]) -> Config:
    for name in ("data_root", "run_dir"):
        if not Path(settings.get(name, "/")).is_absolute():
            raise InvalidArgument(f"{name} must be an absolute path, not {settings[name]!r}")
    config = Config(
        data_root=Path(settings.get("data_root", Config.data_root)),
        run_dir=Path(settings.get("run_dir", Config.run_dir)),
        cgroup_parent=settings.get("cgroup_parent", Config.cgroup_parent),
        listen_addr=settings.get("listen_addr", ""),
        advertise_addr=settings.get("advertise_addr", ""),
        data_path_addr=settings.get("data_path_addr", ""),
    )
    if not config.cgroup_parent.strip("/") or ".." in config.cgroup_parent.split("/"):
        raise InvalidArgument(f"cgroup-parent {config.cgroup_parent!r} names no cgroup")
    return config
