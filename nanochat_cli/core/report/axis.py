"""Scales of a chart: round tick values and the place of a number between them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, isfinite, log10


@dataclass(frozen=True)
class Scale:
    """Maps numbers to [0, 1], on a linear or a logarithmic scale, with ticks at round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies: 0 at the low end, 1 at the high end, clipped to the scale."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)

    def text(self, tick: float) -> str:
        """How `tick` is written on this scale."""
        return tick_text(tick, tick if self.logarithmic else self.ticks[1] - self.ticks[0])


def linear(values: list[float], num_ticks: int = 5, *, start: float | None = None) -> Scale:
    """A linear scale over `values` (from `start`, if given) that ends on ticks."""
    low, high = _range(values)
    low = low if start is None else min(start, low)
    if high <= low:
        pad = abs(low) * 0.05 or 1.0
        low, high = (low if start is not None else low - pad), high + pad
    step = _round_step((high - low) / max(1, num_ticks - 1))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    ticks = tuple(_tidy(k * step, step) for k in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def steps(last: float, num_ticks: int = 5) -> Scale:
    """A scale from 0 to exactly `last`, for the horizontal axis."""
    last = last if isfinite(last) and last > 0 else 1.0
    step = max(1.0, _round_step(last / num_ticks))
    ticks = tuple(k * step for k in range(max(1, int(last / step + 1e-9)) + 1))
    return Scale(0.0, max(last, ticks[1]), ticks)


def fitting(values: list[float]) -> Scale:
    """A logarithmic scale when positive `values` span much, else a linear one."""
    low, high = _range(values)
    if low <= 0 or high / low < 6:
        return linear(values)
    low, high = low * 0.95, high * 1.05
    marks = [m * 10.0**e for e in range(floor(log10(low)), ceil(log10(high)) + 1) for m in (1, 2, 5)]
    return Scale(low, high, tuple(_tidy(m, m) for m in marks if low <= m <= high), logarithmic=True)


def tick_text(value: float, step: float) -> str:
    """A tick's number, short, with the digits that tell it from its neighbours: `0.50`, `20`, `1.5k`, `2M`."""
    for limit, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{sign}"
    decimals = next((n for n in range(8) if abs(round(step, n) - step) < 1e-6 * step), 8)
    return f"{value:.{decimals}f}"


def _range(values: list[float]) -> tuple[float, float]:
    finite = [value for value in values if isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _round_step(rough: float) -> float:
    """The nearest of 1, 2, 2.5, 5 times a power of ten that is not below `rough`."""
    size = 10.0 ** floor(log10(rough)) if rough > 0 else 1.0
    return next((m * size for m in (1, 2, 2.5, 5) if m * size >= rough * 0.999), 10 * size)


def _tidy(value: float, step: float) -> float:
    return round(value, max(0, 3 - floor(log10(abs(step)))))
