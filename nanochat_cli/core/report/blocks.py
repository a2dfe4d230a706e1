"""The parts a report is put together from; Markdown and HTML are two ways to write the same list of them.

Blocks hold plain text as it was recorded. Escaping is the business of the writers, and of nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["note", "warning", "error"]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Heading:
    """Title of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True)
class Tiles:
    """A few figures to read first: (value, what it is, a remark)."""

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Facts:
    """Names and values, one pair a line."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """One value of a table, with a smaller remark beside it and a weight."""

    text: str
    remark: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table; `inset` marks a part of the line above it."""

    cells: Sequence[Cell]
    inset: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row, all others are figures unless `prose` says they are text."""

    columns: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    prose: bool = False


@dataclass(frozen=True)
class Series:
    """One line of a chart. `faint` is drawn thin, behind the others and without a label."""

    name: str
    points: Points
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over training steps."""

    title: str
    series: Sequence[Series]
    y_label: str
    x_label: str = "step"
    dots: bool = False
    """Mark each point: for curves of few measurements."""


@dataclass(frozen=True)
class Share:
    """A measured share of right answers with its interval, all in [0, 1], and the baseline to beat (or None)."""

    name: str
    value: float
    low: float
    high: float
    baseline: float | None = None


@dataclass(frozen=True)
class Shares:
    """Shares side by side on one scale from 0 to 100 %."""

    title: str
    items: Sequence[Share]


@dataclass(frozen=True)
class Grid:
    """Charts side by side where there is room."""

    charts: Sequence[Chart]


@dataclass(frozen=True)
class Exchange:
    """Something asked and what the model wrote. `verdict` is None where nobody graded it."""

    prompt: str
    reply: str
    where: str = ""
    verdict: bool | None = None
    expected: str = ""


@dataclass(frozen=True)
class Exchanges:
    """What the model said."""

    items: Sequence[Exchange]


@dataclass(frozen=True)
class Code:
    """Lines to type or to read as they are."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Short lines, each with what kind it is: (when, kind, text)."""

    items: Sequence[tuple[str, Severity, str]]


@dataclass(frozen=True)
class Folded:
    """Blocks that are there for whoever opens them."""

    summary: str
    blocks: Sequence[Block] = field(default_factory=tuple)


Block = Heading | Paragraph | Tiles | Facts | Table | Chart | Shares | Grid | Exchanges | Code | Listing | Folded


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    blocks: Sequence[Block]
    footer: str
