"""Which conversations of a file are kept for validation: by position, so that it is the same whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

EVERY = 50
MIN_TO_HOLD_OUT = 100

T = TypeVar("T")


def is_held_out(number: int, total: int) -> bool:
    """Return whether item `number` (from 0) of `total` is held out: every 50th of a file that is large enough."""
    return total >= MIN_TO_HOLD_OUT and number % EVERY == EVERY - 1


def hold_out(found: Sequence[T]) -> tuple[list[T], list[T]]:
    """Return what is trained on and what is held out."""
    kept = [item for i, item in enumerate(found) if not is_held_out(i, len(found))]
    return kept, [item for i, item in enumerate(found) if is_held_out(i, len(found))]
