"""A manager whose log is damaged, or whose state went astray, comes back as a new member.

What it had is kept beside, for those who want to know why. The mark outlives a crash: until the
leader has removed and added it anew, the member is mute, since it knows no more what it promised.
"""

import shutil
import time
from pathlib import Path
from typing import Final

from manager.raft.disk import damaged_beside, make_directory
from swarmapi.durable import sync_directory, write_durably

REST_S: Final = 3600.0
"""Between two times that a state is thrown away because it differs."""
_WANTED, _DONE = b"set aside\n", b"mute\n"


class Aside:
    """The mark in a manager's state directory, and where its former log is kept."""

    def __init__(self, state_dir: Path, raft: Path) -> None:
        self._mark = state_dir / "returning"
        self._damaged = damaged_beside(raft)
        self._raft = raft

    @property
    def is_marked(self) -> bool:
        """Whether this manager is on its way back."""
        return self._mark.exists()

    def finish(self) -> None:
        """Do what was begun before a crash, or wanted before the end of the process."""
        if self.is_marked and self._mark.read_bytes() != _DONE:
            self.set_aside()

    def want(self) -> bool:
        """Have the log set aside at the next start; False when it was so lately."""
        try:
            age_s = time.time() - self._damaged.stat().st_mtime
        except FileNotFoundError:
            age_s = REST_S
        if age_s < REST_S:
            return False
        write_durably(self._mark, _WANTED)
        return True

    def set_aside(self) -> None:
        """Move log and snapshots out of the way; raises OSError.

        Not where they are only a beginning of the others' log: the original is there already.
        """
        if self.is_marked and self._mark.read_bytes() == _DONE:
            shutil.rmtree(self._raft, ignore_errors=True)
            make_directory(self._raft)
            return
        write_durably(self._mark, _WANTED)
        if self._raft.exists():
            shutil.rmtree(self._damaged, ignore_errors=True)
            self._raft.rename(self._damaged)
            self._damaged.touch()
            sync_directory(self._raft.parent)
        make_directory(self._raft)
        write_durably(self._mark, _DONE)

    def forget(self) -> None:
        """Be a member like any other again; what was set aside stays."""
        self._mark.unlink(missing_ok=True)
