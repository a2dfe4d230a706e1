"""The calculator behind `<|python_start|>…<|python_end|>`: sums and letter counts, read by hand and never run as code.

    expression  =  term { (+ | -) term }
    term        =  signed { (* | / | // | %) signed }
    signed      =  { + | - } atom
    atom        =  number | "(" expression ")" | string ".count(" string ")"

Numbers are decimals, with commas between thousands if one likes; arithmetic is exact (fractions), so 0.1+0.2 is 0.3 and
0.2*50 is 10, as in the data that models are trained on. No clock, no signal, no state: it works in any thread.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_CHARS = 256
MAX_DEPTH = 32
MAX_DIGITS = 100
"""A number, or any step on the way, with more digits before or after the point than this is refused."""
PLACES, EXACT_PLACES = 10, 20
"""Digits after the point, at most, of results that have no end, such as 10/3, and of those that do; rounded."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d*)?|\.\d+)"
    r"""|(?P<string>"[^"\\\n]*"|'[^'\\\n]*')"""
    r"|(?P<sign>//|[-+*/%()]|\.count(?=\s*\())|(?P<end>$))",
    re.ASCII,
)
_SUMS, _PRODUCTS = ("+", "-"), ("*", "/", "//", "%")
_LIMIT = 10**MAX_DIGITS


class _Refused(Exception):
    """Not an expression that this calculator knows, or one too large for it."""


def calculate(expression: str) -> str | None:
    """Return the result as text, or None if this is no calculation, has no result, or is beyond the bounds."""
    if len(expression) > MAX_CHARS:
        return None
    try:
        reader = _Reader(expression)
        value = reader.expression(0)
        reader.take("")
    except (_Refused, ZeroDivisionError):
        return None
    return written(value)


def written(value: Fraction) -> str:
    """Return a number the way training data has it: no point for whole numbers, no zeros at the end."""
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    places = EXACT_PLACES if rest == 1 else PLACES
    scaled = round(value * 10**places)
    digits = str(abs(scaled)).rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")
    return f"-{text}" if scaled < 0 else text


class _Reader:
    """Walks over the tokens of one expression, from left to right and never back."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.place = 0

    def peek(self) -> str:
        return self.tokens[self.place][1]

    def take(self, wanted: str) -> None:
        if self.tokens[self.place][0] == "string" or self.peek() != wanted:
            raise _Refused
        self.place += 1

    def next_in(self, choices: tuple[str, ...]) -> str | None:
        """Take and return the next token if it is one of the choices."""
        kind, token = self.tokens[self.place]
        if kind == "string" or token not in choices:
            return None
        self.place += 1
        return token

    def expression(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise _Refused
        value = self.term(depth)
        while (sign := self.next_in(_SUMS)) is not None:
            other = self.term(depth)
            value = _bounded(value + other if sign == "+" else value - other)
        return value

    def term(self, depth: int) -> Fraction:
        value = self.signed(depth)
        while (sign := self.next_in(_PRODUCTS)) is not None:
            value = _bounded(_product(sign, value, self.signed(depth)))
        return value

    def signed(self, depth: int) -> Fraction:
        factor = 1
        while (sign := self.next_in(_SUMS)) is not None:
            factor *= -1 if sign == "-" else 1
        return factor * self.atom(depth)

    def atom(self, depth: int) -> Fraction:
        kind, token = self.tokens[self.place]
        if kind == "number":
            self.place += 1
            return _bounded(Fraction(token.replace(",", "")))
        if kind == "string":
            self.place += 1
            return Fraction(self.count(token))
        self.take("(")
        value = self.expression(depth + 1)
        self.take(")")
        return value

    def count(self, text: str) -> int:
        self.take(".count")
        self.take("(")
        kind, part = self.tokens[self.place]
        if kind != "string":
            raise _Refused
        self.place += 1
        self.take(")")
        return text[1:-1].count(part[1:-1])


def _tokens(text: str) -> list[tuple[str, str]]:
    found, place = [], 0
    while True:
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise _Refused
        found.append((match.lastgroup, match[match.lastgroup]))
        if match.lastgroup == "end":
            return found
        if match.lastgroup == "number" and len(match["number"]) > MAX_DIGITS:
            raise _Refused
        place = match.end()


def _product(sign: str, left: Fraction, right: Fraction) -> Fraction:
    if sign == "*":
        return left * right
    if sign == "/":
        return left / right
    return Fraction(left // right) if sign == "//" else left % right


def _bounded(value: Fraction) -> Fraction:
    if abs(value.numerator) >= _LIMIT or value.denominator >= _LIMIT:
        raise _Refused
    return value
