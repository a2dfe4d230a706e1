"""Text and figures as a reader wants them: safe to show, rounded, with units."""

from __future__ import annotations

import unicodedata
from datetime import datetime


def clean(text: str) -> str:
    """`text` without what could disturb a page or a terminal: controls, direction changes, lone surrogates.

    Newlines and tabs stay; anything taken out leaves U+FFFD, so that nothing vanishes silently.
    """
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in _UNWANTED or c in _JOINERS else "�" for c in text)


_UNWANTED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d\ufe0f")
"""Parts of real words and emoji."""


def count(number: float) -> str:
    """A count of things: `87`, `12,345`, `1.05 M`, `16.7 B`."""
    for limit, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(number) >= limit:
            return f"{number / limit:.3g} {sign}"
    return f"{round(number):,}"


def duration(seconds: float) -> str:
    """A stretch of time: `8.4 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(num_bytes: float) -> str:
    """A size on disk or in memory: `512 B`, `3.2 MB`, `24 GB` (powers of 1000)."""
    for limit, sign in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit:
            return f"{num_bytes / limit:.3g} {sign}"
    return f"{num_bytes:.0f} B"


def percent(share: float) -> str:
    """A share: `97.5 %`, and `100 %` only for all of it."""
    shown = f"{100 * share:.1f}"
    if shown == "100.0":
        return "100 %" if share == 1 else "99.9 %"
    return f"{shown} %"


def interval(low: float, high: float) -> str:
    """A 95 % interval of a share, in per cent: `95.7–99.2`."""
    return f"{100 * low:.1f}–{100 * high:.1f}"


def moment(timestamp: float) -> str:
    """A point in time in local time: `2026-11-21 14:05`."""
    return datetime.fromtimestamp(timestamp).strftime("%Y-%m-%d %H:%M")
