from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_cli.core.data.binpack import best_fit


def rows_of(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    order, starts = best_fit(sizes, capacity)
    assert np.array_equal(np.sort(order), np.arange(len(sizes)))
    return [order[a:b].tolist() for a, b in pairwise(starts)]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=120))
def test_every_piece_is_placed_once_and_no_row_overflows(sizes: list[int]) -> None:
    rows = rows_of(np.array(sizes), 20)
    assert all(row and sum(sizes[i] for i in row) <= 20 for row in rows)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=120))
def test_as_few_rows_as_piece_by_piece_best_fit(sizes: list[int]) -> None:
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=lambda i: rooms[i])] -= size
        else:
            rooms.append(30 - size)
    assert len(rows_of(np.array(sizes), 30)) <= len(rooms)


def test_perfect_fits_are_found() -> None:
    assert len(rows_of(np.array([7, 3] * 500), 10)) == 500
    assert len(rows_of(np.array([10] * 5), 10)) == 5
    assert len(rows_of(np.array([1] * 25), 10)) == 3


def test_sequence_in_a_row_is_not_always_longest_first() -> None:
    rows = rows_of(np.array([6, 4] * 200), 10)
    first = [row[0] % 2 for row in rows if len(row) == 2]
    assert 0.3 < np.mean(first) < 0.7


def test_a_million_pieces_of_many_lengths() -> None:
    sizes = np.random.default_rng(0).geometric(1 / 200, 1_000_000).clip(1, 2049)
    order, starts = best_fit(sizes, 2049)
    filled = np.add.reduceat(sizes[order], starts[:-1])
    assert filled.max() <= 2049 and filled.mean() > 0.99 * 2049
