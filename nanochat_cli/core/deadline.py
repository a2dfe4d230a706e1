"""When a training has to be over: after the time that it was given, or at the end of its Slurm allocation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SLURM_END = "SLURM_JOB_END_TIME"
_NEVER_MIND_S = 5.0
"""Kept free beside what a step and a save take."""


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock, which no change of the system's time moves, and what sets it."""

    at: float
    why: str
    clock: Callable[[], float] = time.monotonic

    def is_near(self, step_s: float, save_s: float) -> bool:
        """Return whether there is no time for what comes before the next look and, twice as long as before, a save."""
        return self.clock() + step_s + 2 * save_s + min(_NEVER_MIND_S, step_s + save_s) >= self.at


def find(
    max_wall_s: float | None,
    started: float | None,
    environ: Mapping[str, str],
    *,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Deadline | None:
    """Return the first moment at which this training has to be over; None if there is none.

    `started` is when its command began, on `clock`. Slurm tells the end of the allocation in seconds since 1970.
    """
    found = []
    if max_wall_s is not None:
        found.append(Deadline((clock() if started is None else started) + max_wall_s, "--max-wall", clock))
    if (end := environ.get(SLURM_END, "")).isdigit() and (left := int(end) - wall()) > 0:
        found.append(Deadline(clock() + left, "the end of the Slurm allocation", clock))
    return min(found, key=lambda deadline: deadline.at, default=None)
