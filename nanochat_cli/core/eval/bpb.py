"""Bits per byte: how well a model compresses text, comparable between tokenizers.

Tensor suffixes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, log
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nanochat_cli.core import heartbeat


class _Losses(Protocol):
    """The part of a language model that is used here."""

    def losses(self, idx_BT: Tensor, targets_BT: Tensor, /) -> Tensor: ...


class _Rows(Protocol):
    """The part of `packing.PackedRows` that is used here."""

    @property
    def num_rows(self) -> int: ...

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


class _Reduce(Protocol):
    """The part of `dist.Dist` that is used here."""

    @property
    def device(self) -> torch.device: ...

    def all_reduce_sum(self, tensor: Tensor) -> Tensor | None: ...


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Summed loss over some text. `nats` and `tokens` cover the targets that stand for bytes, so no special token."""

    nats: float
    bytes: int
    tokens: int

    @property
    def bpb(self) -> float:
        """Bits of information the model needs for one byte of text; infinity if there was no byte."""
        return self.nats / (log(2) * self.bytes) if self.bytes else inf

    @property
    def nats_per_token(self) -> float:
        """Mean loss over the targets that stand for bytes; infinity if there was none."""
        return self.nats / self.tokens if self.tokens else inf


def row_batches(
    rows: _Rows,
    batch_size: int,
    *,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (x_BT, y_BT), int64 on `device`, of this rank's share of `limit` rows (None = all), in order.

    y_BT is the next token, or -1 where it is no target. Every row goes to exactly one rank. A limit takes rows spread
    evenly over all, always the same: packing puts the longest documents into the first rows, which stand for no others.
    """
    count = rows.num_rows if limit is None else min(limit, rows.num_rows)
    mine = (np.arange(count) * rows.num_rows // max(1, count))[rank::world]
    for start in range(0, len(mine), batch_size):
        heartbeat.alive()
        ids, is_target = rows.take(mine[start : start + batch_size])
        y = np.where(is_target[:, 1:], ids[:, 1:], -1)
        yield torch.from_numpy(ids[:, :-1].astype(np.int64)).to(device), torch.from_numpy(y.astype(np.int64)).to(device)


@torch.no_grad()
def measure(
    model: _Losses, batches: Iterable[tuple[Tensor, Tensor]], token_bytes: np.ndarray, dist: _Reduce | None = None
) -> Compression:
    """Compression of the targets in `batches` (pairs x_BT, y_BT; y -1 = ignored), summed in float64 over all ranks.

    `token_bytes` holds the raw byte length of every token, 0 for specials: those neither cost nor count.
    The model is put in evaluation mode for the time being if it has one.
    """
    was_training = bool(getattr(model, "training", False))
    if was_training:
        model.eval()  # type: ignore[attr-defined]
    bytes_V = torch.from_numpy(np.ascontiguousarray(token_bytes, dtype=np.int64))
    nats, num_bytes, num_tokens = 0.0, 0, 0
    try:
        for x_BT, y_BT in batches:
            bytes_V = bytes_V.to(y_BT.device)
            bytes_BT = torch.where(y_BT >= 0, bytes_V[y_BT.clamp(min=0)], 0)
            loss_BT = model.losses(x_BT, y_BT).view_as(y_BT).float()
            if loss_BT.device.type == "mps":  # Apple's GPUs have no float64
                loss_BT, bytes_BT = loss_BT.cpu(), bytes_BT.cpu()
            nats += torch.where(bytes_BT > 0, loss_BT, 0.0).sum(dtype=torch.float64).item()
            num_bytes += int(bytes_BT.sum())
            num_tokens += int((bytes_BT > 0).sum())
    finally:
        if was_training:
            model.train()  # type: ignore[attr-defined]
    if dist is not None:
        nats, num_bytes, num_tokens = _reduce((nats, num_bytes, num_tokens), dist)
    return Compression(nats=nats, bytes=int(num_bytes), tokens=int(num_tokens))


def _reduce(sums: tuple[float, int, int], dist: _Reduce) -> tuple[float, int, int]:
    """The sums over all ranks. Float64 holds every byte count below 2^53 exactly."""
    if dist.device.type == "mps":
        return sums
    mine = torch.tensor(sums, dtype=torch.float64, device=dist.device)
    total = dist.all_reduce_sum(mine)
    nats, num_bytes, num_tokens = (mine if total is None else total).tolist()
    return nats, int(num_bytes), int(num_tokens)
