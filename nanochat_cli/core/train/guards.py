"""What must hold after every step, checked before the weights change."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from nanochat_cli.core.errors import Diverged


def check_finite(
    step: int, loss: float, grad_norm: float, last_saved: int | None, where: Callable[[], str | None] = lambda: None
) -> None:
    """Raise Diverged, naming the step, if the loss or the gradient is not a number. The weights are still good then.

    `where` is asked only then, for words that lead to the batch.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {grad_norm}"
    kept = f"step {last_saved} is saved and good; " if last_saved is not None else ""
    rows = where()
    raise Diverged(
        f"training diverged at step {step + 1}: {what}" + (f" ({rows})" if rows else ""),
        hint=f"{kept}try lower learning rates or --grad-clip 1.0, and look at those rows if it happens there again",
    )


def stop_requested(stage_dir: Path) -> bool:
    """Return whether someone asked this stage to save and stop."""
    return (stage_dir / "stop").exists()


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
