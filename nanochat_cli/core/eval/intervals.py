"""How sure a count of right answers is: Wilson intervals for a share, Newcombe's for a difference of two."""

from __future__ import annotations

from math import sqrt

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
