"""How much of the training text is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Most characters of each document, and of all of them."""

    doc_cap: int | None = None
    max_chars: int | None = None


def cropped(texts: Iterable[str], doc_cap: int | None, max_chars: int | None) -> tuple[list[str], int]:
    """The texts cut to `doc_cap` characters, up to the one that carries their sum beyond `max_chars`; and that sum."""
    kept: list[str] = []
    chars = 0
    for text in texts:
        kept.append(text[:doc_cap])
        chars += len(kept[-1])
        if max_chars is not None and chars > max_chars:
            break
    return kept, chars
