"""Attention written out query by query in fp64, and packages that pretend to be FlashAttention and compute by it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat_cli.core.models import flash, kernel_check, kernels

CPU = torch.device("cpu")


def oracle(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int | None) -> Tensor:
    """Causal attention, BTHD fp64: each query by itself, over the slice of keys that it sees."""
    q, k, v = (x.double() for x in (q_BTHD, k_BTKD, v_BTKD))
    share = q.size(2) // k.size(2)
    heads = []
    for head in range(q.size(2)):
        rows = []
        for t in range(q.size(1)):
            first = 0 if window is None else max(0, t - window)
            seen_k, seen_v = k[:, first : t + 1, head // share], v[:, first : t + 1, head // share]
            weight = (seen_k @ q[:, t, head, :, None] / q.size(-1) ** 0.5).softmax(1)
            rows.append((weight * seen_v).sum(1))
        heads.append(torch.stack(rows, 1))
    return torch.stack(heads, 2)


def masked(q: Tensor, k: Tensor, v: Tensor, seen_TT: Tensor) -> Tensor:
    """The same by a mask: what the pretended packages compute with."""
    share = q.size(2) // k.size(2)
    k, v = k.repeat_interleave(share, dim=2), v.repeat_interleave(share, dim=2)
    score = torch.einsum("bthd,bshd->bhts", q.float(), k.float()) * q.size(-1) ** -0.5
    weight = score.masked_fill(~seen_TT, float("-inf")).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weight, v.float()).to(q.dtype)


class Flash:
    """A package that pretends to be FlashAttention: remembers how it was called."""

    def __init__(self, *, ahead: int = 0, further: int = 0, pairs: bool = False, says: str | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.ahead, self.further, self.pairs, self.says = ahead, further, pairs, says

    def flash_attn_func(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, window_size: tuple[int, int] = (-1, -1)
    ) -> Any:
        if self.says is not None:
            raise RuntimeError(self.says)
        self.calls.append({"q": q.shape, "k": k.shape, "v": v.shape, "causal": causal, "window_size": window_size})
        position = torch.arange(q.size(1))
        seen = position <= position[:, None] + self.ahead if causal else torch.ones(q.size(1), q.size(1)).bool()
        if window_size[0] >= 0:
            seen &= position >= position[:, None] - window_size[0] - self.further
        y = masked(q, k, v, seen)
        return (y, y.new_zeros(1)) if self.pairs else y


class Gpu:
    """A CPU that passes for a GPU, on which packages can be put."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def be(self, *capability: int) -> None:
        self._patch.setattr(kernels, "capability", lambda device: capability)
        kernel_check.forget()

    def install(self, name: str, package: Flash | None = None) -> Flash:
        """Put a package where a module of that name is looked for."""
        package = package or Flash()
        module = types.ModuleType(name)
        module.flash_attn_func = package.flash_attn_func  # type: ignore[attr-defined]
        self._patch.setitem(sys.modules, name, module)
        kernel_check.forget()
        return package


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A machine with a Hopper GPU, without triton and without torch's own way to FlashAttention."""
    for name in ("flash_attn", "flash_attn.cute", "flash_attn_interface", "flash_attn_3", "cutlass"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(flash, "_varlen", lambda: None)
    monkeypatch.setattr(kernels, "is_there", lambda module: False)
    monkeypatch.setattr(flash, "is_there", lambda module: module in sys.modules)
    found = Gpu(monkeypatch)
    found.be(9, 0)
    yield found
    kernel_check.forget()
