"""The machine's own id."""

import platform
from pathlib import Path


def machine_id() -> str:
    """Return systemd's machine id, or the host's name where there is none."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return platform.node()
