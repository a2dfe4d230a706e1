"""How likely a model finds given continuations: many at a time, as if each had been read alone.

Three things make it fast and change nothing: what the choices of one question share is read once; only places that are
asked about meet the vocabulary; and rows of similar length travel together. Tensor suffixes as in `nets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanochat_cli.core.eval.nets import Net

_PAD = 0  # right of a row; never attended to
_BUDGET = {"cpu": 4_096, "cuda": 65_536}
"""Tokens per batch, padding included."""
_SCORES = 1 << 26
"""Most numbers of a table of scores that is held at a time."""
_WORTH = 1.3
"""A shared beginning is read apart if reading everything for every choice would take this many times the tokens."""


@dataclass(frozen=True)
class Span:
    """The tokens `ids[start:]`, whose likelihood after `ids[:start]` is asked for; both parts hold one or more."""

    ids: Sequence[int]
    start: int

    def cropped(self, limit: int) -> Span:
        """The span with at most its last `limit` tokens; one token at least stays in front of what is asked about."""
        cut = len(self.ids) - limit
        return self if cut <= 0 else Span(self.ids[cut:], max(1, self.start - cut))


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the model makes of a span: its loss, summed in float64 over `count` tokens, and its own first choices."""

    nats: float
    count: int
    best: tuple[int, ...]
    greedy: bool
    """Every token is the likeliest at its place: greedy decoding would write just this."""

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.nats / self.count


@dataclass
class _Group:
    """The spans of one question, as rows: spans that differ in nothing but their last token share one."""

    number: int
    spans: list[Span]
    rows: list[Sequence[int]] = field(default_factory=list)
    row_of: list[int] = field(default_factory=list)
    shared: int = 0
    """Tokens at the beginning of all rows that are read once; 0 if every row is read whole."""

    @property
    def longest(self) -> int:
        return max(map(len, self.rows))


def _group(number: int, spans: Sequence[Span], may_share: bool) -> _Group:
    made = _Group(number, list(spans))
    places: dict[tuple[int, ...], int] = {}
    for span in spans:
        row = tuple(span.ids[:-1])
        made.row_of.append(places.setdefault(row, len(places)))
    made.rows = list(places)
    if may_share and len(made.rows) > 1:
        # The last token before what is asked about stays with the row: its scores are wanted.
        shared = min(common_prefix(made.rows), min(span.start for span in spans) - 1, min(map(len, made.rows)) - 1)
        total = sum(map(len, made.rows))
        made.shared = shared if total > _WORTH * (total - shared * (len(made.rows) - 1)) else 0
    return made


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    sortable: Any = rows
    first, last = min(sortable), max(sortable)  # in order of value, these two share what all share
    for place, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return place
    return min(len(first), len(last))


def score(
    net: Net, questions: Sequence[Sequence[Span]], *, budget: int | None = None
) -> Iterator[list[tuple[int, list[Result]]]]:
    """Yield, batch by batch, the number of each question with the results of its spans.

    Every question comes once, the longest first. Spans must fit `net.context`; a batch holds about `budget` tokens, and
    is halved as often as its memory makes it necessary.
    """
    budget = budget or min(_BUDGET.get(net.device.type, _BUDGET["cpu"]), net.most_tokens or 1 << 62)
    groups = [_group(number, spans, net.shares) for number, spans in enumerate(questions)]
    for batch in _batches(groups, budget):
        with torch.no_grad():
            yield _score_in_memory(net, batch)


def score_one_by_one(net: Net, questions: Sequence[Sequence[Span]]) -> list[list[Result]]:
    """The plain way, to check the other by: each span in a forward pass of its own, and all of its scores."""
    found = []
    with torch.no_grad():
        for spans in questions:
            found.append([])
            for span in spans:
                ids = torch.tensor([list(span.ids)], device=net.device)
                logits_TV = net.logits(net.read(ids[:, :-1])[0]).double()[span.start - 1 :]
                target_T = ids[0, span.start :]
                nats_T = -logits_TV.log_softmax(-1).gather(1, target_T[:, None])[:, 0]
                best = tuple(logits_TV.argmax(-1).tolist())
                greedy = best == tuple(span.ids[span.start :])
                found[-1].append(Result(nats=float(nats_T.sum()), count=len(target_T), best=best, greedy=greedy))
    return found


def _batches(groups: list[_Group], budget: int) -> Iterator[list[_Group]]:
    """Groups that are read alike, of similar length, whose padded rows stay within the budget (or one alone)."""
    order = sorted(groups, key=lambda g: (g.shared > 0, g.shared or g.longest, g.longest), reverse=True)
    batch: list[_Group] = []
    rows = longest = beginning = 0
    for group in order:
        after = group.longest - group.shared
        wide = max(longest, after), max(beginning, group.shared)
        full = (rows + len(group.rows)) * sum(wide) > budget
        if batch and (full or (batch[0].shared > 0) != (group.shared > 0)):
            yield batch
            batch, rows, wide = [], 0, (after, group.shared)
        batch.append(group)
        rows, (longest, beginning) = rows + len(group.rows), wide
    if batch:
        yield batch


def _score_in_memory(net: Net, batch: list[_Group]) -> list[tuple[int, list[Result]]]:
    """The results of a batch; halves of it one after the other where memory is too small for the whole."""
    try:
        return _score_batch(net, batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Behind the `except`, so that nothing holds what the attempt had in memory.
    if net.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(batch) // 2
    return _score_in_memory(net, batch[:half]) + _score_in_memory(net, batch[half:])


def _score_batch(net: Net, batch: list[_Group]) -> list[tuple[int, list[Result]]]:
    rows = [row[group.shared :] for group in batch for row in group.rows]
    idx_BT = torch.full((len(rows), max(map(len, rows))), _PAD, dtype=torch.int64)
    for number, row in enumerate(rows):
        idx_BT[number, : len(row)] = torch.tensor(row)
    idx_BT = idx_BT.to(net.device)
    if batch[0].shared:
        owners = [number for number, group in enumerate(batch) for _ in group.rows]
        beginnings = [group.rows[0][: group.shared] for group in batch]
        x_BTE = net.after(beginnings, torch.tensor(owners, device=net.device), idx_BT)
    else:
        x_BTE = net.read(idx_BT)

    first_row, places, targets = 0, [], []
    for group in batch:
        for span, row in zip(group.spans, group.row_of, strict=True):
            at = range(span.start - 1 - group.shared, len(span.ids) - 1 - group.shared)
            places += [(first_row + row) * idx_BT.size(1) + column for column in at]
            targets += span.ids[span.start :]
        first_row += len(group.rows)
    nats_N, best_N = _judge(net, x_BTE.flatten(0, 1), places, targets)
    found, taken = [], 0
    for group in batch:
        results = []
        for span in group.spans:
            part = slice(taken, taken + len(span.ids) - span.start)
            best = tuple(best_N[part].tolist())
            greedy = best == tuple(span.ids[span.start :])
            results.append(Result(nats=float(nats_N[part].sum()), count=len(best), best=best, greedy=greedy))
            taken = part.stop
        found.append((group.number, results))
    return found


def _judge(net: Net, x_NE: Tensor, places: list[int], targets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The loss in nats (float64) of each target at its place in `x_NE`, and the likeliest token there."""
    unique_P, which_N = np.unique(np.array(places), return_inverse=True)
    order_N = np.argsort(which_N, kind="stable")
    nats_N, best_P = np.empty(len(places)), np.empty(len(unique_P), dtype=np.int64)
    chunk, vocabulary = 256, 0
    start = 0
    while start < len(unique_P):
        at = torch.from_numpy(unique_P[start : start + chunk]).to(net.device)
        logits_PV = net.logits(x_NE[at])
        total_P = torch.logsumexp(logits_PV, -1)
        stop = start + len(at)
        best_P[start:stop] = logits_PV.argmax(-1).cpu().numpy()
        low, high = np.searchsorted(which_N[order_N], (start, stop))
        mine = order_N[low:high]
        row = torch.from_numpy(which_N[mine] - start).to(net.device)
        wanted = torch.tensor([targets[n] for n in mine], device=net.device)
        nats_N[mine] = (total_P[row] - logits_PV[row, wanted]).double().cpu().numpy()
        start, vocabulary = stop, logits_PV.size(-1)
        chunk = max(16, min(4096, _SCORES // vocabulary))
    return nats_N, best_P[which_N]
