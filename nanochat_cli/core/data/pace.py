"""How far several jobs are together, and how fast: one line of progress for all of them."""

from __future__ import annotations

import time

from nanochat_cli.core.events import Log
from nanochat_cli.core.units import write_size

EVERY_S = 0.2


class Pace:
    """Adds up what jobs that run side by side have done; an earlier attempt did `skipped` of it."""

    def __init__(self, log: Log, task: str, total: int, skipped: int = 0, unit: str = "bytes") -> None:
        self.log, self.task, self.total, self.unit = log, task, total, unit
        self._before, self._done = skipped, 0
        self._open: dict[int, float] = {}
        self._began = time.monotonic()
        self._told = 0.0

    def at(self, job: int, done: float) -> None:
        """A job has done that many of its bytes."""
        self._open[job] = done
        if time.monotonic() - self._told >= EVERY_S:
            self._tell()

    def end(self, job: int, size: int) -> None:
        """A job is done; it had `size` bytes."""
        self._open.pop(job, None)
        self._done += size
        self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        done = self._done + sum(self._open.values())
        rate = done / max(self._told - self._began, 1e-3)
        shown = write_size(round(rate)) if self.unit == "bytes" else f"{rate / 1e6:.1f} M"
        detail = f"{shown}/s" if self._told - self._began > 1 else ""
        self.log.progress(self.task, min(self._before + done, self.total), self.total, self.unit, detail)
