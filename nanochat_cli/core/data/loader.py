"""Batches of packed rows: what a step trains on is a function of the seed and the step number and of nothing else.

Legend: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from nanochat_cli.core.data.order import sample_rows
from nanochat_cli.core.data.packing import PackedRows
from nanochat_cli.core.errors import ConfigError

IGNORE = -1  # target of a position that is not trained on


class Counted(tuple[Tensor, ...]):
    """A micro-batch, x_BT and y_BT, that knows its number of targets: counting on a GPU would make the caller wait."""

    targets: int

    def __new__(cls, tensors: Iterable[Tensor], targets: int) -> Counted:
        """Return these tensors as a micro-batch with this many y that are not IGNORE."""
        made = super().__new__(cls, tensors)
        made.targets = targets
        return made


def count_targets(micro: Sequence[Tensor]) -> int:
    """Return how many targets a micro-batch has: as it says, else by looking at micro[1]."""
    return micro.targets if isinstance(micro, Counted) else int((micro[1] != IGNORE).sum())


class Batches:
    """The endless sequence of training steps over packed rows."""

    def __init__(self, rows: PackedRows, *, rows_per_step: int, seed: int, shuffle: bool = True) -> None:
        if rows_per_step < 1:
            raise ConfigError(f"a step needs at least one row: {rows_per_step}")
        self.rows, self.rows_per_step, self.seed, self.shuffle = rows, rows_per_step, seed, shuffle

    def indices(self, step: int) -> np.ndarray:
        """Return the rows of a step over all ranks, int64 [rows_per_step]."""
        first = step * self.rows_per_step
        return sample_rows(first, self.rows_per_step, self.rows.num_rows, self.seed, self.shuffle)

    def step(self, step: int, rank: int = 0, world: int = 1, device_batch_size: int | None = None) -> list[Counted]:
        """Return this rank's micro-batches of a step: (x_BT, y_BT) int64, y one ahead of x and -1 where not trained.

        The ranks together get exactly the rows of the step, whatever their number and the micro-batch size.
        """
        if self.rows_per_step < world:
            raise ConfigError(f"a step has {self.rows_per_step} rows, too few for {world} processes")
        mine = np.array_split(self.indices(step), world)[rank]
        size = device_batch_size or len(mine)
        return [to_tensors(self.rows, mine[at : at + size]) for at in range(0, len(mine), size)]

    def epochs(self, num_steps: int) -> float:
        """Return how many times a run of this many steps goes through the rows."""
        return num_steps * self.rows_per_step / self.rows.num_rows


def to_tensors(rows: PackedRows, indices: np.ndarray) -> Counted:
    """Return inputs and targets of these rows: (x_BT, y_BT) int64 with T = row_len - 1."""
    ids, mask = rows.take(indices)
    is_target = mask[:, 1:]
    x, y = np.ascontiguousarray(ids[:, :-1]), np.where(is_target, ids[:, 1:], IGNORE)
    return Counted((torch.from_numpy(x), torch.from_numpy(y)), int(np.count_nonzero(is_target)))
