"""Logits are kept where they and their gradient fit, and kept or not the loss is the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nanochat_cli.core import estimate
from nanochat_cli.core.models import loss
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.train import room

D12 = from_depth(12, 32_768, 2048, arch="nanochat")
HOW = {"device_batch_size": 32, "world": 1, "dtype": "bf16", "compiled": True}


def test_kept_only_where_both_fit_beside_the_rest() -> None:
    logits = 32 * 2048 * 32_768 * 2
    assert room.kept_logits_bytes(D12, 140 << 30, **HOW) == logits
    assert room.kept_logits_bytes(D12, 24 << 30, **HOW) is None
    needed = estimate.memory(D12, **HOW).total + 2 * logits
    just = int(needed / (1 - estimate.HEADROOM)) + 2
    assert room.kept_logits_bytes(D12, just, **HOW) == logits
    assert room.kept_logits_bytes(D12, just - (64 << 20), **HOW) is None


def test_a_processor_is_left_as_it_is_and_a_gpu_is_asked_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(from_depth(1, 32, 8, n_embd=16, n_head=2))
    room.use(model, device_batch_size=2, world=1, dtype="bf16", compiled=True)
    assert model.kept_logits_bytes is None
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 << 30))
    room.use(model, device_batch_size=2, world=1, dtype="bf16", compiled=True)
    assert model.kept_logits_bytes == 2 * 8 * 32 * 2


def test_kept_in_several_tensors_or_made_again_the_loss_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(from_depth(1, 40, 16, n_embd=16, n_head=2, arch="nanochat"))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3, generator=torch.Generator().manual_seed(p.numel()))
    ids = torch.randint(40, (3, 17), generator=torch.Generator().manual_seed(0))
    y_BT = ids[:, 1:].clone()
    y_BT[1, 4:9] = -1
    found = []
    for kept, numbers in ((None, 1 << 30), (1 << 30, 7 * 40), (0, 1 << 30)):
        monkeypatch.setattr(loss, "KEPT_NUMBERS", numbers)
        model.kept_logits_bytes = kept
        model.zero_grad(set_to_none=True)
        losses = model.losses(ids[:, :-1], y_BT)
        losses.sum().backward()
        found.append((losses.detach(), {name: p.grad for name, p in model.named_parameters()}))
    for losses, grads in found[1:]:
        assert torch.allclose(losses, found[0][0], atol=1e-5)
        for name, grad in grads.items():
            assert torch.allclose(grad, found[0][1][name], atol=1e-5), name
