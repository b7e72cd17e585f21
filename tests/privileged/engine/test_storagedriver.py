"""overlay2 is refused at start where overlayfs cannot be mounted."""

import subprocess
import sys
from pathlib import Path

import pytest

from swarmapi.errors import InvalidArgument
from worker.engine import storagedriver

pytestmark = pytest.mark.privileged

STACKED = (
    'cd "$1" && mkdir a b c m && mount -t overlay t -o lowerdir=a,upperdir=b,workdir=c m &&'
    ' exec "$0" -c "from pathlib import Path; from worker.engine import storagedriver;'
    " storagedriver.check('vfs', Path('m')); storagedriver.check('overlay2', Path('m'))\""
)


def test_a_data_root_that_takes_overlays(tmp_path: Path) -> None:
    storagedriver.check("overlay2", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_that_does_not(tmp_path: Path) -> None:
    """The upper directory of an overlay cannot lie on an overlay."""
    (tmp_path / "d").mkdir()
    done = subprocess.run(
        [
            *("unshare", "-m", "--propagation", "private", "sh", "-c", STACKED),
            *(sys.executable, str(tmp_path / "d")),
        ],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert InvalidArgument.__name__ in done.stderr, done.stderr
    assert "use --storage-driver vfs" in done.stderr
