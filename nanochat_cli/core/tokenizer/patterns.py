"""How text is cut into pieces before byte pairs are merged: no token ever crosses a piece's edge.

The native splitter implements one family of patterns that differ only in how many digits a piece may hold. The regular
expression is its definition: it is saved with every tokenizer and is what the tests compare the splitter with.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanochat_cli.core.errors import ConfigError


@dataclass(frozen=True)
class Pattern:
    """One way to cut text."""

    name: str
    max_digits: int
    """Most digits, counted in characters of any script, that one piece may hold."""

    @property
    def regex(self) -> str:
        """The pattern as a regular expression, in the dialect of tiktoken."""
        contraction = r"'(?i:[sdmt]|ll|ve|re)"
        word = r"[^\r\n\p{L}\p{N}]?+\p{L}+"
        digits = rf"\p{{N}}{{1,{self.max_digits}}}"
        symbols = r" ?[^\s\p{L}\p{N}]++[\r\n]*"
        space = r"\s*[\r\n]|\s+(?!\S)|\s+"
        return "|".join((contraction, word, digits, symbols, space))


_KNOWN = {
    pattern.name: pattern
    for pattern in (
        Pattern("nanochat", 2),  # best compression at vocabularies of 32k to 64k
        Pattern("gpt4", 3),
        Pattern("digit", 1),  # a token per digit: what a small model needs to learn carrying
    )
}
PATTERN_NAMES = tuple(_KNOWN)


_WORTH_TWO_DIGITS = 8_192


def automatic(vocab_size: int) -> str:
    """Name of the pattern that suits a vocabulary.

    A small vocabulary goes with a small model, which learns arithmetic only from single digits; a large one has room
    for pairs of digits, which read faster.
    """
    return "digit" if vocab_size < _WORTH_TWO_DIGITS else "nanochat"


def find(name: str) -> Pattern:
    """The pattern called `name`. Raises ConfigError for an unknown one."""
    if name not in _KNOWN:
        raise ConfigError(f"unknown split pattern: {name}", hint=f"choose one of: {', '.join(PATTERN_NAMES)}")
    return _KNOWN[name]
