"""The portable architecture against an independent naive transcription, and its starting state."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_cli.core import models, registry
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build


def naive_logits(model: LanguageModel, ids: list[int]) -> Tensor:
    """One sequence, one head and one query at a time, with complex numbers for the rotation."""
    cfg, w = model.config, dict(model.named_parameters())
    d, t = cfg.head_dim, len(ids)

    def unit(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + cfg.norm_eps).sqrt()

    def turn(x_TD: Tensor) -> Tensor:
        pairs = torch.complex(x_TD[:, : d // 2], x_TD[:, d // 2 :])
        angle = torch.tensor([[-p * cfg.rope_base ** (-2 * i / d) for i in range(d // 2)] for p in range(t)]).to(x_TD)
        turned = pairs * torch.polar(torch.ones_like(angle), angle)
        return torch.cat((turned.real, turned.imag), -1)

    x = unit(w["embed.weight"][ids])
    for layer in range(cfg.n_layer):
        name = f"blocks.{layer}"
        q, k, v = (unit(x) @ w[f"{name}.attn.qkv.weight"].T).split((cfg.n_head * d, *[cfg.n_kv_head * d] * 2), -1)
        heads = []
        for h in range(cfg.n_head):
            kv = h // (cfg.n_head // cfg.n_kv_head)
            qh, kh, vh = (y[:, i * d : (i + 1) * d] for y, i in ((q, h), (k, kv), (v, kv)))
            qh, kh = unit(turn(qh)), unit(turn(kh))
            rows = [((kh[: i + 1] @ qh[i]) / math.sqrt(d)).softmax(0) @ vh[: i + 1] for i in range(t)]
            heads.append(torch.stack(rows))
        x = x + torch.cat(heads, -1) @ w[f"{name}.attn.out.weight"].T
        x = x + F.relu(unit(x) @ w[f"{name}.mlp.up.weight"].T) ** 2 @ w[f"{name}.mlp.down.weight"].T
    logits = unit(x) @ w["head.weight"].T
    return cfg.softcap * torch.tanh(logits / cfg.softcap)


@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
@pytest.mark.parametrize("form", ["fused", "matmul"])
def test_equals_a_naive_transcription(make_model, n_kv_head: int, form: str) -> None:
    model = make_model(torch.float64, n_kv_head=n_kv_head)
    model.set_attention(form)
    idx = torch.randint(61, (2, 17), generator=torch.Generator().manual_seed(0))
    want = torch.stack([naive_logits(model, row) for row in idx.tolist()])
    assert torch.allclose(model(idx).double(), want, atol=1e-5)
    assert want.abs().max() > 1, "a test on near-zero scores would prove nothing"


@pytest.mark.parametrize("form", ["fused", "matmul"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_later_tokens_do_not_change_earlier_scores(make_model, form: str, precision: str) -> None:
    model = make_model()
    model.set_attention(form)
    model.set_precision(precision)
    idx = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(0))
    for t in (1, 11, 23):
        changed = idx.clone()
        changed[:, t:] = (changed[:, t:] + 7) % 61
        one, other = model(idx), model(changed)
        assert torch.equal(one[:, :t], other[:, :t])
        assert not torch.equal(one[:, t:], other[:, t:])


def test_starts_as_ln_v_with_zero_outputs() -> None:
    model = build(shape.from_depth(3, 100, 16), seed=4)
    idx = torch.randint(100, (2, 16), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.losses(idx, idx), torch.tensor(math.log(100)), atol=1e-5)
    weights = model.state_dict()
    for name in ("head.weight", "blocks.2.attn.out.weight", "blocks.0.mlp.down.weight"):
        assert not weights[name].any(), name
    assert float(weights["embed.weight"].std()) == pytest.approx(1.0, rel=0.02)
    assert float(weights["blocks.1.mlp.up.weight"].std()) == pytest.approx(192**-0.5, rel=0.02)
    assert float(weights["blocks.1.attn.qkv.weight"].std()) == pytest.approx(192**-0.5, rel=0.02)
    assert model.num_params() == shape.num_params(model.config)


@pytest.mark.parametrize("depth", [1, 2, 5, 7, 9])
def test_any_depth_trains_a_step(depth: int) -> None:
    model = build(shape.from_depth(depth, 50, 8))
    model.losses(torch.zeros(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64)).sum().backward()
    assert model.num_params() == shape.num_params(model.config)
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.any()


def test_same_seed_same_weights_and_the_global_state_is_untouched() -> None:
    config = shape.from_depth(2, 50, 8)
    before = torch.get_rng_state()
    one, two, other = build(config, seed=1), build(config, seed=1), build(config, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed.weight, other.embed.weight)


def test_logits_are_capped_and_fp32(make_model) -> None:
    model = make_model(softcap=3.0)
    model.set_precision("bf16")
    logits = model(torch.arange(20)[None])
    assert logits.dtype == torch.float32
    assert 2.0 < logits.abs().max() <= 3.0


def test_every_parameter_is_in_one_group_and_qkv_is_three_matrices(make_model) -> None:
    model = make_model(n_kv_head=2)
    groups = model.param_groups()
    names = [name for group in groups for name in group.params]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert {g.role: g.kind for g in groups} == {"matrix": "muon", "embedding": "adamw", "unembedding": "adamw"}
    assert groups[0].splits["blocks.1.attn.qkv.weight"] == (32, 16, 16)
    assert groups[1].lr_scale == pytest.approx((32 / 768) ** -0.5)


def test_architectures_are_found_by_file_name() -> None:
    assert "portable" in registry.names(models)
    with pytest.raises(ConfigError, match="portabel"):
        build(shape.from_depth(1, 50, 8, arch="portabel"))
