"""How long to train, and how learning rate, momentum and weight decay move on the way. Pure functions of the step.

Steps are optimizer steps and count from 0; step `s` uses the values for `s` and leads to weights of step `s + 1`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

MOMENTUM_START = 0.85


def lr_multiplier(step: int, num_steps: int, *, warmup: int, warmdown: int, floor: float = 0.0) -> float:
    """Return the share of the peak learning rate at `step`: ramp up, hold, ramp down towards `floor`.

    The first step of the ramp up is 1/warmup and the last step of the ramp down is one notch above `floor`, so no
    step is wasted on a rate of zero. Raises ValueError if the ramps overlap.
    """
    if warmup + warmdown > num_steps:
        raise ValueError(f"ramps overlap: {warmup} + {warmdown} > {num_steps}")
    if step < warmup:
        return (step + 1) / warmup
    left = max(0, num_steps - step)
    return 1.0 if left >= warmdown else floor + (1.0 - floor) * left / warmdown


def muon_momentum(
    step: int, num_steps: int, *, peak: float = 0.95, ramp: int = 300, end: float | None = None, warmdown: int = 0
) -> float:
    """Return Muon's momentum: linear from 0.85 to `peak` over `ramp` steps, then to `end` while rates fall.

    The ramp takes at most a third of the run; where the two overlap, it counts.
    """
    ramp = min(ramp, num_steps // 3)
    if step < ramp and peak > MOMENTUM_START:
        return MOMENTUM_START + (peak - MOMENTUM_START) * step / ramp
    left = max(0, num_steps - step)
    if end is None or left >= warmdown:
        return peak
    return end + (peak - end) * left / warmdown


DecayShape = Literal["cosine", "linear", "constant"]


def weight_decay(step: int, num_steps: int, *, start: float, shape: DecayShape = "linear") -> float:
    """Return the weight decay: from `start` to nothing at the end, as decay matters while rates are high."""
    done = min(1.0, step / num_steps)
    if shape == "constant":
        return start
    return start * (0.5 * (1 + math.cos(math.pi * done)) if shape == "cosine" else 1.0 - done)


class OptimOptions(Protocol):
    """The part of `settings.OptimSection` that is used here."""

    @property
    def warmup_steps(self) -> int: ...
    @property
    def warmup_ratio(self) -> float: ...
    @property
    def warmdown_ratio(self) -> float: ...
    @property
    def final_lr_frac(self) -> float: ...
    @property
    def init_lr_frac(self) -> float: ...
    @property
    def weight_decay(self) -> float | None: ...
    @property
    def decay_shape(self) -> DecayShape: ...
    @property
    def momentum(self) -> float: ...
    @property
    def momentum_ramp(self) -> int: ...
    @property
    def momentum_end(self) -> float | None: ...


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All curves of one run. `peak` scales every learning rate (a later stage starts lower than pretraining)."""

    num_steps: int
    warmup: int = 0
    warmdown: int = 0
    floor: float = 0.0
    peak: float = 1.0
    momentum_peak: float = 0.95
    momentum_ramp: int = 300
    momentum_end: float | None = None
    decay: float = 0.0
    decay_shape: DecayShape = "linear"

    def lr(self, step: int) -> float:
        """Return the factor on every learning rate at `step`."""
        curve = lr_multiplier(step, self.num_steps, warmup=self.warmup, warmdown=self.warmdown, floor=self.floor)
        return self.peak * curve

    def momentum(self, step: int) -> float:
        """Return Muon's momentum at `step`."""
        return muon_momentum(
            step,
            self.num_steps,
            peak=self.momentum_peak,
            ramp=self.momentum_ramp,
            end=self.momentum_end,
            warmdown=self.warmdown,
        )

    def weight_decay(self, step: int) -> float:
        """Return the weight decay at `step`."""
        return weight_decay(step, self.num_steps, start=self.decay, shape=self.decay_shape)


def plan(num_steps: int, optim: OptimOptions) -> Schedule:
    """Return the curves for a run of `num_steps`; where the ramps overlap, the ramp up wins.

    A ramp up given in steps takes at most a tenth of the run, so that a short run is more than its beginning.
    """
    warmup = min(num_steps, max(min(optim.warmup_steps, num_steps // 10), round(optim.warmup_ratio * num_steps)))
    return Schedule(
        num_steps=num_steps,
        warmup=warmup,
        warmdown=min(num_steps - warmup, round(optim.warmdown_ratio * num_steps)),
        floor=optim.final_lr_frac,
        peak=optim.init_lr_frac,
        momentum_peak=optim.momentum,
        momentum_ramp=optim.momentum_ramp,
        momentum_end=optim.momentum_end,
        decay=optim.weight_decay or 0.0,
        decay_shape=optim.decay_shape,
    )


@dataclass(frozen=True)
class Horizon:
    """How long a run is and what decided it."""

    num_steps: int
    reason: str


def epoch_horizon(*, num_iterations: int | None, num_epochs: float, num_rows: int, rows_per_step: int) -> Horizon:
    """Return the length of a chat stage: a step count, else passes over the packed rows (at least one step)."""
    if num_iterations is not None:
        return Horizon(num_iterations, "num_iterations")
    steps = max(1, round(num_epochs * num_rows / rows_per_step))
    return Horizon(steps, f"{num_epochs:g} epochs of {num_rows:,} rows")
