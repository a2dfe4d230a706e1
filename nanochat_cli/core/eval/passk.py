"""pass@k: the chance that at least one of k sampled answers is right, estimated from n of them."""

from __future__ import annotations

from math import comb


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return 1 - C(n - c, k) / C(n, k), which is unbiased for any n >= k (Chen et al. 2021, arXiv 2107.03374).

    Raises ValueError for counts that cannot be.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {correct} right among {n}")
    return 1.0 - comb(n - correct, k) / comb(n, k)


def told(n: int) -> list[int]:
    """Return the k that are reported for n samples: powers of two, and n itself."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})
