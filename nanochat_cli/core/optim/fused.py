"""Muon's update of a stack of matrices as one compiled function, for GPUs.

Run operator by operator it goes through memory some thirty times; compiled, what stands between the matrix products
becomes a few kernels. Numbers that change from step to step enter as 0-d tensors: as plain numbers each new learning
rate would be another function to compile.

Tensor suffixes: K matrices of one shape, M rows, N columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanochat_cli.core.optim.muon import Variant, direction

Update = Callable[..., None]


class Fused:
    """Does what `muon.Stack` does eagerly: momentum, direction, decay and the move, in place; equal but for rounding.

    If compiling fails it says so once, and computes the same without.
    """

    def __init__(self, variant: Variant, **options: Any) -> None:
        """`options` go to `torch.compile`."""

        def update(w: Tensor, g: Tensor, m: Tensor, size: Tensor | None, rate: Tensor, mu: Tensor, wd: Tensor) -> None:
            move(w, g, m, size, rate, mu, wd, variant)

        self._eager: Update = update
        self._call: Update = torch.compile(update, dynamic=False, **options)

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
    ) -> None:
        """Move weights, momentum and NorMuon's sizes; the gradient is left as it is."""
        numbers = [torch.tensor(number, dtype=torch.float32) for number in (rate, momentum, decay)]
        try:
            self._call(weight_KMN, grad_KMN, momentum_KMN, size, *numbers)
        except torch.OutOfMemoryError:
            raise
        except Exception as problem:
            if self._call is self._eager:
                raise
            said = (str(problem).strip().splitlines() or [""])[0][:200]
            warnings.warn(f"compiling Muon failed, it goes on without: {type(problem).__name__}: {said}", stacklevel=2)
            self._call = self._eager
            self._eager(weight_KMN, grad_KMN, momentum_KMN, size, *numbers)


def move(
    weight_KMN: Tensor,
    grad_KMN: Tensor,
    momentum_KMN: Tensor,
    size: Tensor | None,
    rate: Tensor,
    momentum: Tensor,
    decay: Tensor,
    variant: Variant,
) -> None:
    """Make one update by the formulas of `muon`, without a branch on any number that changes."""
    momentum_KMN.add_((grad_KMN - momentum_KMN) * (1 - momentum))
    step_KMN = direction(grad_KMN + (momentum_KMN - grad_KMN) * momentum, size, variant)
    pull_KMN = weight_KMN * (step_KMN * weight_KMN >= 0) if variant.cautious else weight_KMN
    weight_KMN.sub_((step_KMN + pull_KMN * decay) * rate)
