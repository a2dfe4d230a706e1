"""The recipes still train as they did: recorded losses of the presets `base` and `seed`, and of the smallest demo.

The recorded numbers of the presets do not come from the code under test: `recorded_by_reference` trains in fp64 with
`tests.core.reference`, a plain transcription of the published formulas, and takes from our own code nothing but the
starting weights. So these tests compare with the formulas, not with our own past. The smoke tier's curve is our own.

To make the numbers anew, after a change of a recipe that is meant: PYTHONPATH=. python tests/core/train/test_parity.py
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nanochat_cli.core import config, optim, planning, scaling
from nanochat_cli.core.data import tinyworld
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.data.packing import pack_documents
from nanochat_cli.core.data.tokens import TokenSplit
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Event, Listener
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.settings import BaseTrainConfig
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import loop, precision, schedule
from tests.core import reference

VOCAB, SEQ_LEN, ROWS, NUM_STEPS, RECORDED = 500, 64, 4, 12, 10
SIZE = ("model.depth=3", "model.n_embd=64", "model.n_head=2", f"model.max_seq_len={SEQ_LEN}")
SHORT = {"base": ("model.short_window=16",), "seed": ()}

PRESET_LOSSES = {
    "base": [
        6.214077020982858,
        6.170577317074345,
        6.083534013586505,
        6.001124280423076,
        5.855998180199849,
        5.765617326566947,
        5.587643511282043,
        5.50606827937401,
        5.564523388624584,
        5.460288841128341,
    ],
    "seed": [
        6.324455313150499,
        6.1289294905171365,
        5.860043310312658,
        5.558378789966646,
        5.208164805053136,
        5.014989415578506,
        4.505974641298731,
        4.313603283334438,
        4.357051440012521,
        3.951934210349062,
    ],
}
SMOKE_LOSSES = {1: 6.238, 10: 3.78, 20: 3.238, 30: 2.701, 40: 2.809, 50: 2.574, 60: 2.43}


def settled(preset: str) -> tuple[BaseTrainConfig, ModelConfig]:
    """The preset at a tiny size, as planning settles it: rates, schedule and decay are its own.

    They are those for the batch that it would choose, though the steps here have fewer tokens.
    """
    sets = [f"recipe.preset={preset}", *SIZE, *SHORT[preset], f"horizon.num_iterations={NUM_STEPS}", "compute.gpus=0"]
    if preset == "base":
        sets.append("optim.batch_scaling=on")  # as on the GPUs that the recipe is for
    cfg = config.resolve(BaseTrainConfig, command="train base", env={}, sets=sets).config
    net = planning.model_shape(cfg, vocab_size=VOCAB, max_seq_len=SEQ_LEN)
    cfg = planning.by_scaling_rules(cfg, net)
    if preset == "base":  # the rule as it is: planning holds it back for models as small as this one
        decay = scaling.weight_decay(net, cfg.batch.total_batch_size or 0)
        cfg = planning.with_values(cfg, "optim", weight_decay=round(decay, 6))
    return cfg, net


def some_rows(step: int) -> Tensor:
    """Sequences in which each token mostly gives the next away; integer arithmetic, alike everywhere."""
    rows = []
    for row in range(ROWS):
        token, ids = (97 * step + 31 * row) % VOCAB, []
        for t in range(SEQ_LEN + 1):
            ids.append(token)
            token = (7 * token + 3 + 11 * (t % 4 == row)) % VOCAB
        rows.append(ids)
    return torch.tensor(rows)


def started(net: ModelConfig) -> LanguageModel:
    """The model of seed 0 with small values for what the recipe starts at zero.

    From zero, the stream before the head and the one in the middle are multiples of each other: the scales that mix
    them have gradients of 0 but for rounding, and AdamW with its eps of 1e-10 makes of them whole steps in a direction
    that the last bit of a sum decides. Nothing could be recorded of that.
    """
    model = build(net, seed=0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.any():
                p.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    return model


def trained_losses(preset: str) -> list[float]:
    """The mean losses of the first steps, by our own model, optimizer and schedule in fp32."""
    cfg, net = settled(preset)
    model = started(net)
    scale = scaling.rate_scale(cfg.batch.total_batch_size or 0) if cfg.optim.batch_scaling else 1.0
    kind = precision.of_optimizer("fp32")
    optimizer = optim.build(model.param_groups(), cfg.optim, precision=kind, batch_scale=scale)
    curves, found = schedule.plan(NUM_STEPS, cfg.optim), []
    for step in range(RECORDED):
        ids = some_rows(step)
        loss = model.losses(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).mean()
        loss.backward()
        optimizer.clip(cfg.optim.grad_clip)
        optimizer.step(curves.lr(step), curves.momentum(step), curves.weight_decay(step))
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("preset", ["base", "seed"])
def test_a_preset_trains_as_its_formulas_say(preset: str) -> None:
    assert trained_losses(preset) == pytest.approx(PRESET_LOSSES[preset], rel=1e-5)
    assert PRESET_LOSSES[preset][-1] < PRESET_LOSSES[preset][0] - 0.3, "a curve that does not fall shows little"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["base", "seed"])
def test_the_recorded_numbers_are_those_of_the_formulas(preset: str) -> None:
    assert recorded_by_reference(preset) == pytest.approx(PRESET_LOSSES[preset], rel=1e-9)


def test_the_smallest_demo_learns_as_it_did(tmp_path: Path) -> None:
    found = smoke_losses(tmp_path)
    assert {step: found[step - 1] for step in SMOKE_LOSSES} == pytest.approx(SMOKE_LOSSES, rel=0.02)


def smoke_losses(folder: Path) -> list[float]:
    """The loss of each step of the base stage of the smoke tier, on the texts that its demo generates."""
    cfg = config.resolve(
        BaseTrainConfig, command="train base", env={}, files=["demo-smoke"], sets=["compute.gpus=0"]
    ).config
    texts = [tinyworld.document(0, i) for i in range(600)]
    tokenizer = Tokenizer.train(texts, 512)
    flat, offsets = tokenizer.encode_batch(texts)
    seq_len, tokens = cfg.model.max_seq_len or 0, cfg.batch.total_batch_size or 0
    rows = pack_documents(TokenSplit([(np.asarray(flat), offsets)], tokenizer.bos_id), seq_len + 1)
    net = planning.model_shape(cfg, vocab_size=tokenizer.vocab_size, max_seq_len=seq_len)
    num_steps = planning.num_iterations(cfg, net)
    model = build(net, seed=0)
    heard: list[Event] = []
    folder.mkdir(exist_ok=True)
    job = loop.Job(
        stage_dir=folder,
        model=model,
        losses=model.losses,
        optimizer=optim.build(model.param_groups(), cfg.optim, precision="fp32"),
        batches=Batches(rows, rows_per_step=tokens // seq_len, seed=0),
        schedule=schedule.plan(num_steps, cfg.optim),
        device_batch_size=tokens // seq_len,
        tokenizer=tokenizer,
        config={"model": dataclasses.asdict(net), "tokenizer": {"hash": tokenizer.hash}},
        grad_clip=cfg.optim.grad_clip,
    )
    loop.train(job, Dist(), Listener(heard.append))
    return [float(event["raw_loss"]) for event in heard if event["kind"] == "step"]


# ---- where the recorded numbers come from ----------------------------------------------------------------------------


def recorded_by_reference(preset: str) -> list[float]:
    """The same curve by the formulas alone, in fp64, a matrix and a sequence at a time."""
    _, net = settled(preset)
    weights = {name: p.detach().double() for name, p in started(net).named_parameters()}
    rules = modern_rules(net) if preset == "base" else seed_rules(net)
    states: dict[str, dict[str, Tensor]] = {}
    found = []
    for step in range(RECORDED):
        held = {name: p.requires_grad_() for name, p in weights.items()}
        rows = some_rows(step).tolist()
        loss = torch.stack([reference.losses(net, held, ids[:-1], ids[1:]) for ids in rows]).mean()
        grads = dict(zip(held, torch.autograd.grad(loss, list(held.values())), strict=True))
        found.append(loss.item())
        if preset == "seed":  # it clips the norm of all gradients at 1
            norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads.values()))
            grads = {name: grad * min(1.0, 1 / (norm + 1e-6)) for name, grad in grads.items()}
        weights = {}
        for name, p in held.items():
            rule = next(rule for ending, rule in rules.items() if name.endswith(ending))
            parts = (net.n_embd, *[net.n_kv_head * net.head_dim] * 2) if "qkv" in name else tuple(p.shape[:1])
            pieces = (p.detach().split(parts), grads[name].split(parts)) if parts else ((p.detach(),), (grads[name],))
            new = [
                rule(piece, grad, states.setdefault(f"{name}/{i}", {}), step)
                for i, (piece, grad) in enumerate(zip(*pieces, strict=True))
            ]
            weights[name] = torch.cat(new) if parts else new[0]
    return found


def falling(warmup: int, warmdown: int, floor: float):  # pyright: ignore[reportMissingParameterType]
    """The share of the rates: up in so many steps, level, then in a straight line to the floor."""

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return min(1.0, floor + (1 - floor) * (NUM_STEPS - step) / warmdown)

    return share


def modern_rules(net: ModelConfig):  # pyright: ignore[reportMissingParameterType]
    """How each weight is updated, by the end of its name: the rates, betas and decays of March 2026."""
    batch, width = math.sqrt(2**14 / 2**19), math.sqrt(768 / net.n_embd)
    warmdown = round(0.65 * NUM_STEPS)
    share = falling(min(40, NUM_STEPS // 10), warmdown, 0.05)

    def momentum(step: int) -> float:
        ramp = NUM_STEPS // 3
        if step < ramp:
            return 0.85 + 0.12 * step / ramp
        return 0.90 + 0.07 * min(1.0, (NUM_STEPS - step) / warmdown)

    def decay(step: int) -> float:
        """From a start that keeps what decays in one horizon as it is at depth 12; 512 rows hold the vocabulary."""
        mine = 3 * 12 * 64**2 + 2 * 2 * 12 + 512 * 64  # matrices, gates of two heads in two layers, head
        twelve = 12 * 12 * 768**2 + 6 * 24 * 12 + 512 * 768
        start = round(0.28 * batch * twelve / mine, 6)
        return start * 0.5 * (1 + math.cos(math.pi * step / NUM_STEPS))

    other = reference.adamw(0.2, (0.8, 0.95), 0.0, share)
    return {
        "embed.weight": reference.adamw(0.3 * width * batch, (0.8, 0.995), 0.001, share),
        "head.weight": reference.adamw(0.008 * width * batch, (0.8, 0.96), 0.01, share),
        "residual_scale_L": reference.adamw(0.005 * batch, (0.8, 0.95), 0.05, share),
        "skip_scale_L": reference.adamw(0.5 * batch, (0.96, 0.95), 0.0, share),
        "backout_scale": other,
        "smear.scale": other,
        "smear.gate.weight": other,
        **{
            f"value_embeds.{i}.weight": reference.adamw(0.15 * width * batch, (0.8, 0.995), 0.01, share) for i in (0, 2)
        },
        "": reference.modern_muon(0.02 * batch, momentum, decay, share),
    }


def seed_rules(net: ModelConfig):  # pyright: ignore[reportMissingParameterType]
    """The same for November 2025."""
    width = math.sqrt(768 / net.n_embd)
    share = falling(0, round(0.2 * NUM_STEPS), 0.0)
    ramp = NUM_STEPS // 3
    return {
        "embed.weight": reference.adamw(0.2 * width, (0.8, 0.95), 0.0, share),
        "head.weight": reference.adamw(0.004 * width, (0.8, 0.95), 0.0, share),
        "": reference.seed_muon(0.02, lambda step: 0.85 + 0.10 * min(1.0, step / ramp), share),
    }


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    print("PRESET_LOSSES = {")
    for name in ("base", "seed"):
        print(f'    "{name}": {recorded_by_reference(name)},')
        print(f"    # ours in fp32: {trained_losses(name)}")
    print("}")
    with tempfile.TemporaryDirectory() as scratch:
        curve = smoke_losses(Path(scratch) / "smoke")
    print("SMOKE_LOSSES =", {step: round(curve[step - 1], 3) for step in (1, 10, 20, 30, 40, 50, 60)})
