"""The version of the programs, as it is installed."""

from importlib import metadata

_DISTRIBUTION = "swarm-orchestrator"


def version() -> str:
    """Return it, `0` where the programs run without an installation."""
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0"
