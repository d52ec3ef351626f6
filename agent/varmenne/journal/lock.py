"""Who has the journal in use on this host: every opener holds a shared lock, and a restore needs it alone."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from varmenne.errors import JournalError

LOCK_NAME = "journal.lock"
PATIENCE_SECONDS = 30


class InUse:
    """A lock on the state folder's journal, held until it is closed or the process ends, however it ends.

    It is a file of its own: closing any handle of an SQLite file would drop SQLite's own locks of this process.
    """

    def __init__(self, state_dir: Path, *, alone: bool = False) -> None:
        """Take the lock.

        Raises:
            JournalError: another process holds it, and we want it alone; or a restore takes very long.
            OSError: the folder cannot be written.
        """
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handle = os.open(state_dir / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            self._take(state_dir, alone=alone)
        except BaseException:
            self.close()
            raise

    def _take(self, state_dir: Path, *, alone: bool) -> None:
        until = time.monotonic() + (0 if alone else PATIENCE_SECONDS)
        while True:
            try:
                return fcntl.flock(self._handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    break
            time.sleep(0.05)
        raise JournalError(
            f"The journal in {state_dir} is in use by another process"
            if alone
            else f"The journal in {state_dir} is being restored",
            next_step="Let the other commands end, stop a running agent, and run this again",
        )

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._handle)
