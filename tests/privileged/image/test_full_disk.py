from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOUNT = (
    'mount -t tmpfs -o size=8m swarm-test "$1" &&'
    ' exec "$0" -m tests.privileged.image.full_disk "$@"'
)


def test_a_full_disk_refuses_clearly_keeps_nothing_half_and_recovers(tmp_path: Path) -> None:
    disk, beside = tmp_path / "disk", tmp_path / "beside"
    disk.mkdir()
    beside.mkdir()
    done = subprocess.run(
        [
            *("unshare", "-m", "--propagation", "private", "sh", "-c", MOUNT),
            *(sys.executable, str(disk), str(beside)),
        ],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for what in ("load", "import", "commit", "copy", "run", "tag"):
        found = told[what]
        assert found["error"] in ("ENOSPC", "No space left on device"), (what, found)
        assert found["images"], what
        assert found["reopened"], what
        assert found["blobs"] == 3, (what, found)
        if what != "tag":
            assert found["lost_bytes"] < 64 << 10, (what, found)
    assert told["removed"] == {"left": 0}
    assert told["recovered"] == {"names": ["again:1"], "read": "y"}
