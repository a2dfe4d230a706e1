"""Muon: momentum whose matrices are made orthogonal before they are applied.

Tensor suffixes: K matrices of one shape, M rows, N columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nanochat_cli.core.dist import Coming, Dist
from nanochat_cli.core.optim.groups import ParamGroup
from nanochat_cli.core.slices import Slice

# Five odd polynomials whose composition lifts singular values in [1e-3, 1] to about 1 (Polar Express,
# arXiv 2505.16932, degree 5).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# The same one five times: values end between 0.7 and 1.2 (K. Jordan, 2024).
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5
SAFETY = 1.01
"""Keeps the largest singular value below 1, where the polynomials hold, when the norm was computed in low precision."""
_LEAST_ROW, _LEAST_SIZE = 1e-6, 1e-10


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Which refinements of Muon are used; without any of them it is the plain one."""

    eq: bool = False
    """Bring all rows of a gradient to one norm before it is made orthogonal (MuonEq)."""
    plus: bool = False
    """Bring each update to the Frobenius norm of an orthogonal matrix (Muon+)."""
    beta2: float | None = None
    """Divide by the running root mean square of rows, or columns of wide matrices (NorMuon, arXiv 2510.05491)."""
    cautious: bool = False
    """Decay only the weights that the update makes smaller, too (arXiv 2411.16085)."""
    coefficients: tuple[tuple[float, float, float], ...] = POLAR_EXPRESS
    dtype: torch.dtype = torch.bfloat16
    """Of the matrix products."""


def orthogonalize(
    g_KMN: Tensor,
    dtype: torch.dtype = torch.bfloat16,
    coefficients: tuple[tuple[float, float, float], ...] = POLAR_EXPRESS,
) -> Tensor:
    """Return, for each matrix, about U V^T of its singular value decomposition U S V^T, in the given dtype.

    Singular values above a thousandth of the Frobenius norm end near 1. Odd matrix polynomials need only products:
    X <- aX + (bA + cA^2)X with A = XX^T, on the smaller side. Source: Muon (K. Jordan, 2024), arXiv 2505.16932.
    """
    tall = g_KMN.size(1) > g_KMN.size(2)
    x = g_KMN.mT if tall else g_KMN
    x = (x / (x.norm(dim=(1, 2), keepdim=True) * SAFETY + 1e-6)).to(dtype)
    for a, b, c in coefficients:
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x.mT if tall else x


def direction(grad_KMN: Tensor, size: Tensor | None, variant: Variant) -> Tensor:
    """Return the orthogonal steps of a stack of gradients (momentum included), fp32.

    `size` is NorMuon's running mean square, KM1 or K1N, and moves.
    """
    num_rows, num_columns = grad_KMN.shape[1:]
    if variant.eq:
        row_KM1 = grad_KMN.norm(dim=2, keepdim=True)
        mean_K11 = row_KM1.norm(dim=1, keepdim=True) / num_rows**0.5
        grad_KMN = grad_KMN * (mean_K11 / row_KM1.clamp(min=_LEAST_ROW))
    step_KMN = orthogonalize(grad_KMN, variant.dtype, variant.coefficients).float()
    norm_K11 = step_KMN.norm(dim=(1, 2), keepdim=True)
    if variant.plus:
        wanted = min(num_rows, num_columns) ** 0.5
        step_KMN = step_KMN * (wanted / norm_K11.clamp(min=_LEAST_ROW))
        norm_K11 = step_KMN.norm(dim=(1, 2), keepdim=True)
    if size is not None and variant.beta2 is not None:
        mean = step_KMN.square().mean(dim=2 if num_rows >= num_columns else 1, keepdim=True)
        size.lerp_(mean, 1 - variant.beta2)
        step_KMN = step_KMN * size.clamp(min=_LEAST_SIZE).rsqrt()
        step_KMN = step_KMN * (norm_K11 / step_KMN.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST_ROW))
    return step_KMN


def apply(weight_KMN: Tensor, step_KMN: Tensor, rate: float, decay: float, cautious: bool) -> None:
    """Move weights in place: p <- p - rate * (step + decay * p), the decay only where step * p >= 0 if cautious."""
    if decay:
        pull = weight_KMN * (step_KMN * weight_KMN >= 0) if cautious else weight_KMN
        step_KMN = step_KMN.add(pull, alpha=decay)
    weight_KMN.add_(step_KMN, alpha=-rate)


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


class Update(Protocol):
    """A whole update of a stack in one call, see `fused.Fused`."""

    def __call__(
        self,
        weight_KMN: Tensor,
        grad_KMN: Tensor,
        momentum_KMN: Tensor,
        size: Tensor | None,
        *,
        rate: float,
        momentum: float,
        decay: float,
    ) -> None: ...


class Stack:
    """Matrices of one shape, updated together; over several processes each owns an equal share of them.

    The stack is filled up with zero matrices to a multiple of the processes, so that any number of either will do.
    """

    def __init__(self, members: list[Piece], dist: Dist, beta2: float | None) -> None:
        self.members, self.dist = members, dist
        num_rows, num_columns = members[0].rows, members[0].param.size(1)
        self.share = -(-len(members) // dist.world)
        device = members[0].param.device
        self.momentum = torch.zeros(self.share, num_rows, num_columns, device=device)
        self.size: Tensor | None = None
        if beta2 is not None:
            tall = num_rows >= num_columns
            self.size = torch.zeros(self.share, num_rows if tall else 1, 1 if tall else num_columns, device=device)
        self.grad = self.momentum  # of this process's share, once it is collected
        self.rate_scale = max(1.0, num_rows / num_columns) ** 0.5
        self._sum: Coming | None = None
        self._new: Coming | None = None

    def start(self) -> None:
        """Begin to add up gradients over all processes."""
        self._sum = self.dist.start_sum_and_share(
            self._stacked([piece.of(_grad(piece.param)) for piece in self.members])
        )

    def collect(self) -> Tensor:
        """Wait for what was started; keep and return this process's share of the sums."""
        if self._sum is None:
            raise ValueError("nothing was started: call start before collect")
        self.grad, self._sum = self._sum.get(), None
        return self.grad

    def update(self, rate: float, momentum: float, decay: float, variant: Variant, fused: Update | None) -> None:
        """Update this process's share, then hand all shares round; they arrive by `finish`."""
        rate *= self.rate_scale
        if fused is not None:
            mine = self._own([piece.of(piece.param) for piece in self.members])
            fused(mine, self.grad, self.momentum, self.size, rate=rate, momentum=momentum, decay=decay)
            self._new = self.dist.start_gather(mine)
            return
        self.momentum.lerp_(self.grad, 1 - momentum)
        step_KMN = direction(self.grad.lerp_(self.momentum, momentum), self.size, variant)
        if self.dist.world == 1:  # one by one: on a CPU that saves two copies of all weights
            for piece, step_MN in zip(self.members, step_KMN, strict=True):
                apply(piece.of(piece.param), step_MN, rate, decay, variant.cautious)
            return
        mine = self._own([piece.of(piece.param) for piece in self.members])
        apply(mine, step_KMN, rate, decay, variant.cautious)
        self._new = self.dist.start_gather(mine)

    def finish(self) -> None:
        """Take over the new weights, those of other processes among them."""
        if self._new is not None:
            new_KMN = self._new.get()[: len(self.members)]
            torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                [piece.of(piece.param) for piece in self.members], list(new_KMN.unbind())
            )
            self._new = None

    def gathered(self) -> tuple[Tensor, Tensor | None]:
        """Return momentum and sizes of all members, on every process."""
        return self.dist.gather_shares(self.momentum), None if self.size is None else self.dist.gather_shares(self.size)

    def own_slices(self) -> list[Slice]:
        """Return what `gathered` returns, of this process's share."""
        first = self.dist.rank * self.share
        parts = []
        for index, piece in enumerate(self.members[first : first + self.share]):
            begin = piece.start * piece.param[0].numel()
            parts.append(Slice(f"{piece.name}.momentum", self.momentum[index], tuple(piece.param.shape), begin))
            if self.size is not None:
                parts.append(Slice(_size_name(piece), self.size[index], tuple(self.size[index].shape)))
        return parts

    def restore(self, momentum: list[Tensor], sizes: list[Tensor] | None) -> None:
        """Take this process's share of what `gathered` returned, member by member."""
        self.momentum.copy_(self._own([tensor.to(self.momentum) for tensor in momentum]))
        if self.size is not None and sizes is not None:
            self.size.copy_(self._own([tensor.to(self.size) for tensor in sizes]))

    def _stacked(self, tensors: list[Tensor]) -> Tensor:
        missing = self.share * self.dist.world - len(tensors)
        return torch.stack([*tensors, *[torch.zeros_like(tensors[0])] * missing])

    def _own(self, tensors: list[Tensor]) -> Tensor:
        mine = tensors[self.dist.rank * self.share : (self.dist.rank + 1) * self.share]
        return torch.stack([*mine, *[torch.zeros_like(tensors[0])] * (self.share - len(mine))])


class Muon:
    """Muon over one group of matrices; `fused` makes the update of a stack in one call."""

    def __init__(self, group: ParamGroup, lr: float, variant: Variant, dist: Dist, fused: Update | None = None) -> None:
        self.lr, self.variant, self.fused, self.params = lr, variant, fused, dict(group.params)
        by_shape: dict[tuple[int, int], list[Piece]] = {}
        for piece in pieces(group):
            by_shape.setdefault((piece.rows, piece.param.size(1)), []).append(piece)
        self.stacks = [Stack(members, dist, variant.beta2) for members in by_shape.values()]

    @torch.no_grad()
    def start(self) -> None:
        """Begin to add gradients up over all processes."""
        for stack in self.stacks:
            stack.start()

    @torch.no_grad()
    def collect(self) -> list[Tensor]:
        """Wait for the sums and return this process's share of them."""
        return [stack.collect() for stack in self.stacks]

    @torch.no_grad()
    def update(self, lr_mult: float, momentum: float, weight_decay: float) -> None:
        """Move every matrix: p <- p - lr * sqrt(max(1, M/N)) * (orthogonal step + weight_decay * p).

        Each stack is handed round while the next one is computed; all are there after `finish`.
        """
        for stack in self.stacks:
            stack.update(self.lr * lr_mult, momentum, weight_decay, self.variant, self.fused)

    @torch.no_grad()
    def finish(self) -> None:
        """Wait until every process has all new weights."""
        for stack in self.stacks:
            stack.finish()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the momentum of each parameter, in its shape, and NorMuon's sizes. Every process must call it."""
        state = {f"{name}.momentum": torch.empty_like(p, dtype=torch.float32) for name, p in self.params.items()}
        for stack in self.stacks:
            momentum, sizes = stack.gathered()
            for index, piece in enumerate(stack.members):
                piece.of(state[f"{piece.name}.momentum"]).copy_(momentum[index])
                if sizes is not None:
                    state[_size_name(piece)] = sizes[index].clone()
        return {name: tensor.detach() for name, tensor in state.items()}

    def slices(self) -> list[Slice]:
        """Return what `state_dict` returns, as the parts that this process holds."""
        return [part for stack in self.stacks for part in stack.own_slices()]

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned, by any number of processes."""
        for stack in self.stacks:
            momentum = [piece.of(state[f"{piece.name}.momentum"]) for piece in stack.members]
            sizes = [state[_size_name(piece)] for piece in stack.members] if stack.size is not None else None
            stack.restore(momentum, sizes)


def _size_name(piece: Piece) -> str:
    return f"{piece.name}.size.{piece.start}"


def _grad(param: Tensor) -> Tensor:
    if param.grad is None:
        raise ValueError("a matrix has no gradient: run backward before the step")
    return param.grad
