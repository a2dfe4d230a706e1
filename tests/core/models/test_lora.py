"""Adapters and frozen layers, against the definition and against autograd."""

from __future__ import annotations

import pytest
import torch

from nanochat_cli.core import optim
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.models import freezing, lora
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.settings import OptimSection
from nanochat_cli.core.train import tuning

T = 16


def model_of(arch: str = "nanochat", depth: int = 3) -> LanguageModel:
    model = build(from_depth(depth, 300, T, n_embd=32, n_head=2, arch=arch), seed=1)
    with torch.no_grad():
        for param in model.parameters():  # no part of it may be zero, or frozen would look like trained
            param.add_(0.02 * torch.randn(param.shape, generator=torch.Generator().manual_seed(param.numel())))
    return model


def some_loss(model: LanguageModel, seed: int = 0) -> torch.Tensor:
    ids = torch.randint(300, (3, T + 1), generator=torch.Generator().manual_seed(seed))
    return model.losses(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).mean()


def move(model: LanguageModel, steps: int = 3, state: dict[str, torch.Tensor] | None = None) -> optim.MuonAdamW:
    """Train for a few steps and return the optimizer."""
    made = optim.build(tuning.groups(model), OptimSection(), precision="fp32", carried=lora.adapters(model))
    if state is not None:
        made.load_state_dict(state)
    for step in range(steps):
        some_loss(model, step).backward()
        made.step()
        made.zero_grad()
    return made


# ---- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["nanochat", "portable"])
def test_fresh_adapters_change_nothing_and_trained_ones_merge(arch: str) -> None:
    model = model_of(arch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = some_loss(model)
    lora.attach(model, 4)
    assert torch.equal(some_loss(model), loss)
    move(model)
    saved = model.state_dict()
    assert saved.keys() == before.keys()
    changed = {name for name in saved if not torch.equal(saved[name], before[name])}
    assert {"blocks.0.attn.qkv.weight", "blocks.2.mlp.down.weight", "head.weight", "embed.weight"} <= changed
    delta = saved["blocks.1.mlp.up.weight"] - before["blocks.1.mlp.up.weight"]
    assert torch.linalg.matrix_rank(delta, rtol=1e-4) <= 4
    plain = build(model.config, seed=9)
    plain.load_state_dict(saved)
    torch.testing.assert_close(some_loss(plain), some_loss(model), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_definition() -> None:
    model = model_of("portable", depth=1)
    lora.attach(model, 2)
    layer = model.blocks[0].mlp.up  # type: ignore[union-attr]
    adapter = layer.lora
    with torch.no_grad():
        adapter.up_MR.normal_(generator=torch.Generator().manual_seed(3))
    some_loss(model).backward()
    found = [adapter.down_RN.grad.clone(), adapter.up_MR.grad.clone()]
    whole = adapter.merged(layer.weight).detach().requires_grad_(True)
    layer.lora, kept = None, layer.weight
    del layer.weight
    layer.weight = torch.nn.Parameter(whole)
    model.zero_grad()
    some_loss(model).backward()
    grad = layer.weight.grad
    torch.testing.assert_close(found[0], adapter.scale * adapter.up_MR.T @ grad, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(found[1], adapter.scale * grad @ adapter.down_RN.T, rtol=1e-3, atol=1e-7)
    assert kept.grad is None


def test_the_optimizer_knows_the_adapters_and_not_the_matrices() -> None:
    model = model_of()
    lora.attach(model, 4)
    state = move(model, 1).state_dict()
    assert not any(name.startswith("blocks.") for name in state)
    assert "lora.blocks.0.attn.qkv.down_RN" in state and "lora.blocks.0.attn.qkv.down_RN.exp_avg" in state
    assert model.num_params() == model_of().num_params()
    assert model.num_trained() < model.num_params()


def test_going_on_from_saved_tensors_is_going_on_bit_for_bit() -> None:
    straight = model_of()
    lora.attach(straight, 4)
    done = move(straight, 3)
    weights = {name: value.clone() for name, value in straight.state_dict().items()}
    state = {name: value.clone() for name, value in done.state_dict().items()}
    move(straight, 2, state)
    again = model_of()
    lora.attach(again, 4, seed=77)  # what was drawn is replaced
    again.load_state_dict(weights)
    move(again, 2, state)
    for (name, a), b in zip(straight.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_rank_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="large enough for --lora: 32"):
        lora.attach(model_of(), 32)
    model = model_of()
    freezing.freeze(model, 3)
    with pytest.raises(ConfigError, match="no matrix of the trained blocks"):
        lora.attach(model, 2)


# ---- frozen layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_what_is_frozen_stays_and_the_rest_learns_as_it_would(num_layers: int) -> None:
    whole, part = model_of(), model_of()
    some_loss(whole).backward()
    freezing.freeze(part, num_layers)
    some_loss(part).backward()
    grads = dict(whole.named_parameters())
    for name, param in part.named_parameters():
        frozen = not name.startswith(("head.", "backout_scale", *(f"blocks.{i}." for i in range(num_layers, 3))))
        assert param.requires_grad != frozen, name
        if frozen:
            assert param.grad is None
        else:
            torch.testing.assert_close(param.grad, grads[name].grad, rtol=1e-5, atol=1e-8)
    before = {name: value.clone() for name, value in part.state_dict().items()}
    part.zero_grad()
    state = move(part, 2).state_dict()
    trained = {name for name, param in part.named_parameters() if param.requires_grad}
    for name, value in part.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in trained), name
    assert not any(name.startswith(("embed", "value_embeds")) for name in state)
    assert not any(name.startswith(f"blocks.{i}.") for name in state for i in range(num_layers))


def test_nothing_is_kept_for_a_backward_pass_through_frozen_blocks() -> None:
    model = model_of()
    freezing.freeze(model, 2)
    below: list[bool] = []
    model.blocks[1].register_forward_hook(lambda block, inputs, output: below.append(output.requires_grad))
    some_loss(model)
    assert below == [False]


def test_more_blocks_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"than the model has \(3\): 4"):
        freezing.freeze(model_of(), 4)


def test_frozen_below_and_adapted_above() -> None:
    model = model_of()
    freezing.freeze(model, 2)
    lora.attach(model, 4)
    assert {name.split(".")[2] for name in lora.adapters(model)} == {"2"}
    trained = {name for name, param in model.named_parameters() if param.requires_grad}
    assert all(".lora." in name or name in ("head.weight", "backout_scale") for name in trained)
