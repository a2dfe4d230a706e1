"""Next-token loss, straight from the last hidden state.

Tensor suffixes: N tokens, E embedding, V vocabulary, B batch, T time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_cli.core.models.shape import MAX_SOFTCAP

CHUNK_BYTES = 1 << 19
LOG2_E = math.log2(math.e)


def softcapped_cross_entropy(x_BTE: Tensor, weight_VE: Tensor, target_BT: Tensor, softcap: float) -> Tensor:
    """Return -log p(target) per token in nats, fp32, shape BT; 0 where the target is -1.

    The logits are softcap * tanh(x @ weight.T / softcap); no maximum is subtracted, hence a ValueError for a softcap
    above 60.
    """
    if softcap > MAX_SOFTCAP:
        raise ValueError(f"softcap must be at most {MAX_SOFTCAP:g}: {softcap}")
    logits_NV = F.linear(x_BTE.flatten(0, 1), weight_VE.to(x_BTE.dtype))
    loss_N: Tensor = _CappedLoss.apply(logits_NV, target_BT.flatten(), softcap)
    return loss_N.view_as(target_BT)


class _CappedLoss(torch.autograd.Function):
    """Cap, log-sum-exp and pick in one sweep over the logits; the backward sweep recomputes instead of storing.

    Only the logits (in their own dtype) and one number per token are kept, and in eager mode rows are taken in chunks
    that stay in the processor's cache. Compiled, each sweep becomes one loop. Everything is written in powers of two,
    which cost a CPU a third of exp and a ninth of tanh: softcap * tanh(x / softcap) = softcap * (2s - 1), where
    s = 1 / (1 + 2^(-x * RATE / softcap)) and RATE = 2 log2(e).
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor, softcap: float) -> Tensor:
        sums = [_power(_sigmoid(chunk, softcap), softcap).sum(-1) for chunk in _chunks(logits_NV)]
        log_sum_N = (torch.cat(sums) if len(sums) > 1 else sums[0]).log()
        picked_N1 = logits_NV.gather(1, target_N.clamp(min=0)[:, None])
        capped_N = softcap * (2 * _sigmoid(picked_N1, softcap) - 1).squeeze(1)
        ctx.save_for_backward(logits_NV, target_N, log_sum_N)
        ctx.softcap = softcap
        return (log_sum_N - capped_N).masked_fill(target_N < 0, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, target_N, log_sum_N = ctx.saved_tensors
        # d loss / d logit = (p - [target]) * 4 s (1 - s); the constant and the incoming gradient scale the row.
        scale_N1 = grads[0].masked_fill(target_N < 0, 0.0)[:, None] * 4
        share_N1 = (-log_sum_N).exp()[:, None]
        target_N1 = target_N.int()[:, None]  # comparisons of 32 bits vectorise, of 64 bits they do not
        column_V = torch.arange(logits_NV.size(1), device=logits_NV.device, dtype=torch.int32)
        grad_NV = torch.empty_like(logits_NV)
        for rows, chunk in zip(_row_slices(logits_NV), _chunks(logits_NV), strict=True):
            sigmoid = _sigmoid(chunk, ctx.softcap)
            grad = _power(sigmoid, ctx.softcap).mul_(share_N1[rows])
            grad.add_(column_V == target_N1[rows], alpha=-1).mul_(sigmoid).mul_(sigmoid.neg_().add_(1))
            grad_NV[rows] = grad.mul_(scale_N1[rows])
        return grad_NV, None, None


def _sigmoid(logits: Tensor, softcap: float) -> Tensor:
    """Return s in (0, 1), fp32; the capped logit is softcap * (2s - 1)."""
    return (logits.float() * (-2 * LOG2_E / softcap)).exp2_().add_(1).reciprocal_()


def _power(sigmoid: Tensor, softcap: float) -> Tensor:
    """Return exp of the capped logit."""
    return (sigmoid * (2 * softcap * LOG2_E)).sub_(softcap * LOG2_E).exp2_()


def _chunk_rows(logits_NV: Tensor) -> int:
    if torch.compiler.is_compiling() or logits_NV.device.type != "cpu":
        return logits_NV.size(0)
    return max(1, CHUNK_BYTES // (4 * logits_NV.size(1)))


def _chunks(logits_NV: Tensor) -> tuple[Tensor, ...]:
    return logits_NV.split(_chunk_rows(logits_NV))


def _row_slices(logits_NV: Tensor) -> list[slice]:
    step = _chunk_rows(logits_NV)
    return [slice(start, start + step) for start in range(0, logits_NV.size(0), step)]
