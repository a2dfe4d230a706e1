"""Conversations that say the same: equal but for case, marks and spaces, or nearly so."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from typing import Literal

from nanochat_cli.core.data.synthchats.answer import Turn

_WIDTH = 9
"""Characters of a shingle: about two words, and it works for scripts without spaces, too."""
_SKETCH = 128
"""Shingles kept of a text, those with the smallest hashes: their overlap estimates that of all (Broder, 1997)."""


def normalised(text: str) -> str:
    """Return letters and digits in one case, and single spaces between words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


def sketch(text: str) -> list[int]:
    """Return the smallest hashes, in ascending order, of a normalised text's shingles."""
    pieces = {text[at : at + _WIDTH] for at in range(max(1, len(text) - _WIDTH + 1))}
    hashes = (int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest()) for piece in pieces)
    return sorted(set(hashes))[:_SKETCH]


class Seen:
    """The conversations taken so far. `share` is the overlap from which two are near-duplicates; None: only equals."""

    def __init__(self, share: float | None) -> None:
        self.share = share
        self._texts: set[str] = set()
        self._sketches: list[frozenset[int]] = []
        self._by_hash: dict[int, list[int]] = {}

    def add(self, messages: Sequence[Turn]) -> Literal["new", "same", "near"]:
        """Return what a conversation is to those before it; only a new one is taken in."""
        text = normalised("\n".join(message["content"] for message in messages))
        if text in self._texts:
            return "same"
        if self.share is not None:
            hashes = sketch(text)
            # Two sets that overlap by this share have one of these in common, as both are in one order.
            telling = hashes[: len(hashes) - math.ceil(self.share * len(hashes)) + 1]
            whole = frozenset(hashes)
            candidates = {number for h in telling for number in self._by_hash.get(h, ())}
            if any(_overlap(whole, self._sketches[number]) >= self.share for number in candidates):
                return "near"
            for h in telling:
                self._by_hash.setdefault(h, []).append(len(self._sketches))
            self._sketches.append(whole)
        self._texts.add(text)
        return "new"


def _overlap(a: frozenset[int], b: frozenset[int]) -> float:
    common = len(a & b)
    return common / max(1, len(a) + len(b) - common)
