"""Best-fit packing of pieces into rows of one length, on counts of equal sizes instead of piece by piece.

Pieces are placed longest first, each into the row with the least room that still takes it. All pieces of one length,
and all rows with the same room left, are handled at once, so the work grows with the number of different lengths.
"""

from __future__ import annotations

import numpy as np


def best_fit(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (order, row_starts): row r holds pieces order[row_starts[r] : row_starts[r + 1]].

    sizes: int [n], each in 1..capacity. order: int64 [n], a permutation; row_starts: int64 [rows + 1]. Which of the
    equally long pieces share a row, and their sequence in it, are scattered by a fixed hash of the piece's index.
    """
    scatter = mix(np.arange(len(sizes), dtype=np.uint64))
    longest_first = np.lexsort((scatter, -sizes.astype(np.int64)))
    row = np.empty(len(sizes), np.int64)
    lengths, begins = np.unique(-sizes[longest_first].astype(np.int64), return_index=True)
    ends = np.append(begins[1:], len(sizes))
    room = _Rows(capacity)
    for length, begin, end in zip((-lengths).tolist(), begins.tolist(), ends.tolist()):
        row[longest_first[begin:end]] = room.place(length, end - begin)
    order = np.lexsort((mix(scatter), row))  # a second hash: the first one decided who met whom
    return order, np.append(0, np.cumsum(np.bincount(row, minlength=room.count))).astype(np.int64)


class _Rows:
    """Open rows by the room left in them."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.count = capacity, 0
        self._with_room: dict[int, list[np.ndarray]] = {}  # room -> numbers of the rows

    def place(self, length: int, num: int) -> np.ndarray:
        """Return the rows that `num` pieces of one length go to, int64 [num]."""
        placed: list[np.ndarray] = []
        while num:
            fitting = [room for room in self._with_room if room >= length]
            if not fitting:
                break
            rows = self._take(min(fitting), num)
            placed.append(rows[0])
            num -= len(rows[0])
            self._put(rows[1] - length, rows[0])
        if num:
            placed.append(self._open(length, num))
        return np.concatenate(placed)

    def _take(self, room: int, num: int) -> tuple[np.ndarray, int]:
        """Take up to `num` rows with exactly this room."""
        rows = np.concatenate(self._with_room.pop(room))
        self._put(room, rows[num:])
        return rows[:num], room

    def _put(self, room: int, rows: np.ndarray) -> None:
        if room and len(rows):
            self._with_room.setdefault(room, []).append(rows)

    def _open(self, length: int, num: int) -> np.ndarray:
        """Open new rows, each filled with as many of the pieces as fit."""
        each = self.capacity // length
        full, last = divmod(num, each)
        rows = np.arange(self.count, self.count + full + bool(last))
        self.count += len(rows)
        self._put(self.capacity - each * length, rows[:full])
        if last:
            self._put(self.capacity - last * length, rows[full:])
        return np.repeat(rows, each)[:num]


def mix(values: np.ndarray) -> np.ndarray:
    """Return a well-scattered uint64 for each uint64: the finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
