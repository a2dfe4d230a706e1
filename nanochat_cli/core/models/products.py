"""Causal attention by plain matrix products: the fastest form for short sequences on a CPU.

Tensor suffixes: B batch, T time (queries), S positions (keys), H heads, K key-value heads, D head width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LN_2, LOG2_E = math.log(2), math.log2(math.e)


def band(num_tokens: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return which key (column) each query (row) sees, TT: itself, and what comes before, at most `window` back."""
    seen_TT = torch.ones(num_tokens, num_tokens, dtype=dtype, device=device).tril()
    return seen_TT if window is None else seen_TT.triu(-window)


def attend(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int | None) -> Tensor:
    """Return causal attention, BTHD, for scores that query-key norm bounds; `window` tokens before its own are seen.

    Much faster than the fused call when training short sequences in bf16 on a CPU; its memory grows with T * T.
    """
    seen_TT = band(q_BTHD.size(1), window, q_BTHD.dtype, q_BTHD.device)
    q_BHTD, k_BHSD, v_BHSD = (x.transpose(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
    if (share := q_BHTD.size(1) // k_BHSD.size(1)) > 1:  # autograd sums the shared heads' gradients
        k_BHSD, v_BHSD = k_BHSD.repeat_interleave(share, dim=1), v_BHSD.repeat_interleave(share, dim=1)
    dtype = q_BHTD.dtype
    if dtype == torch.float16:  # a power of two of a bounded score may exceed its range
        q_BHTD, k_BHSD, v_BHSD, seen_TT = (x.float() for x in (q_BHTD, k_BHSD, v_BHSD, seen_TT))
    y_BHTD: Tensor = _BoundedAttention.apply(q_BHTD * (q_BHTD.size(-1) ** -0.5 * LOG2_E), k_BHSD, v_BHSD, seen_TT)
    return y_BHTD.to(dtype).transpose(1, 2)


class _BoundedAttention(torch.autograd.Function):
    """softmax(q k^T) v for bounded scores: no maximum to subtract, and the division comes after the product.

    Query-key norm bounds a score by sqrt(D), so that its power of two (q carries the factor log2 e: powers of two are
    the cheapest for a CPU) neither overflows nor vanishes. The backward pass is written out so that every product reads
    and writes contiguous memory, compiled or not.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (x.flatten(0, 1).contiguous() for x in (q_BHTD, k_BHSD, v_BHSD))
        score = torch.bmm(q, k.transpose(1, 2)).unflatten(0, q_BHTD.shape[:2])
        weight = score.exp2_().mul_(seen).flatten(0, 1)
        total = weight.sum(-1, keepdim=True, dtype=torch.float32)
        y = (torch.bmm(weight, v) / total).to(v.dtype)
        ctx.save_for_backward(q, k, v, weight, total, y)
        return y.view(q_BHTD.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weight, total, y = ctx.saved_tensors
        grad_y = (grads[0].flatten(0, 1) / total).to(v.dtype).contiguous()
        lost = (grad_y.float() * y).sum(-1, keepdim=True)
        grad_score = (torch.bmm(grad_y, v.transpose(1, 2)) - lost).mul_(weight).to(v.dtype)
        grad_q, grad_k = torch.bmm(grad_score, k).mul_(LN_2), torch.bmm(grad_score.mT, q).mul_(LN_2)
        parts = (grad_q, grad_k, torch.bmm(weight.mT, grad_y))
        return *(part.unflatten(0, grads[0].shape[:2]) for part in parts), None
