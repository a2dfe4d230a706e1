"""Intervals against published values and their defining equation."""

from __future__ import annotations

from math import sqrt

import pytest

from nanochat_cli.core.eval.intervals import Z95, difference, wilson


def test_wilson_against_published_example() -> None:
    # Newcombe 1998 (two-sided intervals for the single proportion), table I, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize(("correct", "total"), [(1, 7), (50, 200), (199, 200)])
def test_wilson_bounds_solve_the_score_equation(correct: int, total: int) -> None:
    share = correct / total
    for bound in wilson(correct, total):
        assert abs(share - bound) == pytest.approx(Z95 * sqrt(bound * (1 - bound) / total), rel=1e-9)


def test_wilson_extremes_are_exact() -> None:
    assert wilson(200, 200)[1] == 1.0
    assert wilson(0, 200)[0] == 0.0
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="counts do not fit: 3 of 2"):
        wilson(3, 2)


def test_difference_against_published_example() -> None:
    # Newcombe 1998 (difference of independent proportions), method 10: 56/70 against 48/80.
    change, low, high = difference((48, 80), (56, 70))
    assert (change, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    with pytest.raises(ValueError, match="nothing was counted"):
        difference((0, 0), (1, 2))
