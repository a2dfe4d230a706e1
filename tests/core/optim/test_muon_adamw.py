"""The optimizer as a whole: AdamW equal to torch's, exact restarts, clipping, and that it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanochat_cli.core import optim
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.optim.adamw import AdamW
from nanochat_cli.core.optim.groups import ParamGroup
from nanochat_cli.core.settings import OptimSection

CONFIG = from_depth(2, vocab_size=40, max_seq_len=12, n_embd=32, n_head=2)


def learner(seed: int = 0) -> tuple[LanguageModel, optim.MuonAdamW]:
    model = build(CONFIG, seed=seed)
    return model, optim.build(model.param_groups(), OptimSection(embedding_lr=0.05), precision="fp32")


def rows(step: int) -> torch.Tensor:
    start = torch.randint(40, (4, 1), generator=torch.Generator().manual_seed(step))
    return (start + torch.arange(13)) % 40


def train(model: LanguageModel, optimizer: optim.MuonAdamW, steps: range) -> float:
    loss = torch.zeros(())
    for step in steps:
        ids = rows(step)
        loss = model.losses(ids[:, :-1], ids[:, 1:]).mean()
        loss.backward()
        optimizer.clip(1.0)
        optimizer.step(lr_mult=1 - step / 100, momentum=0.9, weight_decay=0.01)
        optimizer.zero_grad()
    return float(loss.detach())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_adamw_equals_torch() -> None:
    g = torch.Generator().manual_seed(0)
    mine = torch.nn.Parameter(torch.randn(30, 8, generator=g))
    theirs = torch.nn.Parameter(mine.detach().clone())
    ours = AdamW(ParamGroup.of("embedding", {"e": mine}, betas=(0.9, 0.995), decay=0.05), lr=0.1)
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.995), eps=1e-10, weight_decay=0.05)
    for step in range(12):
        mine.grad = torch.randn(30, 8, generator=g)
        theirs.grad = mine.grad.clone()
        for group in reference.param_groups:
            group["lr"] = 0.1 * (1 - step / 20)
        reference.step()
        ours.start()
        ours.collect()
        ours.update(1 - step / 20)
        ours.finish()
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_it_learns() -> None:
    model, optimizer = learner()
    assert train(model, optimizer, range(60)) < 0.5


def test_a_saved_and_restored_state_continues_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = learner()
    train(model, optimizer, range(7))
    save_file(optimizer.state_dict(), tmp_path / "optim.safetensors")
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    train(model, optimizer, range(7, 14))

    other, second = learner(seed=5)
    train(other, second, range(2))  # a state of its own, to be replaced
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    second.load_state_dict(load_file(tmp_path / "optim.safetensors"))
    train(other, second, range(7, 14))
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
    first_state, second_state = optimizer.state_dict(), second.state_dict()
    assert first_state.keys() == second_state.keys()
    assert all(torch.equal(first_state[name], second_state[name]) for name in first_state)


def test_state_names_follow_the_parameters_and_missing_ones_are_errors() -> None:
    model, optimizer = learner()
    train(model, optimizer, range(1))
    state = optimizer.state_dict()
    assert state["blocks.0.attn.qkv.weight.momentum"].shape == model.get_parameter("blocks.0.attn.qkv.weight").shape
    assert {"embed.weight.exp_avg", "head.weight.exp_avg_sq", "head.weight.step"} <= set(state)
    state.pop("blocks.1.mlp.up.weight.momentum")
    with pytest.raises(KeyError, match=r"blocks\.1\.mlp\.up"):
        optimizer.load_state_dict(state)


def test_clipping_is_by_the_global_norm() -> None:
    model, optimizer = learner()
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=g)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    norm = torch.cat([x.flatten() for x in before]).norm()
    assert optimizer.clip(None) == pytest.approx(float(norm), rel=1e-5)
    assert torch.equal(before[0], next(model.parameters()).grad)  # pyright: ignore[reportArgumentType]
    assert optimizer.clip(2.0) == pytest.approx(float(norm), rel=1e-5)
    after = optimizer.collect()
    assert float(torch.cat([x.flatten() for x in after]).norm()) == pytest.approx(2.0, rel=1e-4)
    assert sum(x.numel() for x in after) == model.num_params()
    assert optimizer.clip(1e6) == pytest.approx(2.0, rel=1e-4)
    assert optimizer.clip(None) == pytest.approx(2.0, rel=1e-4)


def test_rates_scale_with_the_width_and_the_multiplier() -> None:
    model, optimizer = learner()
    rates = {name: part.lr for part in optimizer.adamws for name in part.entries}
    assert rates["embed.weight"] == pytest.approx(0.05 * (32 / 768) ** -0.5)
    before = model.embed.weight.detach().clone()
    train_grad = torch.ones_like(before)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    model.embed.weight.grad = train_grad
    optimizer.step(lr_mult=0.25, momentum=0.9, weight_decay=0.0)
    assert torch.allclose(before - model.embed.weight, torch.tensor(0.25 * rates["embed.weight"]), rtol=1e-4)


def test_scalars_of_the_residual_stream_may_have_a_scale_of_their_own() -> None:
    groups = [
        ParamGroup.of("skip", {"s": torch.nn.Parameter(torch.zeros(2))}),
        ParamGroup.of("gate", {"g": torch.nn.Parameter(torch.zeros(2))}, batch_scaled=False),
        ParamGroup.of("embedding", {"e": torch.nn.Parameter(torch.zeros(4, 2))}),
    ]
    cfg = OptimSection(skip_lr=0.5, gate_lr=0.2, embedding_lr=0.3)
    scaled = optim.build(groups, cfg, batch_scale=0.5)
    assert [adamw.lr for adamw in scaled.adamws] == [0.25, 0.2, 0.15]
    alone = optim.build(groups, cfg, batch_scale=1.0, scalar_scale=0.1)
    assert [adamw.lr for adamw in alone.adamws] == pytest.approx([0.05, 0.02, 0.3])
