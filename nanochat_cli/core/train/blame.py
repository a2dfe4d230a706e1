"""Which rows a step was made of whose loss or gradient is no number: a trace that leads back to the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanochat_cli.core.dist import Dist

_SHOWN = 12
_NONE = 1 << 40


def where(
    batches: Any, step: int, size: int, losses: Sequence[tuple[int, Tensor]], dist: Dist, *, loss: float
) -> str | None:
    """Return where the numbers of a step went wrong, in words; None if the batches do not know their rows.

    `size` is the rows per micro-batch, `losses` this process's summed loss by number of micro-batch, and `loss` that of
    the whole step: if it is not finite, every process must call this, and all of them name the same micro-batch.
    """
    bad = None if math.isfinite(loss) else _first_bad(losses, dist)
    place = "" if bad is None else f"first in micro-batch {bad[1] + 1} of process {bad[0]}"
    indices: Callable[[int], np.ndarray] | None = getattr(batches, "indices", None)
    if indices is None:
        return place or None
    rows = indices(step)
    if bad is None:
        return f"the step's rows of the packed data: {_listed(rows)}"
    mine = np.array_split(rows, dist.world)[bad[0]][bad[1] * size : (bad[1] + 1) * size]
    return f"{place}, rows of the packed data: {_listed(mine)}"


def _first_bad(losses: Sequence[tuple[int, Tensor]], dist: Dist) -> tuple[int, int] | None:
    """Return (process, micro-batch) of the first loss that is not finite, over all processes."""
    mine = next((number for number, loss in losses if not bool(torch.isfinite(loss))), None)
    first = dist.minimum(_NONE if mine is None else dist.rank * (_NONE >> 20) + mine)
    return None if first == _NONE else divmod(first, _NONE >> 20)


def _listed(rows: np.ndarray) -> str:
    shown = ", ".join(map(str, rows[:_SHOWN].tolist()))
    return shown + (f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else "")
