"""Writes a report as Markdown that reads well as plain text too."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from nanochat_cli.core.report.blocks import (
    Block,
    Cell,
    Chart,
    Code,
    Document,
    Exchange,
    Exchanges,
    Facts,
    Folded,
    Grid,
    Heading,
    Listing,
    Paragraph,
    Shares,
    Table,
    Tiles,
)
from nanochat_cli.core.report.text import clean, percent

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&$]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_AT_START = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[-+=#]))(.)")
_BARS = "▁▂▃▄▅▆▇█"


def write(document: Document) -> str:
    """The whole report as Markdown."""
    parts = [f"# {escape(document.title)}", escape(document.subtitle)]
    parts += [text for block in document.blocks if (text := _block(block))]
    parts += ["---", f"*{escape(document.footer)}*"]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would read as a mark."""
    return _AT_START.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", " ".join(clean(text).split())))


def fenced(text: str) -> str:
    """`text` as a code block whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{clean(text)}\n{fence}"


def _block(block: Block) -> str:
    return _WRITERS[type(block)](block)


def _tiles(block: Tiles) -> str:
    lines = [
        f"- **{escape(value)}** {escape(name)}" + (f" ({escape(remark)})" if remark else "")
        for value, name, remark in block.items
    ]
    return "\n".join(lines)


def _table(block: Table) -> str:
    rule = "|".join([" --- ", *((" --- " if block.prose else " ---: ") for _ in block.columns[1:])])
    lines = [_row([escape(column) for column in block.columns]), f"|{rule}|"]
    for row in block.rows:
        cells = [_cell(cell) for cell in row.cells]
        if row.inset:
            cells[0] = f"· {cells[0]}"
        lines.append(_row(cells))
    text = "\n".join(lines)
    return f"{text}\n\n{escape(block.caption)}" if block.caption else text


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"**{text}**" if cell.strong and text else text
    return f"{text} ({escape(cell.remark)})" if cell.remark else text


def _chart(block: Chart) -> str:
    lines = [f"**{escape(block.title)}** over {escape(block.x_label)}s"]
    for series in block.series:
        values = [y for _, y in series.points if isfinite(y)]
        if values and not series.faint:
            ends = f"from {values[0]:.4g} to {values[-1]:.4g}, lowest {min(values):.4g}, highest {max(values):.4g}"
            lines.append(f"{escape(series.name)} `{sparkline(values)}` {escape(ends)}")
    return "  \n".join(lines)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """`values` as a row of at most `width` blocks of eight heights; each stands for the mean of a stretch."""
    width = min(width, len(values))
    edges = [k * len(values) // width for k in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    return "".join(_BARS[round((mean - low) / (high - low) * 7) if high > low else 0] for mean in means)


def _shares(block: Shares) -> str:
    lines = [f"**{escape(block.title)}**", ""]
    for share in block.items:
        bar = "█" * round(20 * share.value)
        lines.append(f"- `{bar:<20}` {escape(percent(share.value))} {escape(share.name)}")
    return "\n".join(lines)


def _exchanges(block: Exchanges) -> str:
    return "\n\n".join(_exchange(item) for item in block.items)


def _exchange(item: Exchange) -> str:
    verdict = {True: "right", False: "wrong", None: ""}[item.verdict]
    head = ": ".join(part for part in (escape(item.where), verdict) if part)
    lines = [f"> {item.prompt}".replace("\n", "\n> ")] if item.prompt else []
    lines.append(item.reply)
    if item.expected:
        lines.append(f"(expected: {item.expected})")
    return (f"*{head}*\n\n" if head else "") + fenced("\n".join(lines))


def _listing(block: Listing) -> str:
    return "\n".join(f"- **{kind}** {escape(text)} ({escape(when)})" for when, kind, text in block.items)


def _folded(block: Folded) -> str:
    inside = "\n\n".join(text for part in block.blocks if (text := _block(part)))
    return f"### {escape(block.summary)}\n\n{inside}"


_WRITERS: dict[type, Callable[[Any], str]] = {
    Heading: lambda block: f"## {escape(block.text)}",
    Paragraph: lambda block: escape(block.text),
    Tiles: _tiles,
    Facts: lambda block: "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in block.pairs),
    Table: _table,
    Chart: _chart,
    Shares: _shares,
    Grid: lambda block: "\n\n".join(_chart(chart) for chart in block.charts),
    Exchanges: _exchanges,
    Code: lambda block: fenced(block.text),
    Listing: _listing,
    Folded: _folded,
}
