"""Charts as inline SVG: no script, no fonts, no files; colours come from the page, and follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite

from nanochat_cli.core.report import axis
from nanochat_cli.core.report.blocks import Chart, Points, Series, Shares
from nanochat_cli.core.report.text import clean

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 54, 50, 12, 40
MAX_POINTS = 400
"""More than a screen shows; longer curves keep the lowest and highest value of each stretch."""


def line_chart(chart: Chart, key: str) -> str:
    """The SVG of a chart. `key` is unique on the page: it ties the picture to its title for screen readers."""
    drawn = [series for series in chart.series if _finite(series.points)]
    if not drawn:
        return ""
    lines = [series for series in drawn if not series.faint] or drawn
    xs = axis.steps(max(x for series in drawn for x, _ in _finite(series.points)))
    ys = axis.fitting([y for series in drawn for y in _typical(series)])
    parts = [_frame(chart, xs, ys)]
    parts += [_line(series, xs, ys, 0) for series in drawn if series.faint]
    for number, series in enumerate(lines, 1):
        parts.append(_line(series, xs, ys, number, dots=chart.dots))
    parts.append(_end_labels(lines, xs, ys))
    head = _head(key, chart.title, _describe(chart, lines), WIDTH, HEIGHT)
    return head + "".join(parts) + "</svg>"


def thin_out(points: Points, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most about `limit` of the finite points: the extremes of each stretch, both ends always among them."""
    points = _finite(points)
    if len(points) <= limit:
        return points
    size = -(-len(points) // (limit // 2))
    kept = [points[0]]
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept + [points[-1]]


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if isfinite(x) and isfinite(y)]


def _typical(series: Series) -> list[float]:
    """The values that must be in view: all of them, but of a faint line only the middle 98 %."""
    values = sorted(y for _, y in _finite(series.points))
    edge = len(values) // 100 if series.faint else 0
    return values[edge : len(values) - edge]


def _head(key: str, title: str, description: str, width: int, height: int) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{_text(title)}</title><desc id="{key}-d">{_text(description)}</desc>'
    )


def _describe(chart: Chart, lines: Sequence[Series]) -> str:
    told = []
    for series in lines:
        points = _finite(series.points)
        told.append(
            f"{series.name}: from {points[0][1]:.4g} to {points[-1][1]:.4g}, lowest {min(y for _, y in points):.4g}"
            f" in {len(points)} points"
        )
    return f"{chart.y_label} over {chart.x_label}. " + "; ".join(told) + "."


def _x(scale: axis.Scale, value: float) -> float:
    return LEFT + scale.place(value) * (WIDTH - LEFT - RIGHT)


def _y(scale: axis.Scale, value: float) -> float:
    return TOP + (1 - scale.place(value)) * (HEIGHT - TOP - BOTTOM)


def _frame(chart: Chart, xs: axis.Scale, ys: axis.Scale) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in ys.ticks:
        y = _y(ys, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{ys.text(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for tick in xs.ticks:
        x = _x(xs, tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{xs.text(tick)}</text>')
    note = " (logarithmic)" if ys.logarithmic else ""
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="label" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{_text(chart.x_label)} · {_text(chart.y_label)}{note}</text>"
    )
    return "".join(parts)


def _line(series: Series, xs: axis.Scale, ys: axis.Scale, number: int, *, dots: bool = False) -> str:
    places = [(_x(xs, x), _y(ys, y)) for x, y in thin_out(series.points)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    style = "line faint" if series.faint else f"line s{number}"
    marks = (
        "".join(f'<circle class="dot s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places) if dots else ""
    )
    return f'<path class="{style}" d="{path}"/>{marks}'


def _end_labels(lines: Sequence[Series], xs: axis.Scale, ys: axis.Scale) -> str:
    """The last value at the end of each line, with the line's name if there are several; never on top of each other."""
    ends = sorted(((_finite(s.points)[-1], s, n) for n, s in enumerate(lines, 1)), key=lambda e: -e[0][1])
    parts, lowest = [], -1e9
    for (x, y), series, number in ends:
        at = max(_y(ys, y) + 4, lowest + 13)
        lowest = at
        name = f"{_text(series.name)} " if len(lines) > 1 else ""
        parts.append(f'<text class="end s{number}" x="{_x(xs, x) + 6:.1f}" y="{at:.1f}">{name}{y:.3g}</text>')
    return "".join(parts)


# ---- shares ----------------------------------------------------------------------------------------------------------

SHARES_WIDTH, ROW, NAMES, AFTER = 900, 26, 200, 76


def share_chart(shares: Shares, key: str) -> str:
    """The SVG of shares: a dot for the value, a bar for its interval, a tick for the baseline."""
    height = ROW * len(shares.items) + 28
    told = "; ".join(
        f"{s.name}: {s.value:.1%}, interval {s.low:.1%} to {s.high:.1%}"
        + (f", baseline {s.baseline:.1%}" if s.baseline is not None else "")
        for s in shares.items
    )
    span = SHARES_WIDTH - NAMES - AFTER
    bottom = ROW * len(shares.items) + 6
    parts = []
    for percent in (0, 25, 50, 75, 100):
        x = NAMES + span * percent / 100
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{percent}%</text>')
    for number, share in enumerate(shares.items):
        y = ROW * number + ROW / 2 + 4
        x, low, high = (NAMES + span * v for v in (share.value, share.low, share.high))
        parts.append(
            f'<text class="name" x="{NAMES - 12}" y="{y + 4:.1f}" text-anchor="end">{_text(share.name)}</text>'
        )
        if share.baseline is not None:
            at = NAMES + span * share.baseline
            parts.append(f'<line class="base" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 7:.1f}" y2="{y + 7:.1f}"/>')
        parts.append(f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="dot s1" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
        parts.append(f'<text class="end s1" x="{SHARES_WIDTH - AFTER + 16}" y="{y + 4:.1f}">{share.value:.1%}</text>')
    return _head(key, shares.title, told, SHARES_WIDTH, height) + "".join(parts) + "</svg>"


def _text(text: str) -> str:
    return escape(clean(text))
