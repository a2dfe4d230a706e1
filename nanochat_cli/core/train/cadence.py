"""When to save: every so many steps, or whenever so much time has passed, and what is to be kept for good."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Cadence:
    """`steps` and `seconds` may both be None: never. The clock starts with the process and with every save."""

    steps: int | None = None
    seconds: float | None = None
    keep: int | None = None
    """Every so many steps one is kept for good, and so has to be saved."""
    clock: Callable[[], float] = time.monotonic
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.clock()

    def is_due(self, step: int) -> bool:
        """Return whether a step is to be saved once it is done."""
        if any(every is not None and step % every == 0 for every in (self.steps, self.keep)):
            return True
        return self.seconds is not None and self.clock() - self.last >= self.seconds

    def saved(self) -> None:
        """Start the clock anew."""
        self.last = self.clock()
