"""A seeded order without state: where sample k stands is computed, not remembered, so resume needs one integer.

The order of an epoch is a permutation of the row numbers made by a Feistel network (Luby and Rackoff 1988) on the next
even power of two, walking on from any value outside until it falls inside (Black and Rogaway 2002).
"""

from __future__ import annotations

import numpy as np

from nanochat_cli.core.data.binpack import mix

ROUNDS = 6


def permute(positions: np.ndarray, n: int, key: int) -> np.ndarray:
    """Return where each position in 0..n-1 goes under the permutation that `key` selects; int64, same shape."""
    if n < 1:
        raise ValueError(f"nothing to permute: {n}")
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    round_keys = mix(np.uint64(key & 0xFFFFFFFFFFFFFFFF) ^ mix(np.arange(ROUNDS, dtype=np.uint64)))
    out = _feistel(positions.astype(np.uint64), half, round_keys)
    while (outside := out >= n).any():
        out[outside] = _feistel(out[outside], half, round_keys)
    return out.astype(np.int64)


def _feistel(values: np.ndarray, half: int, round_keys: np.ndarray) -> np.ndarray:
    bits, low = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & low
    for key in round_keys:
        left, right = right, left ^ (mix(right ^ key) & low)
    return (left << bits) | right


def sample_rows(first: int, count: int, num_rows: int, seed: int, shuffle: bool = True) -> np.ndarray:
    """Return the row of each sample first .. first + count - 1, int64 [count].

    Samples run through all rows once per epoch; every epoch has an order of its own.
    """
    epoch, position = np.divmod(np.arange(first, first + count, dtype=np.int64), num_rows)
    if not shuffle:
        return position
    for number in np.unique(epoch):
        here = epoch == number
        position[here] = permute(position[here], num_rows, _epoch_key(seed, int(number)))
    return position


def _epoch_key(seed: int, epoch: int) -> int:
    return int(mix(mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)) + np.uint64(epoch))[0])
