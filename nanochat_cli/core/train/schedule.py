"""How long to train, and how learning rate, momentum and weight decay move on the way. Pure functions of the step.

Steps are optimizer steps and count from 0; step `s` uses the values for `s` and leads to weights of step `s + 1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


def muon_momentum(step: int, num_steps: int, *, end: float = 0.95, ramp: int = 300) -> float:
    """Return Muon's momentum: linear from 0.85 to `end` over `ramp` steps, at most a third of the run."""
    ramp = min(ramp, num_steps // 3)
    if step >= ramp or end <= MOMENTUM_START:
        return end
    return MOMENTUM_START + (end - MOMENTUM_START) * step / ramp


def weight_decay(step: int, num_steps: int, *, start: float) -> float:
    """Return the weight decay: linear from `start` to nothing at the end, as decay matters while rates are high."""
    return start * max(0.0, 1.0 - step / num_steps)


class OptimOptions(Protocol):
    """The part of `settings.OptimSection` that is used here."""

    @property
    def warmup_ratio(self) -> float: ...
    @property
    def warmdown_ratio(self) -> float: ...
    @property
    def final_lr_frac(self) -> float: ...
    @property
    def init_lr_frac(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def momentum_ramp(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All curves of one run. `peak` scales every learning rate (a later stage starts lower than pretraining)."""

    num_steps: int
    warmup: int = 0
    warmdown: int = 0
    floor: float = 0.0
    peak: float = 1.0
    momentum_end: float = 0.95
    momentum_ramp: int = 300
    decay: float = 0.0

    def lr(self, step: int) -> float:
        """Return the factor on every learning rate at `step`."""
        curve = lr_multiplier(step, self.num_steps, warmup=self.warmup, warmdown=self.warmdown, floor=self.floor)
        return self.peak * curve

    def momentum(self, step: int) -> float:
        """Return Muon's momentum at `step`."""
        return muon_momentum(step, self.num_steps, end=self.momentum_end, ramp=self.momentum_ramp)

    def weight_decay(self, step: int) -> float:
        """Return the weight decay at `step`."""
        return weight_decay(step, self.num_steps, start=self.decay)


def plan(num_steps: int, optim: OptimOptions) -> Schedule:
    """Return the curves for a run of `num_steps`; where the ratios overlap, the ramp up wins."""
    warmup = min(num_steps, round(optim.warmup_ratio * num_steps))
    return Schedule(
        num_steps=num_steps,
        warmup=warmup,
        warmdown=min(num_steps - warmup, round(optim.warmdown_ratio * num_steps)),
        floor=optim.final_lr_frac,
        peak=optim.init_lr_frac,
        momentum_end=optim.momentum,
        momentum_ramp=optim.momentum_ramp,
        decay=optim.weight_decay,
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
