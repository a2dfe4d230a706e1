"""Fine-tuning at any context and batch size: tokens weigh alike, nothing is ever no number, nothing goes missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from nanochat_cli.core import events
from nanochat_cli.core.data.loader import IGNORE, Batches
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.tokenizer.conversation import render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import data, gradient, mixture


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train(["some words to say, and a few more words to answer"] * 9, 280)


def model_of(seq_len: int) -> LanguageModel:
    model = build(from_depth(1, 280, seq_len, n_embd=32, n_head=2, arch="portable"), seed=1)
    with torch.no_grad():  # a fresh head is zeros, and then most gradients are
        model.head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return model


def chats(path: Path, turns: list[tuple[int, int]]) -> str:
    """A file of conversations with so many words in question and answer."""
    items = [{"question": "some words " * ask, "answer": "more words " * reply} for ask, reply in turns]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


def grads(model: LanguageModel, batches: Batches, size: int, step: int = 0) -> tuple[gradient.Gradient, torch.Tensor]:
    model.zero_grad()
    params = list(model.parameters())
    found = gradient.accumulate(model.losses, params, batches.step(step, device_batch_size=size), Dist())
    flat = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in params]
    return found, torch.cat(flat)


def test_the_device_batch_changes_nothing(tmp_path: Path, small: Tokenizer) -> None:
    """Short and long answers in one step: their tokens weigh alike, whichever micro-batch they come in."""
    turns = [(1 + n % 5, 1 + (n * 7) % 23) for n in range(60)]
    rows = data.chat_rows([chats(tmp_path / "c.jsonl", turns)], small, 64, events.NULL).train
    batches, model = Batches(rows, rows_per_step=16, seed=0), model_of(64)
    whole, want = grads(model, batches, 16)
    x_BT, y_BT = batches.step(0)[0]
    mean = model.losses(x_BT, y_BT).sum() / (y_BT != IGNORE).sum()
    assert whole.loss == pytest.approx(float(mean.detach()), rel=1e-6)
    for size in (1, 3, 8):
        found, got = grads(model, batches, size)
        assert found.loss == pytest.approx(whole.loss, rel=1e-5) and found.targets == whole.targets
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6 * float(want.abs().max()))


@pytest.mark.parametrize("seq_len", [32, 128, 512])
def test_long_chats_in_a_short_context(tmp_path: Path, small: Tokenizer, seq_len: int) -> None:
    """Where a row without any target once made every weight no number: questions beyond the context are left out."""
    turns = [(300, 300), (5, 300), (300, 5), (5, 5)] * 3
    heard: list[events.Event] = []
    path = chats(tmp_path / "c.jsonl", turns)
    found = data.chat_rows([path], small, seq_len, events.Listener(heard.append))
    batches, model = Batches(found.train, rows_per_step=4, seed=0), model_of(seq_len)
    (part,) = mixture.open_parts([path], (), 0)
    lengths = [len(render(small, part.train[i]).ids) for i in range(len(part.train))]
    assert max(lengths) > 512 and found.facts["truncated"] == sum(n > seq_len + 1 for n in lengths)
    assert any(event["kind"] == "warning" and "were cut" in event["text"] for event in heard)
    for size in (1, 4):
        for step in range(2 if size == 1 else 1):
            told, flat = grads(model, batches, size, step)
            assert math.isfinite(told.loss) and told.targets > 0 and bool(flat.isfinite().all())


def test_a_step_without_any_target_moves_nothing() -> None:
    model, x_BT = model_of(32), torch.ones(2, 32, dtype=torch.int64)
    params = list(model.parameters())
    empty = (x_BT, torch.full_like(x_BT, IGNORE))
    alone = gradient.accumulate(model.losses, params, [empty, empty], Dist())
    assert (alone.loss, alone.targets) == (0.0, 0) and all(p.grad is None for p in params)
    full = (x_BT, x_BT.clone())
    want = gradient.accumulate(model.losses, params, [full], Dist())
    kept = [p.grad.clone() for p in params if p.grad is not None]
    model.zero_grad()
    both = gradient.accumulate(model.losses, params, [empty, full], Dist())
    assert both.loss == want.loss and both.targets == want.targets
    for mine, theirs in zip([p.grad for p in params if p.grad is not None], kept, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_fits_is_packed_whole(tmp_path: Path, small: Tokenizer) -> None:
    """Every conversation that fits is in one row from its first token to its last, and its targets are all there."""
    turns = [(1 + n % 4, 1 + n % 9) for n in range(90)]
    path = chats(tmp_path / "c.jsonl", turns)
    rows = data.chat_rows([path], small, 128, events.NULL).train
    (part,) = mixture.open_parts([path], (), 0)
    rendered = [render(small, part.train[i]) for i in range(len(part.train))]
    assert rows.dropped_tokens == rows.truncated_items == 0 and rows.num_rows < len(rendered) / 2
    steps = Batches(rows, rows_per_step=rows.num_rows, seed=0).step(0)
    assert sum(micro.targets for micro in steps) == sum(sum(item.mask) for item in rendered)


def test_nothing_to_learn_is_an_error_not_a_number(tmp_path: Path, small: Tokenizer) -> None:
    with pytest.raises(DataError, match="anything to learn within the context: 32"):
        data.chat_rows([chats(tmp_path / "c.jsonl", [(300, 2)] * 3)], small, 32, events.NULL)


def test_as_many_steps_are_trained_as_were_asked_for() -> None:
    from nanochat_cli.core.train import schedule

    for steps in (1, 2, 7):
        found = schedule.epoch_horizon(num_iterations=steps, num_epochs=1.0, num_rows=50, rows_per_step=8)
        assert found.num_steps == steps
    assert schedule.epoch_horizon(num_iterations=None, num_epochs=2.0, num_rows=50, rows_per_step=10).num_steps == 10
