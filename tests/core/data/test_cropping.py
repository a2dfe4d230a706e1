from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_cli.core.data.binpack import mix
from nanochat_cli.core.data.cropping import best_fit_cropped

Piece = tuple[int, int]


def rows_of(sizes: list[int], capacity: int, window: int) -> list[list[Piece]]:
    document, taken, starts = best_fit_cropped(np.array(sizes, np.int64), capacity, window)
    pieces = list(zip(document.tolist(), taken.tolist(), strict=True))
    return [pieces[a:b] for a, b in pairwise(starts.tolist())]


def one_by_one(sizes: list[int], capacity: int, window: int) -> list[list[Piece]]:
    """The rule as it reads, looking at every waiting document for every piece."""
    order = np.argsort(mix(np.arange(len(sizes), dtype=np.uint64)), kind="stable").tolist()
    rows = [[(i, capacity)] for i in order if sizes[i] >= capacity]
    place = {i: at for at, i in enumerate(i for i in order if 1 < sizes[i] < capacity)}
    coming = list(place)
    waiting, coming = coming[:window], coming[window:]
    while waiting:
        row: list[Piece] = []
        while waiting and (room := capacity - sum(taken for _, taken in row)) > 1:
            fitting = [i for i in waiting if sizes[i] <= room]
            if fitting:
                i = max(fitting, key=lambda i: (sizes[i], place[i]))
            else:
                i = min(waiting, key=lambda i: (sizes[i], place[i]))
            row.append((i, min(sizes[i], room)))
            waiting.remove(i)
            waiting, coming = waiting + coming[:1], coming[1:]
        if sum(taken for _, taken in row) == capacity - 1:
            row.append((row[-1][0], 1))
        rows.append(row)
    return rows


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=80), st.integers(2, 20), st.integers(1, 12))
def test_as_document_by_document(sizes: list[int], capacity: int, window: int) -> None:
    rows = rows_of(sizes, capacity, window)
    assert rows == one_by_one(sizes, capacity, window)
    assert all(sum(taken for _, taken in row) == capacity for row in rows[:-1])


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ([], []),
        ([1, 1], []),  # nothing but empty documents
        ([500], [[(0, 10)]]),
        ([10], [[(0, 10)]]),
        ([4], [[(0, 4)]]),  # the only row there is, too short
        ([9, 1], [[(0, 9), (0, 1)]]),
    ],
)
def test_ends(sizes: list[int], rows: list[list[Piece]]) -> None:
    assert rows_of(sizes, 10, 1000) == rows


def test_the_longest_that_fits_goes_next_and_the_shortest_is_cut() -> None:
    (first, *_) = rows_of([7, 6, 5, 4], 10, 1000)
    assert first == [(0, 7), (3, 3)]


def test_long_documents_do_not_clog_the_window() -> None:
    """A window full of documents that never fit would leave no choice among the others."""
    short = np.random.default_rng(0).integers(2, 60, 6000)
    sizes = np.where(np.arange(6000) % 10 == 0, 500, short)
    document, taken, starts = best_fit_cropped(sizes, 100, window=100)
    lost = sizes[document] - taken
    assert lost[sizes[document] < 100].sum() < 0.06 * short.sum()
    assert len(starts) - 1 > 600


def test_documents_pass_by_in_a_scattered_order() -> None:
    """Neighbours in a corpus are often alike: they should not share rows."""
    document, _, starts = best_fit_cropped(np.full(4000, 10), 50, window=100)
    of_row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    rows = np.empty(4000, np.int64)
    rows[document] = of_row
    assert (rows[1:] == rows[:-1]).mean() < 0.02
