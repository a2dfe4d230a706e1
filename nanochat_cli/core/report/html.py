"""Writes a report as one HTML file that needs nothing else: no script, no network, light and dark."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from html import escape as html_escape
from pathlib import Path
from typing import Any

from nanochat_cli.core.report import svg
from nanochat_cli.core.report.blocks import (
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
    Row,
    Shares,
    Table,
    Tiles,
)
from nanochat_cli.core.report.text import clean

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write(document: Document) -> str:
    """The whole report as one HTML page."""
    title = escape(document.title)
    body = _Writer().blocks(document.blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title} · nanochat report</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<main>\n"
        f'<header><p class="kind">nanochat report</p><h1>{title}</h1>'
        f'<p class="sub">{escape(document.subtitle)}</p></header>\n'
        f"{body}\n<footer>{escape(document.footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def escape(text: str) -> str:
    """`text` with nothing in it that a browser would read as markup, in content or in a quoted attribute."""
    return html_escape(clean(text), quote=True)


@cache
def _style() -> str:
    return Path(__file__).with_name("report.css").read_text(encoding="utf-8")


class _Writer:
    """Writes blocks; counts the charts, because each needs a name of its own on the page."""

    def __init__(self) -> None:
        self._keys: Iterator[int] = itertools.count(1)
        self._writers: dict[type, Callable[[Any], str]] = {
            Heading: lambda block: f"<h2>{escape(block.text)}</h2>",
            Paragraph: lambda block: f"<p>{escape(block.text)}</p>",
            Tiles: _tiles,
            Facts: _facts,
            Table: _table,
            Chart: self._chart,
            Shares: self._shares,
            Grid: lambda block: f'<div class="charts">{"".join(self._chart(chart) for chart in block.charts)}</div>',
            Exchanges: lambda block: f'<div class="talk">{"".join(_exchange(item) for item in block.items)}</div>',
            Code: lambda block: f"<pre><code>{escape(block.text)}</code></pre>",
            Listing: _listing,
            Folded: self._folded,
        }

    def blocks(self, blocks: Any) -> str:
        """The HTML of some blocks, one after the other."""
        return "\n".join(self._writers[type(block)](block) for block in blocks)

    def _chart(self, block: Chart) -> str:
        picture = svg.line_chart(block, f"chart{next(self._keys)}")
        return f"<figure><figcaption>{escape(block.title)}</figcaption>{picture}</figure>" if picture else ""

    def _shares(self, block: Shares) -> str:
        picture = svg.share_chart(block, f"chart{next(self._keys)}")
        return f'<figure class="wide"><figcaption>{escape(block.title)}</figcaption>{picture}</figure>'

    def _folded(self, block: Folded) -> str:
        return f"<details><summary>{escape(block.summary)}</summary>\n{self.blocks(block.blocks)}\n</details>"


def _tiles(block: Tiles) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span><small>{escape(remark)}</small></div>'
        for value, name, remark in block.items
    )
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def _facts(block: Facts) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in block.pairs) + "</dl>"


def _table(block: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in block.columns)
    body = "\n".join(_row(row) for row in block.rows)
    caption = f"<caption>{escape(block.caption)}</caption>" if block.caption else ""
    kind = ' class="prose"' if block.prose else ""
    return (
        f'<div class="scroll" tabindex="0"><table{kind}>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(row: Row) -> str:
    first, *rest = row.cells
    cells = f'<th scope="row">{_cell(first)}</th>' + "".join(f"<td>{_cell(cell)}</td>" for cell in rest)
    return f'<tr class="inset">{cells}</tr>' if row.inset else f"<tr>{cells}</tr>"


def _cell(cell: Cell) -> str:
    text = f"<b>{escape(cell.text)}</b>" if cell.strong else escape(cell.text)
    return f"{text} <small>{escape(cell.remark)}</small>" if cell.remark else text


def _exchange(item: Exchange) -> str:
    verdict = {True: '<i class="good">✓ right</i>', False: '<i class="bad">✗ wrong</i>', None: ""}[item.verdict]
    where = f"<span>{escape(item.where)}</span>" if item.where else ""
    head = f'<div class="meta">{where}{verdict}</div>' if where or verdict else ""
    asked = f'<div class="asked">{escape(item.prompt)}</div>' if item.prompt else ""
    expected = f'<div class="expected">expected: {escape(item.expected)}</div>' if item.expected else ""
    reply = escape(item.reply) or "<em>nothing</em>"
    return f'<article>{head}{asked}<div class="reply">{reply}</div>{expected}</article>'


def _listing(block: Listing) -> str:
    lines = "".join(
        f'<li class="{kind}"><b>{kind}</b> {escape(text)} <small>{escape(when)}</small></li>'
        for when, kind, text in block.items
    )
    return f'<ul class="events">{lines}</ul>'
