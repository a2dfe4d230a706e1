"""How text is cut into pieces before byte pairs are merged: no token ever crosses a piece's edge.

The native splitter knows the patterns of nanochat, GPT-4 and GPT-2 by heart. The regular expression is their
definition: it is saved with every tokenizer and is what the tests compare the splitter with. Any other regular
expression works too, through an engine that is about a hundred times slower (see `regexes`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nanochat_cli import _bpe
from nanochat_cli.core.errors import ConfigError

CUSTOM = "custom"


class Counting(Protocol):
    """What counts pieces; `_bpe.Counter` says more."""

    @property
    def documents(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def pieces(self) -> int: ...
    @property
    def distinct(self) -> int: ...
    @property
    def memory(self) -> int: ...
    def feed(self, texts: list[str]) -> None: ...
    def feed_arrow(self, array: object, doc_cap: int | None = None, max_chars: int | None = None) -> int: ...
    def spill(self, path: str) -> None: ...
    def finish(self, min_count: int = 1) -> _bpe.Pieces: ...


class Encoding(Protocol):
    """What turns text into ids; `_bpe.Encoder` says more."""

    def encode(self, text: str) -> list[int]: ...
    def encode_batch(
        self, texts: list[str], threads: int, first: int | None = None, narrow: bool = False
    ) -> tuple[bytearray, bytearray]: ...
    def encode_arrow(
        self, array: object, threads: int, first: int | None = None, narrow: bool = False
    ) -> tuple[bytearray, bytearray]: ...


@dataclass(frozen=True)
class Pattern:
    """One way to cut text."""

    name: str
    regex: str
    """The pattern as a regular expression, in the dialect of tiktoken."""
    max_digits: int | None = None
    """Most digits that one piece may hold, characters of any script; None where the pattern has no limit."""

    @property
    def is_native(self) -> bool:
        """True if the native splitter knows it."""
        return self.name != CUSTOM

    @property
    def unicode(self) -> str | None:
        """Unicode version of the native splitter's tables; None where an engine brings its own."""
        return _bpe.UNICODE_VERSION if self.is_native else None

    def split(self, text: str) -> list[str]:
        """`text` in pieces. Raises ValueError for a lone surrogate, ConfigError for a pattern that matches nothing."""
        if self.is_native:
            return self._splitter().split(text)
        from nanochat_cli.core.tokenizer.regexes import RegexSplitter

        return RegexSplitter(self.regex).split(text)

    def last_cut(self, text: str) -> int:
        """The last place where `text` may be cut without changing its pieces, whatever follows it; 0 if there is none.

        No piece reaches from a letter or digit into white space, and none depends on what is to its left.
        """
        if not self.is_native:
            return 0
        low = len(text)
        while low > 0:  # from the end, in stretches that grow
            low = max(0, 2 * low - len(text) - _STRETCH)
            cuts = [found.end() for found in _CUT.finditer(text, low)]
            if cuts:
                return cuts[-1]
        return 0

    def counter(self, threads: int) -> Counting:
        """An empty counter of pieces."""
        if self.is_native:
            return _bpe.Counter(self._splitter(), threads)
        from nanochat_cli.core.tokenizer.regexes import RegexCounter

        return RegexCounter(self.regex)

    def encoder(self, tokens: Sequence[bytes]) -> tuple[_bpe.Encoder, Encoding]:
        """The encoder of single pieces, and that of texts. Raises ValueError for tokens that training cannot make."""
        if self.is_native:
            native = _bpe.Encoder(list(tokens), self._splitter())
            return native, native
        from nanochat_cli.core.tokenizer.regexes import RegexEncoder

        native = _bpe.Encoder(list(tokens), _bpe.Splitter("whole"))
        return native, RegexEncoder(self.regex, native)

    def _splitter(self) -> _bpe.Splitter:
        return _bpe.Splitter("gpt2") if self.max_digits is None else _bpe.Splitter("gpt4", self.max_digits)

    def info(self) -> dict[str, Any]:
        """The pattern as it stands in a tokenizer's file."""
        return {"name": self.name, "max_digits": self.max_digits, "regex": self.regex, "unicode": self.unicode}


def _gpt4(name: str, max_digits: int) -> Pattern:
    contraction = r"'(?i:[sdmt]|ll|ve|re)"
    word = r"[^\r\n\p{L}\p{N}]?+\p{L}+"
    digits = rf"\p{{N}}{{1,{max_digits}}}"
    symbols = r" ?[^\s\p{L}\p{N}]++[\r\n]*"
    space = r"\s*[\r\n]|\s+(?!\S)|\s+"
    return Pattern(name, "|".join((contraction, word, digits, symbols, space)), max_digits)


_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+"
_KNOWN = {
    pattern.name: pattern
    for pattern in (
        _gpt4("nanochat", 2),  # best compression at vocabularies of 32k to 64k
        _gpt4("gpt4", 3),
        _gpt4("digit", 1),  # a token per digit: what a small model needs to learn carrying
        Pattern("gpt2", _GPT2),
    )
}
PATTERN_NAMES = tuple(_KNOWN)


_WORTH_TWO_DIGITS = 8_192
_LARGEST_FILE = 65_536
_STRETCH = 4096
_CUT = re.compile(r"[A-Za-z0-9](?=[ \t\r\n])")


def automatic(vocab_size: int) -> str:
    """Name of the pattern that suits a vocabulary.

    A small vocabulary goes with a small model, which learns arithmetic only from single digits; a large one has room
    for pairs of digits, which read faster.
    """
    return "digit" if vocab_size < _WORTH_TWO_DIGITS else "nanochat"


def find(name: str) -> Pattern:
    """The pattern called `name`, or the regular expression in the file of this name. Raises ConfigError for others."""
    if name in _KNOWN:
        return _KNOWN[name]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"unknown split pattern: {name}",
            hint=f"choose one of: {', '.join(PATTERN_NAMES)}; or name a file that holds a regular expression",
        )
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"too long for a regular expression: {path} ({path.stat().st_size} bytes)")
        regex = path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read the split pattern: {path} ({problem})") from None
    return custom(regex)


def custom(regex: str) -> Pattern:
    """The pattern of any regular expression; a native one if it is the same. Raises ConfigError if it is none."""
    for pattern in _KNOWN.values():
        if pattern.regex == regex:
            return pattern
    from nanochat_cli.core.tokenizer.regexes import RegexSplitter

    RegexSplitter(regex)  # compiles, and matches more than nothing
    return Pattern(CUSTOM, regex)


def from_info(info: dict[str, Any]) -> Pattern:
    """The pattern of a tokenizer's file. Raises KeyError, TypeError or ConfigError for one that cannot be."""
    return custom(info["regex"]) if info["name"] == CUSTOM else find_known(info["name"])


def find_known(name: str) -> Pattern:
    """The pattern called `name`. Raises KeyError for an unknown one."""
    return _KNOWN[name]
