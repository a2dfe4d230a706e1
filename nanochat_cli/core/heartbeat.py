"""Signs of life: every process of a training counts on in a small file, and who watches sees which one hangs.

A sign tells where in the training a process is, so that the one that all others wait for is the furthest back; that it
is alive, which everything that takes long says now and then (`alive`); and how long its longest step took.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = "alive"
STEP, OTHER = "step", "other"
"""In a step, a sign is due soon; while starting, measuring or saving, one may take long."""
OTHER_PATIENCE = 1800.0
_STEPS_LONG = 10.0
"""A step may take so many times as long as the longest before it."""

_current: Beat | None = None


class Beat:
    """The writer's side. A sign is one write of some bytes in place."""

    def __init__(self, stage_dir: Path, rank: int) -> None:
        path = stage_dir / FOLDER / f"rank-{rank:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._about = f"{os.getpid():010d} {socket.gethostname()[:64]:<64}"
        self._place = self._count = 0
        self._phase, self._longest = OTHER, 0.0
        global _current
        _current = self

    def __call__(self, phase: str) -> None:
        """Tell that this process got one place further, in this phase."""
        self._place += 1
        self._phase = phase
        self.alive()

    def step_done(self, seconds: float) -> None:
        """Take note of how long a step took."""
        self._longest = max(self._longest, seconds)

    def alive(self) -> None:
        """Tell that this process is alive."""
        self._count += 1
        text = f"{self._place:020d} {self._count:020d} {self._phase:<6} {self._longest:012.3f} {self._about}\n"
        with contextlib.suppress(OSError):  # a full disk is nothing to end a training for
            os.pwrite(self._handle, text.encode(), 0)


def alive() -> None:
    """Tell that the training of this process, if there is one, is alive: for whatever takes long in small pieces."""
    if _current is not None:
        _current.alive()


@dataclass
class _Seen:
    place: int
    count: int
    phase: str
    longest: float
    pid: int
    host: str


class Watch:
    """The watcher's side: `hanging` names the processes that all others wait for."""

    def __init__(self, stage_dir: Path, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._patience, self._clock = stage_dir / FOLDER, patience_s, clock
        self._seen: dict[int, _Seen] = {}
        self._since = clock()
        self.waited = patience_s
        """How long the last answer waited for."""

    def hanging(self) -> list[int]:
        """Return the ranks furthest back if none of all has shown a sign of life for too long; mostly none."""
        found = self._read()
        if found != self._seen:
            self._seen, self._since = found, self._clock()
            return []
        if not found:
            return []
        furthest_back = min(seen.place for seen in found.values())
        behind = [rank for rank, seen in found.items() if seen.place == furthest_back]
        self.waited = max(self._patience, _STEPS_LONG * max(seen.longest for seen in found.values()))
        if any(found[rank].phase != STEP or not found[rank].longest for rank in behind):
            self.waited = max(self.waited, OTHER_PATIENCE)
        return sorted(behind) if self._clock() - self._since > self.waited else []

    def kill(self) -> None:
        """End all processes that have shown a sign and are on this machine: a launcher may no longer reach them."""
        for seen in self._read().values():
            if seen.host == socket.gethostname()[:64] and _is_ours(seen.pid, self._folder):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(seen.pid, signal.SIGKILL)

    def _read(self) -> dict[int, _Seen]:
        found = {}
        for path in self._folder.glob("rank-*") if self._folder.is_dir() else ():
            try:
                place, count, phase, longest, pid, host = path.read_text().split()
                seen = _Seen(int(place), int(count), phase, float(longest), int(pid), host)
                found[int(path.name.removeprefix("rank-"))] = seen
            except (OSError, ValueError):
                continue  # being written for the first time
        return found


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether a process works in the stage of this folder: its number may have been given to another one."""
    try:
        return str(folder.parent).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def clear(stage_dir: Path) -> None:
    """Delete the signs of an earlier attempt."""
    for path in (stage_dir / FOLDER).glob("rank-*"):
        path.unlink(missing_ok=True)
