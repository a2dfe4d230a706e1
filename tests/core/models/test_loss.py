"""The fused loss against torch's own, its gradients, and targets that do not count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nanochat_cli.core.models import loss
from nanochat_cli.core.models.loss import softcapped_cross_entropy


def reference(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, cap: float) -> torch.Tensor:
    logits = cap * torch.tanh(x @ weight.T / cap)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1, reduction="none").view_as(target)


@pytest.mark.parametrize("cap", [5.0, 15.0, 60.0])
@pytest.mark.parametrize("chunk_bytes", [1 << 19, 97 * 4 * 5], ids=["one chunk", "many chunks"])
def test_equals_cross_entropy_with_gradients(cap: float, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk_bytes)
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 11, 16, generator=g, dtype=torch.float64) * 4).requires_grad_()
    weight = torch.randn(97, 16, generator=g, dtype=torch.float64).requires_grad_()
    target = torch.randint(97, (3, 11), generator=g)
    target[1, 4:] = -1
    mix = torch.rand(3, 11, generator=g, dtype=torch.float64)
    found = softcapped_cross_entropy(x, weight, target, cap)
    want = reference(x, weight, target, cap)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), want, atol=2e-5, rtol=1e-5)
    assert not found[1, 4:].any()
    for got, ref in zip(
        torch.autograd.grad((found * mix).sum(), (x, weight)),
        torch.autograd.grad((want * mix).sum(), (x, weight)),
        strict=True,
    ):
        assert torch.allclose(got, ref, atol=1e-5 * float(ref.abs().max()))


def test_extreme_scores_stay_finite() -> None:
    x = torch.tensor([[[1e4], [-1e4], [0.0]]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    found = softcapped_cross_entropy(x, weight, torch.tensor([[1, 1, 2]]), 60.0)
    found.sum().backward()
    assert torch.allclose(found, torch.tensor([[120.0 + 0.6931472, 0.0, 1.0986123]]), atol=1e-3)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_row_without_targets_has_no_gradient() -> None:
    x, weight = torch.randn(1, 4, 8, requires_grad=True), torch.randn(9, 8, requires_grad=True)
    softcapped_cross_entropy(x, weight, torch.full((1, 4), -1), 15.0).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


def test_bf16_is_close_to_fp32() -> None:
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 32, 64, generator=g), torch.randn(512, 64, generator=g) * 0.1
    target = torch.randint(512, (4, 32), generator=g)
    low = softcapped_cross_entropy(x.bfloat16(), weight, target, 15.0)
    assert torch.allclose(low, softcapped_cross_entropy(x, weight, target, 15.0), atol=0.03)


def test_a_cap_that_could_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match="61"):
        softcapped_cross_entropy(torch.zeros(1, 1, 2), torch.zeros(3, 2), torch.zeros(1, 1, dtype=torch.int64), 61.0)
