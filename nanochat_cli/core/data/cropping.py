"""Rows that are full to the last slot and in which every token sees its document from the beginning, for a price.

Documents are placed from a window that moves over them: the longest one that fits goes next; where none fits, the
shortest one is cut to fill the row exactly, and the rest of it is dropped. A document as long as a row or longer gets a
row of its own, as it would in an endless window, and does not clog this one. Source of the idea: nanochat's loader.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np

from nanochat_cli.core.data.binpack import mix

WINDOW = 1000
_BITS = 33  # of a key that hold a document's place: a key, (size, place), stays a small integer in Python
_PLACE = (1 << _BITS) - 1
_BLOCK = 1 << 16


def best_fit_cropped(sizes: np.ndarray, capacity: int, window: int = WINDOW) -> tuple[np.ndarray, ...]:
    """Return (document, taken, row_starts): row r holds pieces row_starts[r] to row_starts[r + 1] - 1.

    sizes: int [n], slots that each document needs, its BOS included; one of a single slot is empty and left out.
    document: int64 [pieces], indices into sizes; taken: int64 [pieces], slots in 1..capacity from the document's
    beginning, 1 being a lone BOS. Every row but the last is filled exactly. The window passes over the documents in an
    order that a fixed hash of their indices gives.
    """
    sizes = np.asarray(sizes, np.int64)
    scattered = np.argsort(mix(np.arange(len(sizes), dtype=np.uint64)), kind="stable")
    alone = scattered[sizes[scattered] >= capacity]
    shared = scattered[(sizes[scattered] > 1) & (sizes[scattered] < capacity)]
    place, crops, starts = _fill(sizes[shared], capacity, window)
    document = np.concatenate([alone, shared[place]])
    taken = np.concatenate([np.full(len(alone), capacity), sizes[shared[place]]])
    taken[len(alone) + crops[0]] = crops[1]
    row_starts = np.concatenate([np.arange(len(alone)), len(alone) + starts])
    return document, taken, row_starts.astype(np.int64)


def _fill(sizes: np.ndarray, capacity: int, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (place of each piece, [pieces that are cut, slots they keep], row starts with the end); int64 each.

    One pass in plain Python: two searches in a short sorted list per document are some two microseconds.
    """
    placed, starts, cut, kept = (array("q") for _ in range(4))
    keys = _keys(sizes)
    waiting = sorted(key for _, key in zip(range(window), keys))
    while waiting:
        starts.append(len(placed))
        room = capacity
        while room > 1 and waiting:
            at = bisect_left(waiting, (room + 1) << _BITS) - 1
            key = waiting.pop(max(at, 0))
            placed.append(key & _PLACE)
            if at < 0:
                cut.append(len(placed) - 1)
                kept.append(room)
                room = 0
            else:
                room -= key >> _BITS
            if (follower := next(keys, None)) is not None:
                insort(waiting, follower)
        if room == 1:  # too little for any document: the BOS that would follow is still a target
            cut.append(len(placed))
            kept.append(1)
            placed.append(placed[-1])
    starts.append(len(placed))
    return _int64(placed), np.stack([_int64(cut), _int64(kept)]), _int64(starts)


def _keys(sizes: np.ndarray) -> Iterator[int]:
    """Sort by size, then by place. In blocks: millions of Python integers at once would take much memory."""
    for begin in range(0, len(sizes), _BLOCK):
        block = sizes[begin : begin + _BLOCK]
        yield from ((block << _BITS) | np.arange(begin, begin + len(block))).tolist()


def _int64(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)
