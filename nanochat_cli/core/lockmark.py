"""The file that stands in for a lock where a file system has none: its owner touches it at every beat.

It is created exclusively. An owner that was stopped for so long that another took it for dead finds out: `Mark.lost`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from pathlib import Path

from nanochat_cli.core.lockholder import Holder, me, parse, read, running_here, sign

BEAT_S = 5.0
MISSED_BEATS = 3
"""So many beats without a sign of life, and a holder that cannot be looked at from here is taken for dead."""
GRACE_S = 2.0
"""How long a dead command's workers may take to notice: nothing else tells of them where there is no flock."""
_LOOK_AGAIN_S = 0.5


class Rival:
    """Another process's mark, watched by our own clock: clocks of two machines, and of their server, may differ."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.undecided = False
        """Whether the holder has neither shown a sign of life nor been watched for long enough."""
        self._seen: tuple[Holder, float] | None = None
        self._since = 0.0

    def replace(self, takeover: bool | None) -> Mark | None:
        """Return a mark of our own, if there was none or its holder is dead; None if it may be alive."""
        found = read_mark(self.path)
        if found is None:
            return Mark.create(self.path)
        who = found[0]
        if takeover and who.is_here and who.is_alive:
            raise running_here(self.path.parent, who)
        if found != self._seen:
            new = self._seen is None or self._seen[0] != who
            self.undecided = new and not (who.is_here and who.is_alive)
            self._seen, self._since = found, time.monotonic()
        waited = time.monotonic() - self._since
        dead = waited > GRACE_S and not who.is_alive if who.is_here else waited > MISSED_BEATS * BEAT_S
        if not dead and not takeover:
            return None
        return Mark.create(self.path) if _remove(self.path, who) else None


class Mark:
    """Our own mark, touched at every beat until it is released."""

    def __init__(self, path: Path, owner: Holder) -> None:
        self.path, self.owner = path, owner
        self.lost = threading.Event()
        """Set once another process has taken the folder over, because this one seemed to be gone."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @classmethod
    def create(cls, path: Path) -> Mark | None:
        """Return a new mark, or None if another process was faster."""
        owner = me()
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
        try:
            sign(handle, owner)
        finally:
            os.close(handle)
        return cls(path, owner)

    def _beat(self) -> None:
        missing = False
        while not self._done.wait(_LOOK_AGAIN_S if missing else BEAT_S):
            with contextlib.suppress(OSError):
                found = _owner(self.path)
                if found == self.owner:
                    os.utime(self.path)
                elif found is not None or missing:  # who looks whether a holder is dead may take its mark for a moment
                    self.lost.set()
                    return
                missing = found is None

    def release(self) -> None:
        """Give the folder free, unless it was taken over."""
        self._done.set()
        self._thread.join()
        if not self.lost.is_set():
            _remove(self.path, self.owner)


def _owner(path: Path) -> Holder | None:
    """Return whose a mark is now, None if there is none. Raises OSError if that cannot be told at the moment."""
    try:
        with path.open("rb") as file:
            return parse(file.read(4096))
    except FileNotFoundError:
        return None


def _remove(path: Path, owner: Holder) -> bool:
    """Take away the mark of one owner; False, and everything as it was, if it is another's by now."""
    if read(path) != owner:
        return False
    away = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.rename(away)  # by its own name no two processes can take the same mark
    except FileNotFoundError:
        return False
    ours = read(away) == owner
    if not ours:
        with contextlib.suppress(OSError):
            os.link(away, path)
    away.unlink(missing_ok=True)
    return ours


def read_mark(path: Path) -> tuple[Holder, float] | None:
    """Return whose a mark is and when it was last touched. Opening it makes a network file system look anew."""
    try:
        with path.open("rb") as file:
            touched = os.fstat(file.fileno()).st_mtime
            return parse(file.read(4096)), touched
    except FileNotFoundError:
        return None
    except OSError:
        return Holder(), time.time()
