"""Answers that are numbers: where a reply states one, and when two are the same."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

MARK = "####"
_STATED = re.compile(r"####\s*([-+\u2212]?)\s*[$\u20ac\u00a3]?\s*([-+\u2212]?)(\d[\d,]*(?:\.\d*)?|\.\d+)")


def stated(text: str) -> Decimal | None:
    """Return the number behind the first `####` of a text that has one, None without.

    Thousands may be set apart, a currency's sign may stand before, and zeros, a full stop or a unit after the number.
    """
    found = _STATED.search(text)
    if found is None:
        return None
    outer, inner, digits = found.groups()
    try:
        value = Decimal(digits.replace(",", "").rstrip("."))
    except InvalidOperation:
        return None
    return -value if (outer or inner) in ("-", "\u2212") else value


def same(reference: str, reply: str) -> bool:
    """Whether both texts state a number, and the same one: 1,000 is 1000 is 1000.0. No number equals none."""
    want, got = stated(reference), stated(reply)
    return want is not None and want == got


def plain(value: Decimal) -> str:
    """Return a number as one writes it: no exponent, no zeros at its end."""
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
