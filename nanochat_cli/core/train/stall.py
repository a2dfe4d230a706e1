"""How long training waited for its data."""

from __future__ import annotations

from collections import deque

from nanochat_cli.core.events import Log

WINDOW = 50
LIMIT = 0.01


class Stall:
    """Waiting as a share of the steps' time. Warns once if it is above 1 % over 50 steps."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._waited = self._total = 0.0
        self._warned = False

    def add(self, waited: float, seconds: float) -> None:
        """Take in one step: the seconds that it waited, and those that it took in all."""
        self._waited += waited
        self._total += seconds
        self._recent.append((waited, seconds))
        if not self._warned and len(self._recent) == WINDOW and self._share_of_recent() > LIMIT:
            self._warned = True
            self._log.warning(
                f"training waits for its data: {self._share_of_recent():.1%} of the time of {WINDOW} steps; what helps "
                "is a faster disk for the token shards, more memory to cache them, or a free CPU core"
            )

    @property
    def average(self) -> float | None:
        """The share over all steps; None before the first."""
        return self._waited / self._total if self._total else None

    def _share_of_recent(self) -> float:
        return sum(waited for waited, _ in self._recent) / sum(seconds for _, seconds in self._recent)
