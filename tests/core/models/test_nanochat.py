"""The modern architecture against a plain transcription of its formulas, its starting state, and its decode cache."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.nanochat import Nanochat
from tests.core import reference

V = 61
PARTS: dict[str, Any] = {
    "arch": "nanochat",
    "n_layer": 5,  # windows S S S L S, of which the last reaches all the same
    "rope_base": 100_000.0,
    "window_pattern": "SSSL",
    "short_window": 3,
    "qk_scale": 1.2,
    "value_embeds_every": 2,
    "smear": True,
    "residual_scalars": True,
    "backout": True,
    "vocab_multiple": 64,
}
WITHOUT: dict[str, dict[str, Any]] = {
    "all parts": {},
    "no windows": {"window_pattern": "L", "short_window": 0},
    "no qk scale": {"qk_scale": 1.0},
    "no value embeddings": {"value_embeds_every": 0},
    "no smear": {"smear": False},
    "no residual scalars": {"residual_scalars": False},
    "no backout": {"backout": False},
    "no padded rows": {"vocab_multiple": 1},
    "shared heads": {"n_kv_head": 2},
    "even depth": {"n_layer": 4},
    "one layer": {"n_layer": 1},
    "value embeddings on every layer": {"value_embeds_every": 1},
    "no part at all": {
        "window_pattern": "L",
        "short_window": 0,
        "qk_scale": 1.0,
        "value_embeds_every": 0,
        "smear": False,
        "residual_scalars": False,
        "backout": False,
        "vocab_multiple": 1,
    },
}


def in_fp64(make_model: Any, **changes: Any) -> LanguageModel:
    """A model with drawn weights in fp64, angles included."""
    model = make_model(torch.float64, **{**PARTS, **changes})
    model.rotary.cos_SD, model.rotary.sin_SD = model.rotary.cos_SD[:0], model.rotary.sin_SD[:0]
    model.rotary.grow(64)
    return model


def some_ids(rows: int = 2, tokens: int = 11, seed: int = 0) -> Tensor:
    return torch.randint(V, (rows, tokens), generator=torch.Generator().manual_seed(seed))


# ---- the function ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", WITHOUT.values(), ids=WITHOUT.keys())
def test_output_loss_and_gradients_equal_a_plain_transcription(make_model, changes: dict[str, Any]) -> None:
    model = in_fp64(make_model, **changes)
    config, weights = model.config, dict(model.named_parameters())
    ids, targets = some_ids(), some_ids(seed=1)
    targets[0, 4] = -1
    want = torch.stack([reference.hidden(config, weights, row) for row in ids.tolist()])
    assert torch.allclose(model.hidden(ids), want, rtol=0, atol=1e-9)
    rows = zip(ids.tolist(), targets.clamp(min=0).tolist(), strict=True)
    loss = torch.stack([reference.losses(config, weights, x, y) for x, y in rows]) * (targets >= 0)
    assert torch.allclose(model.losses(ids, targets), loss, rtol=0, atol=1e-9)
    assert loss.detach().std() > 0.5, "a test on even scores would prove nothing"
    exact = torch.autograd.grad(loss.sum(), list(weights.values()))
    found = torch.autograd.grad(model.losses(ids, targets).sum(), list(weights.values()))
    for name, mine, right in zip(weights, found, exact, strict=True):
        assert torch.allclose(mine, right, rtol=1e-8, atol=1e-9), name
        assert right.any(), f"no gradient reaches {name}"


def test_logits_equal_it_too_in_either_form_of_attention(make_model) -> None:
    model = in_fp64(make_model)
    ids = some_ids()
    want = torch.stack([reference.logits(model.config, dict(model.named_parameters()), row) for row in ids.tolist()])
    for form in ("fused", "matmul"):
        model.set_attention(form)
        assert torch.allclose(model(ids).double(), want, atol=1e-5), form


@pytest.mark.parametrize("part", ["no windows", "no qk scale", "no residual scalars", "no smear", "no backout"])
def test_each_part_changes_the_outcome(make_model, part: str) -> None:
    """With the same weights otherwise: a part that does nothing would pass every comparison with itself off."""
    whole, less = in_fp64(make_model), in_fp64(make_model, **WITHOUT[part])
    less.load_state_dict(whole.state_dict(), strict=False)
    assert (whole(some_ids()) - less(some_ids())).abs().max() > 0.05


@pytest.mark.parametrize("form", ["fused", "matmul"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_later_tokens_do_not_change_earlier_scores(make_model, form: str, precision: str) -> None:
    model = make_model(**PARTS)
    model.set_attention(form)
    model.set_precision(precision)
    ids = some_ids(tokens=24)
    for t in (1, 11, 23):
        changed = ids.clone()
        changed[:, t:] = (changed[:, t:] + 7) % V
        one, other = model(ids), model(changed)
        assert torch.equal(one[:, :t], other[:, :t])
        assert not torch.equal(one[:, t:], other[:, t:])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
@pytest.mark.parametrize("form", ["fused", "matmul"])
def test_low_precision_stays_close(make_model, precision: str, tolerance: float, form: str) -> None:
    """bf16 keeps 8 bits; on weights this large its mean error stays below 5 % of the scores' spread."""
    exact, model = in_fp64(make_model), make_model(**PARTS)
    model.load_state_dict(exact.state_dict())
    model.set_precision(precision)
    model.set_attention(form)
    ids = some_ids(rows=4, tokens=24)
    want, found = exact(ids), model(ids)
    assert found.dtype == torch.float32
    assert (found - want).abs().mean() < tolerance * want.std()


@pytest.mark.parametrize("n_kv_head", [4, 2])
def test_fused_and_matmul_attention_give_one_gradient(make_model, n_kv_head: int) -> None:
    grads = []
    for form in ("fused", "matmul"):
        model = make_model(**PARTS, n_kv_head=n_kv_head)
        model.set_attention(form)
        model.losses(some_ids(tokens=20), some_ids(tokens=20, seed=1)).mean().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name], rtol=1e-4, atol=1e-5 * float(grad.abs().max())), name


def test_rows_beyond_the_vocabulary_neither_speak_nor_learn(make_model) -> None:
    model = make_model(**PARTS)
    assert model.config.padded_vocab_size == 64 == len(model.embed.weight) == len(model.head.weight)
    ids, targets = some_ids(), some_ids(seed=1)
    before = model(ids), model.losses(ids, targets).detach()
    assert before[0].size(-1) == V
    model.losses(ids, targets).mean().backward()
    tables = [model.embed.weight, model.head.weight, *(t.weight for t in model.value_embeds.values())]
    for table in tables:
        assert table.grad is not None and table.grad[:V].any() and not table.grad[V:].any()
        with torch.no_grad():
            table[V:] = 1e3
    assert torch.equal(model(ids), before[0])
    assert torch.equal(model.losses(ids, targets), before[1])


# ---- the start -------------------------------------------------------------------------------------------------------


def test_it_starts_as_the_recipe_says() -> None:
    config = shape.from_depth(4, 1000, 64, arch="nanochat")
    model = build(config, seed=4)
    weights, bound = model.state_dict(), (3 / 256) ** 0.5
    assert float(weights["embed.weight"].std()) == pytest.approx(0.8, rel=0.02)
    assert float(weights["head.weight"].std()) == pytest.approx(0.001, rel=0.02)
    even = {f"blocks.{i}.attn.qkv.weight": bound for i in range(4)}
    even |= {f"blocks.{i}.mlp.up.weight": 0.4 * bound for i in range(4)}
    even |= {f"value_embeds.{i}.weight": bound for i in (1, 3)}
    for name, most in even.items():
        assert 0.99 * most < float(weights[name].abs().max()) <= most, name
        assert float(weights[name].std()) == pytest.approx(most / 3**0.5, rel=0.02), name
        assert abs(float(weights[name].mean())) < 0.02 * most, name
    for name in ("blocks.1.attn.value_gate.weight", "blocks.3.attn.value_gate.weight", "smear.gate.weight"):
        assert 0 <= float(weights[name].min()) < float(weights[name].max()) <= 0.02, name
        assert float(weights[name].max()) > 0.015, name
    zero = ["smear.scale", *(f"blocks.{i}.{part}.weight" for i in range(4) for part in ("attn.out", "mlp.down"))]
    assert not any(weights[name].any() for name in zero)
    assert weights["residual_scale_L"].tolist() == pytest.approx([1.15 - 0.1 * i / 3 for i in range(4)])
    assert weights["skip_scale_L"].tolist() == pytest.approx([0.2 - 0.15 * i / 3 for i in range(4)])
    assert float(weights["backout_scale"]) == pytest.approx(0.2)
    known = {*even, *zero, "embed.weight", "head.weight", "residual_scale_L", "skip_scale_L", "backout_scale"}
    rest = {name for name, _ in model.named_parameters() if name not in known}
    assert rest == {"blocks.1.attn.value_gate.weight", "blocks.3.attn.value_gate.weight", "smear.gate.weight"}


def test_the_first_loss_is_that_of_guessing() -> None:
    model = build(shape.from_depth(4, 1000, 64, arch="nanochat"), seed=4)
    ids = torch.randint(1000, (4, 64), generator=torch.Generator().manual_seed(0))
    assert float(model.losses(ids, ids.roll(1)).mean().detach()) == pytest.approx(math.log(1000), abs=1e-3)


def test_no_weight_is_left_as_torch_made_it() -> None:
    """A weight that `init_weights` forgets would depend on what was in memory or on torch's own draws."""
    config = shape.from_depth(3, 100, 32, arch="nanochat")
    model = Nanochat(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(math.nan)
        model.init_weights(torch.Generator().manual_seed(0))
    assert [name for name, weight in model.named_parameters() if weight.isnan().any()] == []
    one, two, other = (build(config, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["value_embeds.0.weight"], other["value_embeds.0.weight"])


def test_two_steps_reach_every_weight() -> None:
    """Output projections start at zero, so what lies before them gets its gradient one step later."""
    model = build(shape.from_depth(3, V, 32, arch="nanochat"))
    ids, targets = some_ids(tokens=32), some_ids(tokens=32, seed=1)
    model.losses(ids, targets).mean().backward()
    first = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"head.weight", "embed.weight", "smear.scale", "blocks.0.attn.out.weight"} <= first
    assert "blocks.0.attn.qkv.weight" not in first
    with torch.no_grad():
        for p in model.parameters():
            assert p.grad is not None
            p -= 0.1 * p.grad / p.grad.abs().max().clamp(min=1e-6)
            p.grad = None
    model.losses(ids, targets).mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


# ---- sizes, groups and saved configs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", WITHOUT.values(), ids=WITHOUT.keys())
def test_parameters_are_counted_and_grouped(make_model, changes: dict[str, Any]) -> None:
    model = make_model(**{**PARTS, **changes})
    counts, groups = shape.count_params(model.config), model.param_groups()
    assert model.num_params() == shape.num_params(model.config)
    assert len(groups) == len({group.role for group in groups})
    held = {group.role: sum(p.numel() for p in group.params.values()) for group in groups}
    assert held["matrix"] == counts.matrices
    assert (held["embedding"], held["unembedding"]) == (counts.embedding, counts.head)
    assert held.get("value_embedding", 0) == counts.value_embeds
    assert sum(held.get(role, 0) for role in ("residual", "skip", "gate")) == counts.scalars
    named = [(name, id(p)) for group in groups for name, p in group.params.items()]
    assert sorted(named) == sorted((name, id(p)) for name, p in model.named_parameters())


def test_each_group_has_its_own_rate_betas_and_decay(make_model) -> None:
    groups = {group.role: group for group in make_model(**PARTS).param_groups()}
    found = {r: (g.kind, g.betas, g.decay, g.batch_scaled) for r, g in groups.items()}
    assert found == {
        "matrix": ("muon", (0.8, 0.95), 0.0, True),
        "embedding": ("adamw", (0.8, 0.995), 0.001, True),
        "unembedding": ("adamw", (0.8, 0.96), 0.01, True),
        "value_embedding": ("adamw", (0.8, 0.995), 0.01, True),
        "residual": ("adamw", (0.8, 0.95), 0.05, True),
        "skip": ("adamw", (0.96, 0.95), 0.0, True),
        "gate": ("adamw", (0.8, 0.95), 0.0, False),
    }
    scaled = {role for role, group in groups.items() if group.lr_scale != 1}
    assert scaled == {"embedding", "unembedding", "value_embedding"}
    assert groups["embedding"].lr_scale == pytest.approx((768 / 32) ** 0.5)
    assert groups["matrix"].splits["blocks.4.attn.qkv.weight"] == (32, 32, 32)
    assert set(groups["gate"].params) == {"smear.gate.weight", "smear.scale", "backout_scale"}


def test_a_saved_config_comes_back_and_an_old_one_has_no_parts() -> None:
    config = shape.from_depth(6, 1000, 512, arch="nanochat", n_kv_head=1, short_window=100)
    saved = dataclasses.asdict(config)
    assert shape.ModelConfig.from_dict(saved) == config
    old = {"arch": "portable", "n_layer": 2, "n_head": 2, "n_kv_head": 2, "n_embd": 32, "vocab_size": V}
    old |= {"max_seq_len": 24, "rope_base": 10000.0, "softcap": 15.0, "norm_eps": 1e-6}
    for arch in ("portable", "nanochat"):
        loaded = shape.ModelConfig.from_dict({**old, "arch": arch})
        assert [loaded.window(layer) for layer in range(2)] == [None, None]
        assert (loaded.qk_scale, loaded.value_embeds_every, loaded.padded_vocab_size) == (1.0, 0, V)
        assert not (loaded.smear or loaded.residual_scalars or loaded.backout)


def test_without_its_parts_it_is_the_portable_model(make_model) -> None:
    """So a checkpoint from before the parts, given neutral values, means what it meant."""
    plain = make_model(arch="portable", n_layer=3)
    bare = make_model(**{**PARTS, **WITHOUT["no part at all"], "n_layer": 3, "rope_base": 10000.0})
    bare.load_state_dict(plain.state_dict())
    assert torch.equal(plain(some_ids()), bare(some_ids()))
    parts = {"n_layer": 3, "rope_base": 10000.0, "smear": True}
    neutral = make_model(**{**PARTS, **WITHOUT["no part at all"], **parts})
    assert set(neutral.state_dict()) - set(plain.state_dict()) == {"smear.gate.weight", "smear.scale"}
    neutral.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        neutral.smear.scale.zero_()
    assert torch.equal(plain(some_ids()), neutral(some_ids()))


def test_portable_refuses_every_part() -> None:
    for name in ("window_pattern", "qk_scale", "value_embeds_every", "smear", "residual_scalars", "backout"):
        short = {"short_window": 4} if name == "window_pattern" else {}
        with pytest.raises(ConfigError, match=f"has no {name}"):
            build(shape.from_depth(2, V, 24, n_embd=32, n_head=2, **{name: PARTS[name]}, **short))


@pytest.mark.parametrize(
    ("depth", "pattern", "windows"),
    [
        (1, "SSSL", [None]),
        (4, "SSSL", [512, 512, 512, None]),
        (6, "SSSL", [512, 512, 512, None, 512, None]),
        (3, "S", [512, 512, None]),
        (3, "L", [None, None, None]),
    ],
)
def test_windows_by_layer(depth: int, pattern: str, windows: list[int | None]) -> None:
    config = shape.from_depth(depth, 1000, 2048, arch="nanochat", window_pattern=pattern)
    assert [config.window(layer) for layer in range(depth)] == windows
    with_values = [layer for layer in range(depth) if config.has_value_embed(layer)]
    assert with_values == [layer for layer in range(depth) if layer % 2 == (depth - 1) % 2]


@pytest.mark.parametrize(("context", "window"), [(64, 64), (512, 128), (513, 256), (1024, 256), (2048, 512)])
def test_a_short_window_is_a_quarter_in_whole_tiles(context: int, window: int) -> None:
    assert shape.quarter_window(context) == window


# ---- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
@pytest.mark.parametrize("cuts", [[20], [9, 11], [7, 1, 12], [1] * 20])
@torch.no_grad()
def test_any_cut_of_a_sequence_gives_the_full_pass(make_model, n_kv_head: int, cuts: list[int]) -> None:
    """Each cut is a place where smear looks across, where angles go on, and where a window reaches into the cache."""
    model, ids = make_model(**PARTS, n_kv_head=n_kv_head), some_ids(3, 20)
    state = model.new_state(3, 20)
    parts = [model(chunk, state) for chunk in ids.split(cuts, dim=1)]
    assert torch.allclose(torch.cat(parts, 1), model(ids), atol=1e-4)
    assert state.length_B.tolist() == [20, 20, 20]


@torch.no_grad()
def test_right_padded_prompts_go_on_at_their_own_places(make_model) -> None:
    model, ids = make_model(**PARTS, n_kv_head=2), some_ids(4, 20)
    lengths = torch.tensor([5, 9, 1, 2])
    padded = ids[:, :9].clone()
    padded[torch.arange(9) >= lengths[:, None]] = 60
    state = model.new_state(4, 15)
    model(padded, state)
    state.set_lengths(lengths)
    for step in (0, 1, 3):  # one, then two, then one again
        count = 2 if step == 1 else 1
        at = lengths[:, None] + step + torch.arange(count)
        got = model(ids.gather(1, at), state)
        for row, length in enumerate(lengths.tolist()):
            want = model(ids[row : row + 1, : length + step + count])[0, -count:]
            assert torch.allclose(got[row], want, atol=1e-4), (row, step)


@torch.no_grad()
def test_rows_can_be_dropped_repeated_and_then_go_separate_ways(make_model) -> None:
    model, ids = make_model(**PARTS), some_ids(3, 20)
    state = model.new_state(3, 12)
    model(ids[:, :6], state)
    fork = state.select(torch.tensor([2, 0, 2]))
    model(torch.tensor([[1], [2], [3]]), fork)
    got = model(torch.tensor([[4], [5], [6]]), fork)[:, 0]
    for row, (source, one, two) in enumerate([(2, 1, 4), (0, 2, 5), (2, 3, 6)]):
        full = torch.cat((ids[source, :6], torch.tensor([one, two])))[None]
        assert torch.allclose(got[row], model(full)[0, -1], atol=1e-4)
    assert state.length_B.tolist() == [6, 6, 6], "the original is untouched"
    assert torch.allclose(model(ids[:, 6:7], state)[:, 0], model(ids[:, :7])[:, -1], atol=1e-4)


@torch.no_grad()
def test_smear_looks_across_the_border_of_chunks_and_not_before_the_start(make_model) -> None:
    """Only smear can carry a token over here: one layer whose attention sees no token but its own."""
    model = make_model(**{**PARTS, "n_layer": 2, "short_window": 1})
    for block in model.layers():
        block.attn.out.weight.zero_()
    ids = some_ids(1, 6)
    changed = ids.clone()
    changed[0, 2] = (changed[0, 2] + 1) % V
    found = []
    for tokens in (ids, changed):
        state = model.new_state(1, 6)
        model(tokens[:, :3], state)
        found.append(model(tokens[:, 3:], state))
    assert not torch.allclose(found[0][:, 0], found[1][:, 0], atol=1e-3), "the token before the border"
    assert torch.equal(found[0][:, 1:], found[1][:, 1:]), "and no other"
    one = model(ids[:, :1])
    ahead = model.new_state(2, 6)
    model(some_ids(2, 3), ahead)
    ahead.set_lengths(torch.zeros(2, dtype=torch.int64))  # rows that begin anew have nothing before them
    assert torch.allclose(model(ids[:, :1].expand(2, 1), ahead), one.expand(2, 1, V), atol=1e-5)


@torch.no_grad()
def test_a_window_forgets_while_decoding(make_model) -> None:
    """All layers short but the last, whose attention is cut: token 0 may be seen by 3 more than the window's 3."""
    model = make_model(**{**PARTS, "n_layer": 2, "window_pattern": "S", "smear": False})
    model.layers()[1].attn.out.weight.zero_()
    ids = some_ids(1, 12)
    changed = ids.clone()
    changed[0, 0] = (changed[0, 0] + 1) % V
    seen = []
    for tokens in (ids, changed):
        state = model.new_state(1, 12)
        seen.append(torch.cat([model(tokens[:, t : t + 1], state) for t in range(12)], 1))
    differs = [not torch.equal(seen[0][0, t], seen[1][0, t]) for t in range(12)]
    assert differs == [True] * 4 + [False] * 8


@torch.no_grad()
def test_a_state_keeps_the_precision_of_the_model(make_model) -> None:
    model = make_model(**PARTS)
    model.set_precision("bf16")
    ids = some_ids(2, 12)
    state = model.new_state(2, 12)
    assert state.k_LBKSD.dtype == torch.bfloat16
    parts = torch.cat([model(chunk, state) for chunk in ids.split([7, 1, 4], dim=1)], 1)
    full = model(ids)
    assert parts.dtype == torch.float32
    assert (parts - full).abs().mean() < 0.03 * full.std()
