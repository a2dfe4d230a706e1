"""Next-token loss, straight from the last hidden state, without ever holding more logits than a fixed number of bytes.

Few logits are kept for the backward pass. Many are made chunk by chunk, and again in the backward pass: one more matrix
product, for gigabytes less. At 65,536 tokens and as many words in bf16 all logits take 8 GiB, their gradient as much.

Tensor suffixes: N tokens, M tokens of a chunk, E embedding, V vocabulary, B batch, T time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_cli.core.models.shape import MAX_SOFTCAP

KEPT_BYTES = 1 << 29
"""Logits, in their own dtype, that are kept for the backward pass; beyond it they are made again."""
KEPT_NUMBERS = 1 << 30
"""Kept logits in one tensor; more of them lie in several, so that kernels still count their elements in 32 bits."""
LOGITS_BYTES = 1 << 28
"""Logits of one chunk, in their own dtype, where they are made again."""
CHUNK_BYTES = 1 << 19
"""Wide numbers that an eager sweep takes at a time on a CPU: they stay in its cache."""
GPU_CHUNK_BYTES = 1 << 26
"""The same on a GPU, where it only bounds the memory."""
LOG2_E = math.log2(math.e)
_ROWS = 64  # chunks are made of whole tiles of this many tokens


def softcapped_cross_entropy(
    x_BTE: Tensor,
    weight_VE: Tensor,
    target_BT: Tensor,
    softcap: float,
    *,
    vocab_size: int | None = None,
    kept_bytes: int | None = None,
) -> Tensor:
    """Return -log p(target) per token in nats, fp32 (fp64 for fp64), shape BT; 0 where the target is -1.

    The logits are softcap * tanh(x @ weight.T / softcap); no maximum is subtracted, hence a ValueError for a softcap
    above 60. Rows of the weight from `vocab_size` on stand for nothing, take no part and get no gradient. `kept_bytes`
    stands for KEPT_BYTES where there is more room.
    """
    if softcap > MAX_SOFTCAP:
        raise ValueError(f"softcap must be at most {MAX_SOFTCAP:g}: {softcap}")
    words = weight_VE.size(0) if vocab_size is None else vocab_size
    x_NE, target_N = x_BTE.flatten(0, 1), target_BT.flatten()
    most = KEPT_BYTES if kept_bytes is None else kept_bytes
    if x_NE.size(0) * words * x_NE.element_size() <= most:
        used_VE = (weight_VE if words == weight_VE.size(0) else weight_VE[:words]).to(x_NE.dtype)
        rows = max(1, KEPT_NUMBERS // words)
        if x_NE.size(0) <= rows:
            loss_N: Tensor = _KeptLoss.apply(F.linear(x_NE, used_VE), target_N, softcap)
        else:
            parts = zip(x_NE.split(rows), target_N.split(rows), strict=True)
            loss_N = torch.cat([_KeptLoss.apply(F.linear(x, used_VE), target, softcap) for x, target in parts])
    else:
        rows = chunk_rows(x_NE.size(0), words, x_NE.element_size())
        loss_N, _ = _chunked(x_NE, weight_VE, target_N, softcap, words, rows, torch.compiler.is_compiling())
    return loss_N.view_as(target_BT)


def chunk_rows(num_tokens: int, vocab_size: int, itemsize: int) -> int:
    """Return the tokens of a chunk: about `LOGITS_BYTES` of logits, and all chunks of about one size."""
    most = max(1, LOGITS_BYTES // (vocab_size * itemsize))
    even = -(-num_tokens // -(-num_tokens // most))
    return min(most, -(-even // _ROWS) * _ROWS)


class _KeptLoss(torch.autograd.Function):
    """Cap, log-sum-exp and pick in one sweep over the logits; the backward sweep recomputes instead of storing.

    Only the logits (in their own dtype) and one number per token are kept, and in eager mode rows are taken in chunks
    that stay in the processor's cache. Compiled, each sweep becomes one loop.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor, softcap: float) -> Tensor:
        log_sum_N = _log_sums(logits_NV, softcap)
        ctx.save_for_backward(logits_NV, target_N, log_sum_N)
        ctx.softcap = softcap
        return _picked_loss(logits_NV, target_N, log_sum_N, softcap)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, target_N, log_sum_N = ctx.saved_tensors
        grad_NV = torch.empty_like(logits_NV)
        _write_gradient(grad_NV, logits_NV, target_N, log_sum_N, grads[0], ctx.softcap)
        return grad_NV, None, None


# ---- chunks of tokens, made again in the backward pass ---------------------------------------------------------------
# Operators of our own: to the compiler each is one opaque call, so it cannot trade memory for fusion across chunks.


def losses_in_chunks(
    x_NE: Tensor, weight_VE: Tensor, target_N: Tensor, softcap: float, words: int, rows: int, fused: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss and the log of the summed exponentials of each token."""
    used_VE = weight_VE[:words].to(x_NE.dtype)
    log_sum_N = x_NE.new_empty(x_NE.size(0), dtype=_wide(x_NE.dtype))
    loss_N = torch.empty_like(log_sum_N)
    sums = _compiled(_log_sum) if fused else _log_sums
    for part in _slices(x_NE.size(0), rows):
        logits_MV = F.linear(x_NE[part], used_VE)
        log_sum_N[part] = sums(logits_MV, softcap)
        loss_N[part] = _picked_loss(logits_MV, target_N[part], log_sum_N[part], softcap)
        del logits_MV  # before the next chunk's are made
    return loss_N, log_sum_N


def _fake_losses(
    x_NE: Tensor, weight_VE: Tensor, target_N: Tensor, softcap: float, words: int, rows: int, fused: bool
) -> tuple[Tensor, Tensor]:
    loss_N = x_NE.new_empty(x_NE.size(0), dtype=_wide(x_NE.dtype))
    return loss_N, torch.empty_like(loss_N)


def gradients_in_chunks(
    grad_N: Tensor,
    x_NE: Tensor,
    weight_VE: Tensor,
    target_N: Tensor,
    log_sum_N: Tensor,
    softcap: float,
    words: int,
    rows: int,
    fused: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the weight; the latter is summed over chunks in fp32 at least."""
    used_VE = weight_VE[:words].to(x_NE.dtype)
    grad_x_NE = torch.empty_like(x_NE)
    total_VE = torch.zeros_like(weight_VE, dtype=_wide(weight_VE.dtype))
    write = _compiled(_overwrite) if fused else _overwrite_in_slices
    for part in _slices(x_NE.size(0), rows):
        logits_MV = F.linear(x_NE[part], used_VE)
        write(logits_MV, target_N[part], log_sum_N[part], grad_N[part], softcap)
        grad_x_NE[part] = logits_MV @ used_VE
        if total_VE.dtype == x_NE.dtype:
            total_VE[:words].addmm_(logits_MV.T, x_NE[part])
        else:
            total_VE[:words].add_(logits_MV.T @ x_NE[part])
        del logits_MV
    return grad_x_NE, total_VE.to(weight_VE.dtype)


def _fake_gradients(
    grad_N: Tensor,
    x_NE: Tensor,
    weight_VE: Tensor,
    target_N: Tensor,
    log_sum_N: Tensor,
    softcap: float,
    words: int,
    rows: int,
    fused: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_NE), torch.empty_like(weight_VE)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x_NE, weight_VE, target_N, *ctx.rest = inputs
    ctx.save_for_backward(x_NE, weight_VE, target_N, output[1])


def _differentiate(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_chunked_backward(grad_N, *ctx.saved_tensors, *ctx.rest), None, None, None, None, None


_chunked = torch.library.custom_op("nanochat::loss_in_chunks", losses_in_chunks, mutates_args=())
_chunked_backward = torch.library.custom_op("nanochat::loss_in_chunks_backward", gradients_in_chunks, mutates_args=())
_chunked.register_fake(_fake_losses)
_chunked_backward.register_fake(_fake_gradients)
_chunked.register_autograd(_differentiate, setup_context=_remember)


def _slices(total: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, total, step)]


@functools.cache
def _compiled(sweep: Callable[..., Any]) -> Callable[..., Any]:
    """One loop over a chunk; asked for only where the training step is compiled, too."""
    return torch.compile(sweep, dynamic=False)


# ---- the sweeps ------------------------------------------------------------------------------------------------------
# Everything is written in powers of two, which cost a CPU a third of exp and a ninth of tanh:
# softcap * tanh(x / softcap) = softcap * (2s - 1), where s = 1 / (1 + 2^(-x * RATE / softcap)) and RATE = 2 log2(e).


def _log_sum(logits_NV: Tensor, softcap: float) -> Tensor:
    """Return the log of the sum of exponentials of each row's capped logits, fp32 or fp64."""
    return _power(_sigmoid(logits_NV, softcap), softcap).sum(-1).log()


def _log_sums(logits_NV: Tensor, softcap: float) -> Tensor:
    """Return the same, a few rows at a time."""
    sums = [_log_sum(part, softcap) for part in logits_NV.split(_sweep_rows(logits_NV))]
    return torch.cat(sums) if len(sums) > 1 else sums[0]


def _picked_loss(logits_NV: Tensor, target_N: Tensor, log_sum_N: Tensor, softcap: float) -> Tensor:
    picked_N1 = logits_NV.gather(1, target_N.clamp(min=0)[:, None])
    capped_N = softcap * (2 * _sigmoid(picked_N1, softcap) - 1).squeeze(1)
    return (log_sum_N - capped_N).masked_fill(target_N < 0, 0.0)


Terms = tuple[Tensor, Tensor, Tensor]
"""Of each token: target (int32), share 1 / sum of exponentials, and the incoming gradient times 4; all [N, 1]."""


def _terms(target_N: Tensor, log_sum_N: Tensor, grad_N: Tensor) -> Terms:
    # Comparisons of 32 bits vectorise, of 64 bits they do not.
    scale_N = grad_N.masked_fill(target_N < 0, 0.0) * 4
    return target_N.int()[:, None], (-log_sum_N).exp()[:, None], scale_N[:, None]


def _gradient(logits_NV: Tensor, column_V: Tensor, terms: Terms, softcap: float) -> Tensor:
    """Return d loss / d logit = (p - [target]) * 4 s (1 - s), each row times its incoming gradient, in wide numbers."""
    target_N1, share_N1, scale_N1 = terms
    sigmoid = _sigmoid(logits_NV, softcap)
    grad = _power(sigmoid, softcap).mul_(share_N1)
    grad.add_(column_V == target_N1, alpha=-1).mul_(sigmoid).mul_(sigmoid.neg_().add_(1))
    return grad.mul_(scale_N1)


def _write_gradient(
    out_NV: Tensor, logits_NV: Tensor, target_N: Tensor, log_sum_N: Tensor, grad_N: Tensor, softcap: float
) -> None:
    """Fill `out` with the gradient, a few rows at a time; `out` may be the logits."""
    target_N1, share_N1, scale_N1 = _terms(target_N, log_sum_N, grad_N)
    column_V = torch.arange(logits_NV.size(1), device=logits_NV.device, dtype=torch.int32)
    for part in _slices(logits_NV.size(0), _sweep_rows(logits_NV)):
        terms = (target_N1[part], share_N1[part], scale_N1[part])
        out_NV[part] = _gradient(logits_NV[part], column_V, terms, softcap)


def _overwrite_in_slices(
    logits_NV: Tensor, target_N: Tensor, log_sum_N: Tensor, grad_N: Tensor, softcap: float
) -> None:
    """Put the gradient in the place of the logits."""
    _write_gradient(logits_NV, logits_NV, target_N, log_sum_N, grad_N, softcap)


def _overwrite(logits_NV: Tensor, target_N: Tensor, log_sum_N: Tensor, grad_N: Tensor, softcap: float) -> None:
    """Do the same in one go, to be compiled."""
    column_V = torch.arange(logits_NV.size(1), device=logits_NV.device, dtype=torch.int32)
    logits_NV.copy_(_gradient(logits_NV, column_V, _terms(target_N, log_sum_N, grad_N), softcap))


def _sigmoid(logits: Tensor, softcap: float) -> Tensor:
    """Return s in (0, 1), fp32 or fp64; the capped logit is softcap * (2s - 1)."""
    return (logits.to(_wide(logits.dtype)) * (-2 * LOG2_E / softcap)).exp2_().add_(1).reciprocal_()


def _power(sigmoid: Tensor, softcap: float) -> Tensor:
    """Return exp of the capped logit."""
    return (sigmoid * (2 * softcap * LOG2_E)).sub_(softcap * LOG2_E).exp2_()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _sweep_rows(logits_NV: Tensor) -> int:
    if torch.compiler.is_compiling():
        return logits_NV.size(0)
    least = CHUNK_BYTES if logits_NV.device.type == "cpu" else GPU_CHUNK_BYTES
    return max(1, least // (_wide(logits_NV.dtype).itemsize * logits_NV.size(1)))
