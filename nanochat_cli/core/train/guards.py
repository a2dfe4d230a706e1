"""What must hold before the weights change: numbers, and no leap that has never been seen.

A step whose loss or gradient is no number, or lies far outside what the last ones were, is left out. Three in a row
mean that the weights or a stretch of the data are bad: training goes back one checkpoint and leaves that stretch out
(the remedy of PaLM, arXiv 2204.02311). If that does not help, it stops. The limit of six deviations over 128 steps is
OLMo-core's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core import runs
from nanochat_cli.core.errors import Diverged

WINDOW = 128
_ENOUGH = WINDOW // 2
"""Steps to have seen before a leap is called one."""
_WORTH = 0.1
"""A leap is more than this share of the mean, too: where nothing changes any more, the least deviation is large."""
IN_A_ROW = 3
_OFTEN, _OF = 10, 1000


@dataclass(frozen=True)
class Verdict:
    """Why a step is left out: `what` in words, and whether it is no number at all."""

    what: str
    is_number: bool


class Guard:
    """Judges each step by its loss and the norm of its gradient. All processes see the same numbers."""

    def __init__(self, sigma: float | None = 6.0) -> None:
        self.sigma = sigma
        self.skipped = 0
        self.in_a_row = 0
        self._seen = {"loss": deque[float](maxlen=WINDOW), "gradient norm": deque[float](maxlen=WINDOW)}
        self._recent = deque[int](maxlen=_OFTEN)

    def judge(self, loss: float, grad_norm: float | None) -> Verdict | None:
        """Return what is wrong with a step; None if it is good. A norm of None is not judged."""
        for name, value in (("loss", loss), ("gradient norm", grad_norm)):
            if value is not None and not math.isfinite(value):
                return Verdict(f"{name} {value}", is_number=False)
        for name, value in (("loss", loss), ("gradient norm", grad_norm)):
            limit = self._limit(name)
            if value is not None and limit is not None and value > limit:
                return Verdict(f"{name} {value:.4g}, above {limit:.4g}", is_number=True)
        return None

    def took(self, loss: float, grad_norm: float) -> None:
        """Take in a good step."""
        self.in_a_row = 0
        self._seen["loss"].append(loss)
        self._seen["gradient norm"].append(grad_norm)

    def left_out(self, step: int) -> bool:
        """Count a step that was left out; return whether such steps have become frequent just now."""
        self.skipped += 1
        self.in_a_row += 1
        often = len(self._recent) == _OFTEN and step - self._recent[0] < _OF
        if often:
            self._recent.clear()
        self._recent.append(step)
        return often

    def _limit(self, name: str) -> float | None:
        seen = self._seen[name]
        if self.sigma is None or len(seen) < _ENOUGH:
            return None
        mean = sum(seen) / len(seen)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in seen) / len(seen))
        return mean + max(self.sigma * deviation, _WORTH * abs(mean))

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to judge the same."""
        seen = {name: list(values) for name, values in self._seen.items()}
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "recent": list(self._recent), "seen": seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; an empty one, as older checkpoints have, changes nothing."""
        if state:
            self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])
            self._recent = deque(state["recent"], maxlen=_OFTEN)
            self._seen = {name: deque(state["seen"][name], maxlen=WINDOW) for name in self._seen}


def diverged(step: int, what: str, last_saved: int | None, where: str | None) -> Diverged:
    """Return the error that ends a training. The weights before `step` are still good then."""
    kept = f"step {last_saved} is saved and good; " if last_saved is not None else ""
    return Diverged(
        f"training diverged at step {step + 1}: {what}" + (f" ({where})" if where else ""),
        hint=f"{kept}try lower learning rates or --grad-clip 1.0, and look at those rows if it happens there again",
    )


def stop_requested(stage_dir: Path) -> str | None:
    """Return who asked this stage to save and stop, as the stop file says; None if nobody did."""
    try:
        return (stage_dir / runs.STOP_FILE).read_text(encoding="utf-8", errors="replace").strip()[
            :80
        ] or "the stop file"
    except OSError:
        return None


class SmoothLoss:
    """Exponential average of the loss without the bias towards its start value of zero."""

    def __init__(self, beta: float = 0.9, *, average: float = 0.0, weight: float = 0.0) -> None:
        self.beta = beta
        self.average = average
        self.weight = weight

    def update(self, loss: float) -> float:
        """Take in one loss and return the smoothed value."""
        self.average = self.beta * self.average + (1.0 - self.beta) * loss
        self.weight = self.beta * self.weight + (1.0 - self.beta)
        return self.value

    @property
    def value(self) -> float:
        """The smoothed loss; 0 before the first one."""
        return self.average / self.weight if self.weight else 0.0

    def state(self) -> dict[str, float]:
        """Return what a resumed run needs to go on with the same curve."""
        return {"average": self.average, "weight": self.weight}
