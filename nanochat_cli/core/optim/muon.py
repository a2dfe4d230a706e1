"""Muon: momentum whose matrices are made orthogonal before they are applied.

Tensor suffixes: K matrices of one shape, M rows, N columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_cli.core.optim.groups import ParamGroup

# Five odd polynomials whose composition lifts singular values in [1e-3, 1] to about 1 (Polar Express,
# arXiv 2505.16932, degree 5, with its safety factor 1.02 for low precision).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SAFETY = 1.02


def orthogonalize(g_KMN: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return, for each matrix, about U V^T of its singular value decomposition U S V^T, in the given dtype.

    Singular values above a thousandth of the Frobenius norm end near 1. Odd matrix polynomials need only products:
    X <- aX + (bA + cA^2)X with A = XX^T, on the smaller side. Source: Muon (K. Jordan, 2024), arXiv 2505.16932.
    """
    tall = g_KMN.size(1) > g_KMN.size(2)
    x = g_KMN.mT if tall else g_KMN
    x = (x / (x.norm(dim=(1, 2), keepdim=True) * SAFETY + 1e-7)).to(dtype)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x.mT if tall else x


@dataclass(frozen=True)
class Piece:
    """A matrix that Muon treats as one: a whole parameter, or some of its rows."""

    name: str
    param: Tensor
    start: int
    rows: int

    def of(self, tensor: Tensor) -> Tensor:
        """Return this piece's rows of a tensor of the parameter's shape."""
        return tensor[self.start : self.start + self.rows]


def pieces(group: ParamGroup) -> Iterable[Piece]:
    """Cut a group's parameters into the matrices that are updated on their own."""
    for name, param in group.params.items():
        start = 0
        for rows in group.splits.get(name, (param.size(0),)):
            yield Piece(name, param, start, rows)
            start += rows


class Muon:
    """Muon over one group: matrices of equal shape are stacked and orthogonalised together."""

    def __init__(self, group: ParamGroup, lr: float, dtype: torch.dtype) -> None:
        self.lr, self.dtype, self.params = lr, dtype, dict(group.params)
        self.buckets: dict[tuple[int, int], list[Piece]] = {}
        for piece in pieces(group):
            self.buckets.setdefault((piece.rows, piece.param.size(1)), []).append(piece)
        self.buffers = {
            shape: torch.zeros(len(bucket), *shape, device=bucket[0].param.device)
            for shape, bucket in self.buckets.items()
        }

    @torch.no_grad()
    def step(self, lr_mult: float, momentum: float, weight_decay: float) -> None:
        """Update every matrix: p <- p - lr * sqrt(max(1, M/N)) * (orthogonal step + weight_decay * p)."""
        for shape, bucket in self.buckets.items():
            grad_KMN = torch.stack([piece.of(_grad(piece.param)) for piece in bucket])
            buffer_KMN = self.buffers[shape].lerp_(grad_KMN, 1 - momentum)
            update_KMN = orthogonalize(grad_KMN.lerp_(buffer_KMN, momentum), self.dtype)
            rate = self.lr * lr_mult * max(1.0, shape[0] / shape[1]) ** 0.5
            for piece, update_MN in zip(bucket, update_KMN.float(), strict=True):
                weight = piece.of(piece.param)
                if weight_decay:
                    weight.mul_(1 - rate * weight_decay)
                weight.add_(update_MN, alpha=-rate)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the momentum of each parameter, in the parameter's shape."""
        state = {name: torch.empty_like(param, dtype=torch.float32) for name, param in self.params.items()}
        for shape, bucket in self.buckets.items():
            for piece, buffer in zip(bucket, self.buffers[shape], strict=True):
                piece.of(state[piece.name]).copy_(buffer)
        return {f"{name}.momentum": tensor.detach() for name, tensor in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for shape, bucket in self.buckets.items():
            for piece, buffer in zip(bucket, self.buffers[shape], strict=True):
                buffer.copy_(piece.of(state[f"{piece.name}.momentum"]))


def _grad(param: Tensor) -> Tensor:
    if param.grad is None:
        raise ValueError("a matrix has no gradient: run backward before the step")
    return param.grad
