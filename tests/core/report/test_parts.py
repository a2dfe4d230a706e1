"""Axes, thinning, sparklines, figures in words, and escaping."""

from __future__ import annotations

import itertools
import math

import pytest

from nanochat_cli.core.report import axis, svg, text
from nanochat_cli.core.report.blocks import Chart, Series
from nanochat_cli.core.report.gather import smoothed
from nanochat_cli.core.report.markdown import escape, fenced, sparkline


@pytest.mark.parametrize(
    "values", [[0.1, 0.9], [3.0, 3.0], [-5.0, 20.0], [0.0], [1e-9, 2e-9], [1e6, 1.2e6], [math.nan]]
)
def test_linear_ticks_are_even_and_cover_the_values(values: list[float]) -> None:
    scale = axis.linear(values)
    assert len(scale.ticks) >= 2 and all(scale.low <= v <= scale.high for v in values if not math.isnan(v))
    gaps = [b - a for a, b in itertools.pairwise(scale.ticks)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-6)
    assert (scale.place(scale.low), scale.place(scale.high)) == (0, 1)


def test_wide_ranges_become_logarithmic() -> None:
    scale = axis.fitting([6.9, 0.2])
    assert scale.logarithmic and scale.ticks == (0.2, 0.5, 1, 2, 5)
    assert scale.place(1) - scale.place(0.5) == pytest.approx(scale.place(2) - scale.place(1))
    assert not axis.fitting([1.0, 2.0]).logarithmic and not axis.fitting([0.0, 9.0]).logarithmic


def test_step_axis_ends_at_the_last_step() -> None:
    scale = axis.steps(1234)
    assert scale.high == 1234 and scale.ticks[0] == 0 and scale.ticks[-1] <= 1234 and len(scale.ticks) >= 4
    assert (
        scale.text(500) == "500" and axis.steps(9000).text(7500) == "7.5k" and axis.linear([0, 2e6]).text(2e6) == "2M"
    )
    assert [axis.linear([0.35, 0.351]).text(v) for v in (0.3505, 0.35025)] == ["0.35050", "0.35025"]


def test_thinning_keeps_ends_and_extremes() -> None:
    points = [(float(i), math.sin(i / 50)) for i in range(10_000)]
    points[7777] = (7777.0, 9.0)
    kept = svg.thin_out(points)
    assert len(kept) <= 403 and kept[0] == points[0] and kept[-1] == points[-1] and (7777.0, 9.0) in kept
    assert kept == sorted(kept)
    assert svg.thin_out([(0, 1.0), (1, math.inf)]) == [(0, 1.0)]


def test_chart_without_points_is_no_picture() -> None:
    assert svg.line_chart(Chart("t", [Series("a", [])], "loss"), "k") == ""


def test_smoothing_is_unbiased_at_the_start() -> None:
    assert smoothed([(i, 5.0) for i in range(100)]) == [(i, pytest.approx(5.0)) for i in range(100)]
    assert smoothed([]) == []


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2, 2]) == "▁▁" and len(sparkline(list(range(1000)))) == 40


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (3.21, "3.2 s"),
        (59, "59 s"),
        (59.99, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_figures() -> None:
    assert text.percent(1.0) == "100 %" and text.percent(0.9999) == "99.9 %" and text.percent(0.5) == "50.0 %"
    assert text.count(12345) == "12,345" and text.count(1_048_576) == "1.05 M" and text.size(3_200_000) == "3.2 MB"


def test_clean_keeps_words_and_emoji() -> None:
    family = "👩‍👩‍👧 ❤️ नमस्ते 日本"
    assert text.clean(family) == family
    assert text.clean("a\x1b[2Jb\u202ec\x9d") == "a�[2Jb�c�"


@pytest.mark.parametrize("raw", ["1. x", "- x", "# x", "=== x", "+ x", "> x", "| x", "12) x"])
def test_markdown_marks_are_taken_literally(raw: str) -> None:
    assert "\\" in escape(raw)


def test_plain_figures_stay_readable() -> None:
    assert escape("0.36 of 2.5 M (97.0–99.2), 3-digit") == "0.36 of 2.5 M (97.0–99.2), 3-digit"


def test_fence_is_longer_than_any_inside() -> None:
    assert fenced("a ```` b").startswith("`````text\n")
