"""Cutting a text file into documents of a useful size, at blank lines wherever there are any."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Literal

Cut = Literal["auto", "file", "paragraph", "line"]
TARGET_CHARS = 2_000  # "auto" ends a document at the first blank line from here on ...
LIMIT_CHARS = 4_000  # ... and at any line end, or failing that any space, from here on

Lines = Iterable[tuple[int, str]]


def documents(lines: Lines, cut: Cut) -> Iterator[tuple[int, str]]:
    """Yield (line number, document) from (line number, text) pairs; only line ends at the cuts are dropped.

    `file` keeps the file whole, `paragraph` cuts at every blank line, `line` at every line; `auto` keeps a file of up
    to 4,000 characters whole and cuts a longer one into pieces of about 2,000.
    """
    if cut == "auto":
        return _auto(iter(lines))
    if cut == "line":
        return _each_line(lines)
    return _gather(lines, target=1 if cut == "paragraph" else None)


def _auto(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    head: list[tuple[int, str]] = []
    chars = 0
    for number, text in lines:
        head.append((number, text))
        chars += len(text)
        if chars > LIMIT_CHARS:
            yield from _gather(itertools.chain(head, lines), TARGET_CHARS, LIMIT_CHARS)
            return
    yield from _gather(head)


def _each_line(lines: Lines) -> Iterator[tuple[int, str]]:
    pieces: list[str] = []  # of one line: a very long one comes in several
    began = 0
    for number, text in lines:
        began = began if pieces else number
        pieces.append(text)
        if text.endswith("\n"):
            yield began, "".join(pieces)[:-1]
            pieces = []
    if pieces:
        yield began, "".join(pieces)


def _gather(lines: Lines, target: int | None = None, limit: int | None = None) -> Iterator[tuple[int, str]]:
    """Gather lines until a blank one comes after `target` characters, or until `limit` characters are there."""
    kept: list[str] = []
    chars, began = 0, 1
    for number, text in lines:
        blank = not text.strip()
        if blank and target is not None and chars >= target:
            yield began, "".join(kept).strip("\n")
            kept, chars = [], 0
        if not kept:
            if blank:
                continue
            began = number
        kept.append(text)
        chars += len(text)
        while limit is not None and chars >= limit:
            document, rest = _cut_before(limit, "".join(kept))
            yield began, document.strip("\n")
            kept, chars, began = [rest] if rest else [], len(rest), number
    if kept:
        yield began, "".join(kept).strip("\n")


def _cut_before(limit: int, text: str) -> tuple[str, str]:
    """Cut at the last line end in the upper half of the limit, else at the last space there, else at the limit."""
    for mark in ("\n", " "):
        at = text.rfind(mark, limit // 2, limit)
        if at >= 0:
            return text[: at + 1], text[at + 1 :]
    return text[:limit], text[limit:]
