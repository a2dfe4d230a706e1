from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_cli.core.data.order import permute, sample_rows


def test_permutation_is_a_bijection_for_every_small_n() -> None:
    for n in [*range(1, 130), 255, 256, 257, 1000, 4095, 4097]:
        assert np.array_equal(np.sort(permute(np.arange(n), n, key=n * 7)), np.arange(n)), n


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50_000), st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(n: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


def test_permutation_needs_no_table() -> None:
    n = 10**12
    out = permute(np.array([0, 1, n - 1]), n, key=5)
    assert ((out >= 0) & (out < n)).all() and len(set(out.tolist())) == 3


def test_permutation_scatters() -> None:
    n = 10_000
    out = permute(np.arange(n), n, key=1)
    assert abs(np.corrcoef(np.arange(n), out)[0, 1]) < 0.05
    assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 0.05
    assert (np.diff(out) == 1).mean() < 0.005
    halves = np.add.reduceat(out < n // 2, np.arange(0, n, 100))  # each hundred draws from both halves evenly
    assert halves.min() > 15 and halves.max() < 85


def test_keys_give_different_orders() -> None:
    orders = {tuple(permute(np.arange(50), 50, key)) for key in range(40)}
    assert len(orders) == 40


def test_order_is_fixed_for_ever() -> None:
    assert permute(np.arange(10), 10, key=0).tolist() == GOLDEN_PERMUTATION
    assert sample_rows(8, 8, num_rows=10, seed=3).tolist() == GOLDEN_SAMPLES


GOLDEN_PERMUTATION = [5, 4, 9, 6, 3, 2, 7, 8, 1, 0]
GOLDEN_SAMPLES = [1, 5, 9, 0, 6, 3, 2, 4]


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_epoch_has_every_row_once(shuffle: bool) -> None:
    rows = sample_rows(0, 3 * 37, 37, seed=1, shuffle=shuffle).reshape(3, 37)
    assert all(sorted(epoch) == list(range(37)) for epoch in rows.tolist())
    assert (rows[0].tolist() != rows[1].tolist()) == shuffle
    assert (rows[1].tolist() != rows[2].tolist()) == shuffle


def test_a_sample_is_a_function_of_its_number() -> None:
    whole = sample_rows(0, 500, 83, seed=9)
    assert all(sample_rows(k, 1, 83, seed=9)[0] == whole[k] for k in range(0, 500, 17))
    assert sample_rows(0, 83, 83, seed=10).tolist() != whole[:83].tolist()
