"""The gradient of a global batch: exact, however the batch was cut, and read from the device once.

Tensor suffixes: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nanochat_cli.core import heartbeat
from nanochat_cli.core.data.loader import count_targets
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.train import device_batch

Micro = Sequence[Tensor]
"""x_BT and y_BT int64 (y -1 = no target), and optionally w_BT, a weight on each target's loss."""
Losses = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Gradient:
    """What the gradients in `.grad` stand for: the mean loss over `targets`, found by reading `tokens` positions.

    `flags` are the sums, over all processes, of the numbers that each could send along; `parts` holds this process's
    summed losses by number of micro-batch.
    """

    loss: float
    targets: int
    tokens: int
    flags: tuple[int, ...] = ()
    parts: Sequence[tuple[int, Tensor]] = field(default=(), compare=False)


def accumulate(losses: Losses, params: Sequence[nn.Parameter], micros: Sequence[Micro], dist: Dist) -> Gradient:
    """Leave this rank's part of the gradient of the global batch's mean loss in `.grad`; return what that stands for.

    The optimizer adds the parts up. `micros` is this rank's share; a share, or a whole batch, without any target is
    safe (and gives no gradient). Raises DoesNotFit, on every rank, if one of them runs out of memory.
    """
    return backward(losses, params, micros, dist).read()[0]


@dataclass(frozen=True)
class Pending:
    """A gradient whose figures may still be on a device: reading them waits for it, so they are read once, together."""

    params: Sequence[nn.Parameter]
    sums: Tensor
    """Over all ranks, fp64: the loss, and how many of them ran out of memory."""
    counts: list[int] | Tensor
    parts: Sequence[tuple[int, Tensor]]

    @property
    def has_gradient(self) -> bool:
        """Whether `.grad` is set; of several ranks' gradients that is known only later, and they may be zero."""
        return isinstance(self.counts, Tensor) or self.counts[0] > 0

    def read(self, *others: Tensor) -> tuple[Gradient, list[float]]:
        """Return what the gradient stands for, and the values of other 0-d tensors.

        Raises DoesNotFit if another rank ran out of memory, so that the gradient stands for nothing.
        """
        counts, scalars = self.counts, [*self.sums.unbind(), *(other.to(self.sums) for other in others)]
        if isinstance(counts, Tensor):
            scalars += counts.to(self.sums).unbind()
        loss_sum, short, *values = torch.stack(scalars).tolist()
        if short:
            raise device_batch.DoesNotFit("a process is out of memory")
        whole = counts if isinstance(counts, list) else [int(value) for value in values[len(others) :]]
        targets, tokens, *flags = whole
        if not targets:
            for param in self.params:
                param.grad = None
        found = Gradient(loss_sum / max(1, targets), targets, tokens, tuple(flags), self.parts)
        return found, values[: len(others)]


def backward(
    losses: Losses,
    params: Sequence[nn.Parameter],
    micros: Sequence[Micro],
    dist: Dist,
    *,
    flags: Sequence[int] = (),
    scale: float = 1.0,
) -> Pending:
    """Do what `accumulate` does, times `scale`, without waiting for the device."""
    found = [count_targets(micro) for micro in micros]
    counts = _over_all([sum(found), sum(micro[0].numel() for micro in micros), *flags], dist)
    parts: list[tuple[int, Tensor]] = []
    full = False
    try:
        for number, (micro, targets) in enumerate(zip(micros, found, strict=True)):
            heartbeat.alive()
            if targets:
                parts.append((number, _backward(losses, micro, counts[0], scale, dist.device)))
    except Exception as problem:
        if not device_batch.is_oom(problem):
            raise
        if dist.world == 1:
            raise device_batch.DoesNotFit(str(problem).partition("\n")[0] or type(problem).__name__) from None
        full = True
    if full:  # the others learn of it with the sums: until then this rank takes part, with nothing
        parts.clear()
        for param in params:
            param.grad = None
        device_batch.release(dist.device)
    if dist.world > 1:
        for param in params:  # a rank without rows takes part in the sum all the same
            if param.grad is None:
                param.grad = torch.zeros_like(param)
    zero = torch.zeros((), dtype=torch.float64, device=dist.device)
    total = torch.stack([zero, *(loss.double() for _, loss in parts)]).sum()
    return Pending(params, dist.all_reduce_sum(torch.stack([total, zero + float(full)])), counts, parts)


def _backward(losses: Losses, micro: Micro, count: int | Tensor, scale: float, device: torch.device) -> Tensor:
    """Add one micro-batch's share to the gradients and return its summed loss."""
    x_BT, y_BT, *weight = micro
    loss_BT = losses(x_BT.to(device), y_BT.to(device))
    if weight:
        loss_BT = loss_BT * weight[0].to(device)
    loss = loss_BT.sum()
    (loss / count * scale).backward()
    return loss.detach()


def _over_all(mine: list[int], dist: Dist) -> list[int] | Tensor:
    """Sums over all ranks; int64 on the device if there are several ranks, since reading them would wait for it."""
    if dist.world == 1:
        return mine
    return dist.all_reduce_sum(torch.stack([torch.full((), number, device=dist.device) for number in mine]))
