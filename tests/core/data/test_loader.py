from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.data.packing import PackedRows, pack_documents
from nanochat_cli.core.data.tokens import TokenSplit
from nanochat_cli.core.errors import ConfigError

BOS = 9999
T = 12


@pytest.fixture(scope="module")
def rows() -> PackedRows:
    lengths = np.random.default_rng(1).integers(1, 40, 200)
    tokens = np.arange(lengths.sum(), dtype=np.uint16)
    return pack_documents(TokenSplit([(tokens, np.append(0, np.cumsum(lengths)))], BOS), T + 1)


def stacked(parts: Sequence[Sequence[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def same(a: Sequence[Sequence[torch.Tensor]], b: Sequence[Sequence[torch.Tensor]]) -> bool:
    return all(torch.equal(p, q) for one, two in zip(a, b, strict=True) for p, q in zip(one, two, strict=True))


def test_targets_are_inputs_shifted_and_padding_is_ignored(rows) -> None:
    batches = Batches(rows, rows_per_step=rows.num_rows, seed=0, shuffle=False)
    ((x, y),) = batches.step(0)
    ids, mask = rows.take(np.arange(rows.num_rows))
    assert x.dtype == y.dtype == torch.int64 and x.shape == y.shape == (rows.num_rows, T)
    assert np.array_equal(x.numpy(), ids[:, :-1]) and (x[:, 0] == BOS).all()
    kept = y != -1
    assert np.array_equal(kept.numpy(), mask[:, 1:]) and not kept.all()
    assert torch.equal(y[:, :-1][kept[:, :-1]], x[:, 1:][kept[:, :-1]])


@pytest.mark.parametrize(("world", "size"), [(1, None), (1, 5), (2, None), (2, 4), (3, 2), (24, 1)])
def test_ranks_together_get_the_same_rows(rows, world, size) -> None:
    batches = Batches(rows, rows_per_step=24, seed=3)
    for step in (0, 7):
        whole_x, whole_y = stacked(batches.step(step))
        parts = [part for rank in range(world) for part in batches.step(step, rank, world, size)]
        x, y = stacked(parts)
        assert torch.equal(x, whole_x) and torch.equal(y, whole_y)
        assert all(len(part) <= (size or 24) for part, _ in parts)


def test_a_step_does_not_depend_on_the_steps_before(rows) -> None:
    first = Batches(rows, rows_per_step=10, seed=5)
    going = [first.step(step) for step in range(30)]
    resumed = Batches(rows, rows_per_step=10, seed=5)
    assert all(same(going[step], resumed.step(step)) for step in (29, 17, 0))


def test_every_epoch_has_every_row_once_in_its_own_order(rows) -> None:
    n = rows.num_rows
    batches = Batches(rows, rows_per_step=7, seed=1)
    seen = np.concatenate([batches.indices(step) for step in range(3 * n // 7 + 1)])
    epochs = [seen[i * n : (i + 1) * n].tolist() for i in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert batches.epochs(n) == 7.0


def test_seed_changes_the_order(rows) -> None:
    one, two = (Batches(rows, rows_per_step=10, seed=seed).indices(0).tolist() for seed in (1, 2))
    assert one != two


def test_steps_larger_than_the_data_repeat_it(rows) -> None:
    ((x, _),) = Batches(rows, rows_per_step=3 * rows.num_rows, seed=0).step(0)
    assert len(x) == 3 * rows.num_rows


def test_too_many_processes_for_a_step(rows) -> None:
    with pytest.raises(ConfigError, match="2 rows, too few for 3 processes"):
        Batches(rows, rows_per_step=2, seed=0).step(0, 0, 3)


@pytest.mark.parametrize("documents", [1, 300])
def test_cropped_rows_are_shared_out_without_overlap(documents: int) -> None:
    """With one document there are fewer rows than processes: then a step holds some of them more than once."""
    lengths = np.random.default_rng(2).integers(1, 40, documents)
    tokens = np.arange(lengths.sum(), dtype=np.uint16)
    rows = pack_documents(TokenSplit([(tokens, np.append(0, np.cumsum(lengths)))], BOS), T + 1, "crop")
    batches = Batches(rows, rows_per_step=8, seed=3)
    parts = [stacked(batches.step(1, rank, 4, 2)) for rank in range(4)]
    assert [len(x) for x, _ in parts] == [2] * 4
    whole_x, whole_y = stacked(batches.step(1))
    assert torch.equal(torch.cat([x for x, _ in parts]), whole_x)
    assert torch.equal(torch.cat([y for _, y in parts]), whole_y)
    seen = torch.cat([x for x, _ in parts])
    seen = seen[seen != BOS].tolist()
    assert rows.num_rows == 1 if documents == 1 else len(set(seen)) == len(seen)
