"""Rows of one length from documents or conversations: every row starts with BOS.

A row has T + 1 slots, so that inputs and targets, one apart, are T long. What is left at the end of a row is padded
with BOS and never a target. `take` fills rows from an index without a Python loop.

Documents are packed in one of two ways:

- "whole" drops no token. A long document is cut into pieces of T, each after a BOS of its own, so later pieces lack the
  beginning of their document, and a little padding is left. For data that is scarce or seen more than once, and for all
  measuring.
- "crop" pads nothing and shows every token with its document from the beginning, but drops the ends of documents: all
  that is beyond T of the long ones, and a little more. For corpora much larger than what is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from nanochat_cli.core.data.binpack import best_fit
from nanochat_cli.core.data.cropping import best_fit_cropped
from nanochat_cli.core.data.tokens import TokenSplit
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.events import NULL, Log

Packing = Literal["whole", "crop"]


class RenderedLike(Protocol):
    """A rendered conversation: token ids, and 1 where the model is trained on the token."""

    @property
    def ids(self) -> list[int] | np.ndarray: ...
    @property
    def mask(self) -> list[int] | np.ndarray: ...
    @property
    def truncated(self) -> bool: ...


class Source(Protocol):
    """Where the tokens of pieces are read from."""

    def read(self, positions: np.ndarray) -> np.ndarray: ...
    def read_mask(self, positions: np.ndarray) -> np.ndarray: ...


class PackedRows:
    """An index of rows over a token source.

    starts, lengths: int64 [pieces], each piece's place in the source, in row order; row_starts: int64 [num_rows + 1].
    `lead` is 1 if a BOS goes before each piece, 0 if pieces bring their own.
    """

    def __init__(
        self,
        source: Source,
        starts: np.ndarray,
        lengths: np.ndarray,
        row_starts: np.ndarray,
        *,
        row_len: int,
        bos_id: int,
        lead: int,
        dropped_tokens: int = 0,
        dropped_items: int = 0,
        truncated_items: int = 0,
        items: np.ndarray | None = None,
    ) -> None:
        self.source, self.row_len, self.bos_id, self.lead = source, row_len, bos_id, lead
        self.starts, self.lengths, self.row_starts = starts, lengths, row_starts
        self.dropped_tokens, self.dropped_items = dropped_tokens, dropped_items
        self.truncated_items = truncated_items
        self.items = items
        """For conversations: which one each piece is, int64 [pieces], counted from 0 as they were given."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.row_starts) - 1

    @property
    def num_tokens(self) -> int:
        """Slots that are filled, the leading BOS of each piece included."""
        return int(self.lengths.sum()) + self.lead * len(self.lengths)

    @property
    def padding_fraction(self) -> float:
        """Share of all slots that are padding."""
        return 1.0 - self.num_tokens / (self.num_rows * self.row_len)

    @property
    def dropped_fraction(self) -> float:
        """Share of all tokens, without any BOS in front of them, that are in no row."""
        return self.dropped_tokens / (self.dropped_tokens + int(self.lengths.sum()))

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids int64 [n, row_len], mask bool [n, row_len]) of the rows with these indices.

        mask is True where the token may be a target: every token of a document, and of a chat what it trains on.
        """
        first, last = self.row_starts[indices], self.row_starts[indices + 1]
        row, piece = _ranges(first, last - first)
        width = self.lengths[piece] + self.lead
        before = np.cumsum(width) - width  # slots of all earlier pieces in this call ...
        within = before - before[np.searchsorted(row, row)]  # ... minus those of earlier rows
        begin = row * self.row_len + within
        ids = np.full(len(indices) * self.row_len, self.bos_id, np.int64)
        mask = np.zeros(len(indices) * self.row_len, bool)
        mask[begin] = True
        owner, position = _ranges(self.starts[piece], self.lengths[piece])
        slot = position + (begin + self.lead - self.starts[piece])[owner]
        ids[slot] = self.source.read(position)
        mask[slot] = self.source.read_mask(position)
        return ids.reshape(-1, self.row_len), mask.reshape(-1, self.row_len)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (owner, value) of the ranges start .. start + count - 1, one after another; both int64 [sum of counts]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts - starts)[owner]


class _Documents:
    """Tokens of a corpus split; all of them are targets."""

    def __init__(self, split: TokenSplit) -> None:
        self.read = split.read

    def read_mask(self, positions: np.ndarray) -> np.ndarray:
        return np.ones(positions.shape, bool)


def pack_documents(split: TokenSplit, row_len: int, packing: Packing = "whole") -> PackedRows:
    """Return rows of `row_len` (T + 1) slots over the documents of a split; "whole" and "crop" are described above."""
    _check_row_len(row_len)
    if not split.num_tokens:
        raise DataError("there are no tokens to pack")
    lay_out = {"whole": _whole, "crop": _cropped}[packing]
    starts, lengths, row_starts = lay_out(split.doc_offsets, row_len)
    return PackedRows(
        _Documents(split),
        starts,
        lengths,
        row_starts,
        row_len=row_len,
        bos_id=split.bos_id,
        lead=1,
        dropped_tokens=split.num_tokens - int(lengths.sum()),
    )


def _whole(offsets: np.ndarray, row_len: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, lengths and row starts of pieces of up to T tokens that hold everything."""
    room = row_len - 1
    sizes = np.diff(offsets)
    document, number = _ranges(np.zeros(len(sizes), np.int64), -(-sizes // room))
    starts = offsets[document] + number * room
    lengths = np.minimum(sizes[document] - number * room, room)
    order, row_starts = best_fit(lengths + 1, row_len)
    return starts[order], lengths[order], row_starts


def _cropped(offsets: np.ndarray, row_len: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, lengths and row starts of documents, some of them without their ends."""
    document, taken, row_starts = best_fit_cropped(np.diff(offsets) + 1, row_len)
    return offsets[document], taken - 1, row_starts


class _Conversations:
    """Rendered conversations, one after another."""

    def __init__(self, ids: np.ndarray, mask: np.ndarray) -> None:
        self._ids, self._mask = ids, mask

    def read(self, positions: np.ndarray) -> np.ndarray:
        return self._ids[positions].astype(np.int64)

    def read_mask(self, positions: np.ndarray) -> np.ndarray:
        return self._mask[positions]


def pack_conversations(
    rendered: Sequence[RenderedLike], row_len: int, log: Log = NULL, *, all_tokens: bool = False
) -> PackedRows:
    """Return rows of `row_len` (T + 1) slots of whole conversations; the mask says what is trained on.

    `all_tokens` trains on every token but the first, as in pretraining. A conversation that is too long is cut at
    the row's end, and left out if nothing to learn is before the cut; `log` gets a warning with the counts.
    """
    _check_row_len(row_len)
    kept, numbers, dropped_tokens, truncated = [], [], 0, 0
    for number, item in enumerate(rendered):
        cut = len(item.ids) > row_len
        truncated += cut or item.truncated
        if any(item.mask[:row_len]):
            kept.append(item)
            numbers.append(number)
            dropped_tokens += max(0, len(item.ids) - row_len)
        else:
            dropped_tokens += len(item.ids)
    left_out = len(rendered) - len(kept)
    if not kept:
        raise DataError(
            f"no conversation has anything to learn within the context: {row_len - 1} tokens",
            hint="train with a longer context, or look at the chats with nanochat data show",
        )
    if truncated or left_out:
        share = 100 * truncated / len(rendered)
        log.warning(
            f"{truncated} of {len(rendered)} conversations ({share:.1f} %) are longer than {row_len - 1} tokens and "
            f"were cut; {left_out} had nothing to learn before the cut and were left out"
        )
    lengths = np.array([min(len(item.ids), row_len) for item in kept], np.int64)
    ids = np.concatenate([np.asarray(item.ids[:row_len], np.int32) for item in kept])
    mask = np.concatenate([np.asarray(item.mask[:row_len], bool) for item in kept])
    starts = np.cumsum(lengths) - lengths
    if all_tokens:
        mask = np.ones_like(mask)
        mask[starts] = False
    order, row_starts = best_fit(lengths, row_len)
    return PackedRows(
        _Conversations(ids, mask),
        starts[order],
        lengths[order],
        row_starts,
        row_len=row_len,
        bos_id=int(ids[0]),
        lead=0,
        dropped_tokens=dropped_tokens,
        dropped_items=left_out,
        truncated_items=truncated,
        items=np.array(numbers, np.int64)[order],
    )


def _check_row_len(row_len: int) -> None:
    if row_len < 2:
        raise ConfigError(f"a row needs at least two tokens: {row_len}")
