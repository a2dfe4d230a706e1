"""Bits per byte against a uniform model, a naive loop, and itself split over ranks."""

from __future__ import annotations

from math import inf, log, log2

import numpy as np
import pytest
import torch
from torch import Tensor

from nanochat_cli.core.eval import bpb

VOCAB = 50
BYTES = np.array([0, 0] + [1 + i % 4 for i in range(VOCAB - 2)], dtype=np.int32)  # ids 0 and 1 are special


class Table(torch.nn.Module):
    """A bigram model: the loss depends on the token and its predecessor only."""

    def __init__(self, logits_VV: Tensor) -> None:
        super().__init__()
        self.logits_VV = torch.nn.Parameter(logits_VV)

    def losses(self, idx_BT: Tensor, targets_BT: Tensor) -> Tensor:
        logits = self.logits_VV[idx_BT].transpose(1, 2)
        return torch.nn.functional.cross_entropy(logits, targets_BT, ignore_index=-1, reduction="none")


class Rows:
    """Stand-in for packed rows."""

    def __init__(self, num_rows: int, row_len: int) -> None:
        rng = np.random.default_rng(3)
        self.ids = rng.integers(0, VOCAB, (num_rows, row_len))
        self.is_target = rng.random((num_rows, row_len)) < 0.8
        self.num_rows = num_rows

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.ids[indices], self.is_target[indices]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows(7, 12)


@pytest.fixture(scope="module")
def model() -> Table:
    return Table(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)))


def test_uniform_model_needs_log2_vocab_per_mean_token_length() -> None:
    y_BT = torch.arange(2, VOCAB).repeat(3, 1)
    found = bpb.measure(Table(torch.zeros(VOCAB, VOCAB)), [(torch.zeros_like(y_BT), y_BT)], BYTES).bpb
    assert found == pytest.approx(log2(VOCAB) / BYTES[2:].mean(), rel=1e-6)


def test_equals_a_naive_loop(model: Table, rows: Rows) -> None:
    nats, num_bytes, num_tokens = 0.0, 0, 0
    log_probs = model.logits_VV.detach().double().log_softmax(-1)
    for ids, is_target in zip(rows.ids, rows.is_target, strict=True):
        for before, token, counts in zip(ids[:-1], ids[1:], is_target[1:], strict=True):
            if counts and BYTES[token]:
                nats -= float(log_probs[before, token])
                num_bytes += int(BYTES[token])
                num_tokens += 1
    found = bpb.measure(model, bpb.row_batches(rows, 3), BYTES)
    assert (found.bytes, found.tokens) == (num_bytes, num_tokens)
    assert found.nats == pytest.approx(nats, rel=1e-6)
    assert found.bpb == pytest.approx(nats / log(2) / num_bytes, rel=1e-6)


def test_specials_and_ignored_targets_neither_cost_nor_count(model: Table) -> None:
    x_BT, plain = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[6, 7, -1, -1]])
    with_special = torch.tensor([[6, 7, 0, 1]])
    assert bpb.measure(model, [(x_BT, plain)], BYTES) == bpb.measure(model, [(x_BT, with_special)], BYTES)


def test_nothing_to_compress_is_infinite(model: Table) -> None:
    nothing = bpb.measure(model, [(torch.tensor([[5]]), torch.tensor([[-1]]))], BYTES)
    assert (nothing.bytes, nothing.bpb, nothing.nats_per_token) == (0, inf, inf)


def test_many_small_losses_do_not_vanish_beside_a_large_sum() -> None:
    class Constant:
        def losses(self, idx_BT: Tensor, targets_BT: Tensor) -> Tensor:
            return torch.full_like(targets_BT, 1e-3, dtype=torch.float32)

    big = torch.full((100, 1000), 2)
    found = bpb.measure(Constant(), [(big, big)] * 20, BYTES)
    assert found.nats == pytest.approx(2000.0, rel=1e-6)  # a float32 running sum loses the fifth digit


def test_ranks_together_see_every_row_once(model: Table, rows: Rows) -> None:
    """Each rank adds what the others measured; the result is that of one process."""
    shares = [bpb.measure(model, bpb.row_batches(rows, 2, rank=r, world=3), BYTES) for r in range(3)]

    class OthersAdd:
        device = torch.device("cpu")

        def all_reduce_sum(self, tensor: Tensor) -> Tensor:
            return tensor + torch.tensor([[s.nats, s.bytes, s.tokens] for s in shares[1:]], dtype=torch.float64).sum(0)

    whole = bpb.measure(model, bpb.row_batches(rows, 4), BYTES)
    joint = bpb.measure(model, bpb.row_batches(rows, 2, rank=0, world=3), BYTES, OthersAdd())
    assert (joint.bytes, joint.tokens) == (whole.bytes, whole.tokens)
    assert joint.nats == pytest.approx(whole.nats, rel=1e-9)


def test_a_limit_takes_rows_from_everywhere() -> None:
    rows = Rows(100, 4)
    rows.ids[:] = np.arange(100)[:, None]
    shares = [[int(x[0, 0]) for x, _ in bpb.row_batches(rows, 1, limit=5, rank=r, world=2)] for r in range(2)]
    assert shares == [[0, 40, 80], [20, 60]]


def test_limit_and_training_mode(model: Table, rows: Rows) -> None:
    assert sum(len(x) for x, _ in bpb.row_batches(rows, 2, limit=5)) == 5
    model.train()
    bpb.measure(model, bpb.row_batches(rows, 2), BYTES)
    assert model.training
