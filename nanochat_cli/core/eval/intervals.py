"""How sure counts of right answers are: Wilson for a share, Newcombe for a difference, bootstrap for a mean."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(correct: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Interval for the true share behind `correct` out of `total`, both ends in [0, 1]; (0, 1) if nothing was counted.

    Stays sensible at 0 % and 100 %, where the textbook interval has no width. Raises ValueError if counts do not fit.
    Source: Wilson 1927, https://doi.org/10.2307/2276774.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"counts do not fit: {correct} of {total}")
    if total == 0:
        return 0.0, 1.0
    share = correct / total
    shrink = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # The exact bounds are 0 and 1 at the extremes; rounding must not leave 0.9999999.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == total else min(1.0, centre + half)
    return low, high


def difference(before: tuple[int, int], after: tuple[int, int], z: float = Z95) -> tuple[float, float, float]:
    """Change of a share between two (correct, total) counts: (change, low, high), as fractions.

    Treats the two as independent samples, which is wider than need be when the same items were asked twice.
    Raises ValueError if one of them counted nothing. Source: Newcombe 1998, method 10.
    """
    (c1, n1), (c2, n2) = before, after
    if not n1 or not n2:
        raise ValueError(f"nothing was counted: {c1} of {n1}, {c2} of {n2}")
    (l1, h1), (l2, h2) = wilson(c1, n1, z), wilson(c2, n2, z)
    p1, p2 = c1 / n1, c2 / n2
    return p2 - p1, p2 - p1 - sqrt((p2 - l2) ** 2 + (h1 - p1) ** 2), p2 - p1 + sqrt((h2 - p2) ** 2 + (p1 - l1) ** 2)


def centered(accuracy: float, baseline: float) -> float:
    """Accuracy rescaled so that chance is 0 and everything right is 1; below chance it is negative."""
    return (accuracy - baseline) / (1 - baseline)


def mean_centered(
    counts: Sequence[tuple[int, int, float]], *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of the centered accuracies of tasks given as (correct, total, baseline), with its 95 % interval.

    The interval is a percentile bootstrap: each task's questions are drawn anew, with replacement, which for right and
    wrong answers is a binomial draw. It covers the choice of questions only, not that of the tasks nor of the training
    seed. Raises ValueError if there is no task, or one without questions.
    """
    if not counts or not all(total for _, total, _ in counts):
        raise ValueError("every task needs questions")
    rng = np.random.default_rng(seed)
    sums = np.zeros(draws)
    for correct, total, baseline in counts:
        sums += (rng.binomial(total, correct / total, size=draws) / total - baseline) / (1 - baseline)
    low, high = np.quantile(sums / len(counts), (0.025, 0.975))
    return sum(centered(c / n, b) for c, n, b in counts) / len(counts), float(low), float(high)
