"""The next token from scores: greedy, or drawn with a random number that is a function of the request alone.

Tensor suffixes: B batch, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def uniforms(seeds: np.ndarray, position: int) -> np.ndarray:
    """Return one number in [0, 1) per seed for a position (SplitMix64 over seed and position); a pure function."""
    with np.errstate(over="ignore"):
        # Counted from 1: the mixing below leaves zero as it is, and a draw of zero is the first token that is possible.
        z = (seeds.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(position) * np.uint64(0xD1342543DE82EF95)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def next_tokens(
    logits_BV: Tensor, *, temperature: float, top_k: int | None, seeds: np.ndarray | None, position: int
) -> Tensor:
    """Return the next token of each row, int64 B: the likeliest at temperature 0, else drawn.

    A row's draw depends on its own scores, seed and position only, so who else is in the batch does not matter.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    if seeds is None:
        raise ValueError("sampling needs a seed per row")
    scores_BV = logits_BV.double() / temperature
    if top_k is not None and top_k < scores_BV.size(-1):
        least_B1 = scores_BV.topk(top_k, dim=-1).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, float("-inf"))
    upto_BV = scores_BV.softmax(-1).cumsum(-1)
    draw_B1 = torch.from_numpy(uniforms(seeds, position)).to(upto_BV)[:, None] * upto_BV[:, -1:]
    return torch.searchsorted(upto_BV, draw_B1, right=True).squeeze(-1).clamp_max(upto_BV.size(-1) - 1)
