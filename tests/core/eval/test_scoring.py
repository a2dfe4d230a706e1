"""Scoring in batches against every span read alone: the same losses and the same choices, whatever is shared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat_cli.core.eval import scoring
from nanochat_cli.core.eval.nets import OwnNet
from nanochat_cli.core.eval.scoring import Span
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build

VOCAB = 96


def model_of(arch: str) -> LanguageModel:
    """A small model in which every token matters to every later one."""
    model = build(shape.from_depth(2, VOCAB, 128, arch=arch, n_embd=32, n_head=2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2 and (not weight.any() or weight is model.head.weight):
                weight.normal_(0, 0.3, generator=generator)
    return model.eval()


def questions(rng: random.Random) -> list[list[Span]]:
    """Questions of all forms: long shared beginnings, none, single spans, answers of one token, equal answers."""
    found = []

    def ids(n: int) -> list[int]:
        return [rng.randrange(VOCAB) for _ in range(n)]

    for _ in range(12):
        head = [0, *ids(rng.randrange(20, 60))]
        found.append([Span(head + ids(rng.randrange(1, 9)), len(head)) for _ in range(rng.randrange(2, 5))])
    for _ in range(6):
        head = [0, *ids(rng.randrange(2, 40))]
        found.append([Span([*head, letter], len(head)) for letter in (5, 6, 7, 8)])
        tail = ids(4)
        found.append([Span([0, *ids(n), *tail], n + 1) for n in (3, 7)])
        found.append([Span([0, *ids(rng.randrange(2, 50))], 1)])
    found.append([Span([0, 1, 2, 3], 2), Span([0, 1, 2, 3], 2)])
    found.append([Span([0, 1], 1), Span([0, 1, 2], 1)])
    rng.shuffle(found)
    return found


def collect(net: Any, asked: Sequence[Sequence[Span]], **options: Any) -> list[list[scoring.Result]]:
    pairs = [pair for batch in scoring.score(net, asked, **options) for pair in batch]
    assert sorted(number for number, _ in pairs) == list(range(len(asked))), "every question comes once"
    return [results for _, results in sorted(pairs, key=lambda pair: pair[0])]


@pytest.mark.parametrize("arch", ["nanochat", "portable"])
@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_batches_change_nothing(arch: str, budget: int) -> None:
    net = OwnNet(model_of(arch))
    asked = questions(random.Random(3))
    alone, together = scoring.score_one_by_one(net, asked), collect(net, asked, budget=budget)
    for spans, want, got in zip(asked, alone, together, strict=True):
        for span, a, b in zip(spans, want, got, strict=True):
            assert b.nats == pytest.approx(a.nats, abs=2e-4) and b.count == len(span.ids) - span.start
            assert b.best == a.best and b.greedy == a.greedy


class Counting(OwnNet):
    """Counts the tokens that are read."""

    tokens = 0

    def read(self, idx_BT: Tensor) -> Tensor:
        self.tokens += idx_BT.numel()
        return super().read(idx_BT)

    def after(self, beginnings: Sequence[Sequence[int]], owner_B: Tensor, idx_BT: Tensor) -> Tensor:
        self.tokens += sum(map(len, beginnings)) + idx_BT.numel()
        return super().after(beginnings, owner_B, idx_BT)


def test_what_choices_share_is_read_once() -> None:
    net = Counting(model_of("portable"))
    head = [0, *range(1, 60)]
    collect(net, [[Span([*head, 60 + k, 70 + k, 80], len(head)) for k in range(4)]])
    assert net.tokens == 59 + 4 * 3
    net.tokens = 0
    collect(net, [[Span([*head, letter], len(head)) for letter in range(60, 64)]])
    assert net.tokens == 60, "four answers of one token need one row"


def test_greedy_is_what_decoding_would_write() -> None:
    model = model_of("nanochat")
    ids = [0, 4, 9]
    for _ in range(3):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    wrong = [*ids[:-1], (ids[-1] + 1) % VOCAB]
    (yes,), (no,) = collect(OwnNet(model), [[Span(ids, 3)], [Span(wrong, 3)]])
    assert yes.greedy and yes.best == tuple(ids[3:]) and not no.greedy


def test_cropping_keeps_the_end() -> None:
    span = Span([0, 1, 2, 3, 4, 5], 4)
    assert span.cropped(6) is span
    assert span.cropped(4) == Span([2, 3, 4, 5], 2)
    assert span.cropped(2) == Span([4, 5], 1), "one token stays in front of what is asked about"


def test_common_prefix() -> None:
    assert scoring.common_prefix([[1, 2, 3], [1, 2, 4, 5], [1, 2]]) == 2
    assert scoring.common_prefix([[1, 2], [3]]) == 0
    assert scoring.common_prefix([[1, 2]]) == 2
