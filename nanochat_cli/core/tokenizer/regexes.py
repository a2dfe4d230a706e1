"""Split patterns that the native splitter does not know: any regular expression, by way of the `regex` library.

Correct and slow: about 1 to 3 MB of text per second and core. Text between two matches is a piece of its own, so that
nothing is ever lost. The library brings its own Unicode tables, which may be newer than those of the native splitter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import regex

from nanochat_cli import _bpe
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.tokenizer.limits import cropped

_PATIENCE_S = 60.0  # for one document: an expression may need time that grows exponentially


class RegexSplitter:
    """Cuts text by a regular expression."""

    def __init__(self, pattern: str) -> None:
        """Raises ConfigError for what is no regular expression, or one that can match the empty string."""
        try:
            self._compiled = regex.compile(pattern)
        except (regex.error, RecursionError, OverflowError) as problem:
            raise ConfigError(f"no regular expression: {pattern[:200]!r} ({problem})") from None
        if self._compiled.flags & regex.REVERSE:
            raise ConfigError(f"a split pattern that searches backwards: {pattern[:200]!r}", hint="leave out (?r)")
        if self._compiled.match("") is not None:
            raise _matches_nothing(pattern)

    def split(self, text: str) -> list[str]:
        """`text` in pieces. Raises ConfigError where the pattern matches the empty string, DataError after a minute."""
        try:
            return self._pieces(text)
        except TimeoutError:
            raise DataError(
                f"the split pattern needs more than {_PATIENCE_S:.0f} s for a document of {len(text):,} characters"
            ) from None

    def _pieces(self, text: str) -> list[str]:
        pieces: list[str] = []
        end = 0
        for match in self._compiled.finditer(text, timeout=_PATIENCE_S):
            start, stop = match.span()
            if start == stop:
                raise _matches_nothing(self._compiled.pattern)
            if start > end:
                pieces.append(text[end:start])
            pieces.append(text[start:stop])
            end = stop
        if end < len(text):
            pieces.append(text[end:])
        return pieces


def _matches_nothing(pattern: str) -> ConfigError:
    return ConfigError(
        f"a split pattern that can match the empty string: {pattern!r}", hint="every match must be a piece: use + for *"
    )


class RegexCounter:
    """Counts pieces; the same to its user as `_bpe.Counter`."""

    def __init__(self, pattern: str) -> None:
        self._split = RegexSplitter(pattern).split
        self._counts = _bpe.Counter(_bpe.Splitter("whole"), 1)
        self.documents = 0
        self.bytes = 0
        self.pieces = 0

    @property
    def distinct(self) -> int:
        """Distinct pieces."""
        return self._counts.distinct

    @property
    def memory(self) -> int:
        """Bytes of memory that the counts take."""
        return self._counts.memory

    def feed(self, texts: list[str]) -> None:
        """Add documents."""
        counts = Counter(chain.from_iterable(map(self._split, texts)))
        self._counts.add(list(counts.items()))
        self.pieces += counts.total()
        self.documents += len(texts)
        self.bytes += sum(len(text.encode()) for text in texts)

    def feed_arrow(self, array: Any, doc_cap: int | None = None, max_chars: int | None = None) -> int:
        """Add the texts of an Arrow array up to the limits, and return their characters."""
        texts, chars = cropped(texts_of(array), doc_cap, max_chars)
        self.feed(texts)
        return chars

    def spill(self, path: str) -> None:
        """Write all counts to a file and forget them."""
        self._counts.spill(path)

    def finish(self, min_count: int = 1) -> _bpe.Pieces:
        """The distinct pieces."""
        return self._counts.finish(min_count)


class RegexEncoder:
    """Encodes text; the same to its user as `_bpe.Encoder`."""

    def __init__(self, pattern: str, pieces: _bpe.Encoder) -> None:
        """`pieces` encodes single pieces."""
        self._split = RegexSplitter(pattern).split
        self._pieces = pieces

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        return np.frombuffer(self._pieces.encode_batch(self._split(text), 1)[0], np.uint32).tolist()

    def encode_batch(
        self, texts: Iterable[str], threads: int, first: int | None = None, narrow: bool = False
    ) -> tuple[bytearray, bytearray]:
        """Ids of all texts end to end, and how many belong to each."""
        flat, lengths = bytearray(), []
        kind = np.uint16 if narrow else np.uint32
        for text in texts:
            ids, _ = self._pieces.encode_batch(self._split(text), threads, None, narrow)
            opening = np.array([] if first is None else [first], kind).tobytes()
            flat += opening + ids
            lengths.append((len(opening) + len(ids)) // kind().itemsize)
        return flat, bytearray(np.array(lengths, np.uint64).tobytes())

    def encode_arrow(
        self, array: Any, threads: int, first: int | None = None, narrow: bool = False
    ) -> tuple[bytearray, bytearray]:
        """The same for the texts of an Arrow array."""
        return self.encode_batch(texts_of(array), threads, first, narrow)


def texts_of(array: Any) -> list[str]:
    """The texts of an Arrow array, nulls left out. Raises ValueError naming the row that is no UTF-8."""
    try:
        return [text for text in array.to_pylist() if text is not None]
    except UnicodeDecodeError:
        for row in range(len(array)):
            try:
                array[row].as_py()
            except UnicodeDecodeError:
                raise ValueError(f"invalid UTF-8 in row {row}") from None
        raise
