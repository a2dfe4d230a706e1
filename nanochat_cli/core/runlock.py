"""One process per folder: a lock of the system where the file system has them, else a file that its owner keeps fresh.

`lock` is locked with flock, which the kernel lets go of with the last process that holds it. Some network file systems
refuse that; there `lock.held` (see `lockmark`) decides. Either file says who.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat_cli.core import lockmark
from nanochat_cli.core.errors import InUse, NanochatError
from nanochat_cli.core.lockholder import Holder, me, read, running_here, sign
from nanochat_cli.core.lockmark import Mark, Rival

LOCK = "lock"
MARK = "lock.held"
POLL_S = 0.1
_LOOK_EVERY_S = 1.0
_NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


@dataclass
class _Held:
    """A folder that this process holds, and by what."""

    folder: Path
    mark: Mark | None
    looked: float = 0.0
    lost: bool = False

    def is_lost(self, handle: int) -> bool:
        if self.mark is not None:
            return self.mark.lost.is_set()
        if not self.lost and time.monotonic() - self.looked > _LOOK_EVERY_S:
            self.looked = time.monotonic()
            with contextlib.suppress(OSError):  # a file that nobody has put another in the place of is still ours
                self.lost = not os.path.samestat(os.fstat(handle), os.stat(self.folder / LOCK))
        return self.lost


_mine: dict[int, _Held] = {}


@contextlib.contextmanager
def lock(folder: Path, wait_s: float = 10.0, *, takeover: bool | None = False) -> Iterator[int]:
    """Hold the folder for this process and yield the open lock file.

    A child that inherits that file holds the folder as well, so a killed command's worker keeps it until it is gone:
    the lock waits a little for that. `takeover` takes it from a holder on another machine that is gone for good; None
    says that the command has no such option. Raises NanochatError that names the holder.

    Who works for long in the folder asks `lost` now and then.
    """
    handle, mark = _acquire(folder, wait_s, takeover)
    _mine[handle] = _Held(folder, mark)
    try:
        yield handle
    finally:
        del _mine[handle]
        if mark is not None:
            mark.release()
        os.close(handle)


def lost(handle: int) -> bool:
    """Return whether a lock that this process holds, given by what `lock` yielded, was taken over by another.

    That happens to a process that was stopped, or cut off from its disk, for so long that it was taken for dead, and
    with `--takeover`. It has to end without writing any more. Cheap enough to be asked many times a second.
    """
    return _mine[handle].is_lost(handle)


def is_held(folder: Path) -> bool:
    """Return whether a process is working in the folder right now. Needs no permission to write."""
    if _flock_is_held(folder):
        return True
    mark = lockmark.read_mark(folder / MARK)
    if mark is None:
        return False
    who, touched = mark
    return who.is_alive if who.is_here else time.time() - touched <= lockmark.MISSED_BEATS * lockmark.BEAT_S


def holder(folder: Path) -> Holder | None:
    """Return who is working in the folder right now, None if nobody is."""
    return _named(folder) if is_held(folder) else None


def _named(folder: Path) -> Holder:
    """Who the folder's files name, be it at work or gone."""
    mark = lockmark.read_mark(folder / MARK)
    return mark[0] if mark is not None and not _flock_is_held(folder) else read(folder / LOCK)


def has_stale_mark(folder: Path) -> bool:
    """Return whether a process that is gone has left its mark in the folder."""
    return (folder / MARK).exists() and not is_held(folder)


# ---- taking it -------------------------------------------------------------------------------------------------------


def _acquire(folder: Path, wait_s: float, takeover: bool | None) -> tuple[int, Mark | None]:
    begun = time.monotonic()
    rival = Rival(folder / MARK)
    while True:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        locked: bool | None = None
        try:
            locked = flock(handle)
            if locked and not _is_at(handle, folder / LOCK):
                raise _Again  # the folder or the file was taken away before we had it
            if locked and not rival.path.exists():
                sign(handle, me())
                return handle, None
            if locked is not False and (mark := rival.replace(takeover)):
                if locked:  # a mark left from a time without flock: this lock is enough
                    mark.release()
                sign(handle, mark.owner)
                return handle, None if locked else mark
        except _Again:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if locked is False and takeover:
            _set_aside(folder)
            continue
        if time.monotonic() - begun > wait_s and not rival.undecided:
            raise _held(folder, takeover)
        time.sleep(POLL_S)


class _Again(Exception):
    """What was locked is not there any more."""


def flock(handle: int) -> bool | None:
    """Lock an open file; False if another process has it, None if this file system has no locks."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as problem:
        if problem.errno in _NO_FLOCK:
            return None
        raise
    return True


def _flock_is_held(folder: Path) -> bool:
    import fcntl

    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no locks here, or none for a file that may only be read
    finally:
        os.close(handle)
    return False


def _set_aside(folder: Path) -> None:
    """Take the lock file away from a holder on another machine, whose lock its server has kept."""
    who = read(folder / LOCK)
    if who.is_here or (not who.host and who.is_alive):
        raise running_here(folder, who)
    with contextlib.suppress(FileNotFoundError):
        (folder / LOCK).rename(folder / f".{LOCK}.{uuid.uuid4().hex[:8]}.tmp")


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _held(folder: Path, takeover: bool | None) -> NanochatError:
    who = _named(folder)
    hint = "wait for it or stop it, or write into another run"
    if takeover is not None and not who.is_here and who.host:
        hint += f"; if {who.host} is gone for good: --takeover"
    return InUse(f"another process is working in {folder} ({who})", hint=hint)
