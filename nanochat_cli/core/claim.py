"""Locks on single files and folders: the system's, and where a file system has none a mark beside them.

The mark is that of `runlock`: created exclusively, touched at every beat by its owner, who is named in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable
from pathlib import Path

from nanochat_cli.core.files import explain_os_errors
from nanochat_cli.core.lockmark import Mark, Rival
from nanochat_cli.core.runlock import POLL_S, flock


class Claim:
    """What one process has, or tries to get, of something that it has opened. Held until `release`."""

    def __init__(self, path: Path) -> None:
        """Prepare the claim on `path`; only the file system without locks will see the mark beside it."""
        self._rival = Rival(mark_of(path))
        self._mark: Mark | None = None

    def take(self, handle: int) -> bool:
        """Try once to lock the open file; False if another process, or another thread, has it."""
        with explain_os_errors("a lock"):
            locked = flock(handle)
            if locked is False:
                return False
            if locked and not self._rival.path.exists():
                return True
            mark = self._rival.replace(takeover=False)
        if mark is not None and not locked:
            self._mark = mark
        elif mark is not None:  # left from a time, or by a machine, without flock: the lock is enough
            mark.release()
        elif locked:
            fcntl.flock(handle, fcntl.LOCK_UN)
        return mark is not None

    def take_now(self, handle: int) -> bool:
        """Lock it if nobody alive has it. Without flock it may take some seconds to tell the living from the dead."""
        while not self.take(handle):
            if not self._rival.undecided:
                return False
            time.sleep(POLL_S)
        return True

    def wait(self, handle: int, pause: Callable[[float], object] = time.sleep) -> None:
        """Lock it as soon as nobody else has it."""
        while not self.take(handle):
            pause(POLL_S)

    def release(self) -> None:
        """Take the mark away, if there is one; the system's lock ends when the file is closed."""
        if self._mark is not None:
            with contextlib.suppress(OSError):
                self._mark.release()
            self._mark = None


def mark_of(path: Path) -> Path:
    """Return where the mark is that stands in for a lock on a file or folder."""
    name = path.name if path.name.startswith(".") else f".{path.name}"
    return path.with_name(f"{name}.held")
