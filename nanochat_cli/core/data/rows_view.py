"""What a stage makes of its data: conversations with what is trained on, and rows with what shares them.

Both are looked at through the functions that training packs with. Of much data the beginning is measured, and a view
says so: `sampled` is True, and numbers of rows are those of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.data.corpus import Corpus, Split
from nanochat_cli.core.data.holdout import is_held_out
from nanochat_cli.core.data.order import sample_rows
from nanochat_cli.core.data.packing import PackedRows, Packing, pack_conversations, pack_documents
from nanochat_cli.core.data.tokens import BatchEncoder, TokenSplit
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.tokenizer.conversation import Conversation, Rendered, render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

MEASURED = 5_000  # conversations or documents that a view is computed on, at most
MEASURED_CHARS = 20_000_000  # and of documents no more than about this


@dataclass(frozen=True)
class ChatView:
    """A conversation within the context. `ids` and `mask` (1 = trained on) are of the part that is in the row.

    `row` is None if it is in none: held out for validation, or with nothing to learn before the cut.
    """

    number: int
    messages: list[dict[str, Any]]
    ids: list[int]
    mask: list[int]
    lost_tokens: int
    held_out: bool
    row: int | None


@dataclass(frozen=True)
class RowView:
    """A row: the numbers of what shares it, in order, and its empty slots."""

    row: int
    items: list[int]
    tokens: int
    padding: int


@dataclass(frozen=True)
class ChatSummary:
    """Conversations within a context of `max_seq_len` tokens; shares are of 1, lengths in tokens.

    `padding_share` is None where not a single conversation fits; truncation and loss are of what is trained on.
    """

    conversations: int
    sampled: bool
    held_out: int
    mean_tokens: float
    longest_tokens: int
    trained_share: float
    max_seq_len: int
    truncated: int
    truncated_share: float
    left_out: int
    lost_tokens: int
    lost_share: float
    rows: int
    padding_share: float | None


@dataclass(frozen=True)
class ChatsView:
    """What `chats` returns."""

    items: list[ChatView]
    rows: list[RowView]
    summary: ChatSummary

    def to_json(self) -> dict[str, Any]:
        """The view as plain values."""
        return asdict(self)


def chats(
    path: Path, tokenizer: Tokenizer, max_seq_len: int, num: int, *, seed: int | None = None, all_tokens: bool = False
) -> ChatsView:
    """Return conversations as a chat stage trains on them, and the rows that they are in.

    The first `num` of the file, or any `num` of those measured, picked by `seed`. `all_tokens` as mid-training has it.
    """
    found = read_chats(path, MEASURED + 1)
    more = {"seed": seed, "all_tokens": all_tokens}
    return conversations(found[:MEASURED], tokenizer, max_seq_len, num, sampled=len(found) > MEASURED, **more)


def conversations(
    found: Sequence[Conversation],
    tokenizer: Tokenizer,
    max_seq_len: int,
    num: int,
    *,
    sampled: bool = False,
    seed: int | None = None,
    all_tokens: bool = False,
    hold: bool = True,
) -> ChatsView:
    """Return what `chats` returns of these conversations; `hold` False if none of them is held out."""
    rendered = [render(tokenizer, conversation) for conversation in found]
    kept = [number for number in range(len(found)) if not (hold and is_held_out(number, len(found)))]
    held = set(range(len(found))).difference(kept)
    try:
        packed = pack_conversations([rendered[number] for number in kept], max_seq_len + 1, all_tokens=all_tokens)
        places = _places(packed, kept)
    except DataError:  # not one fits: there is nothing to pack
        packed, places = None, []
    row_of = {number: row for row, numbers in enumerate(places) for number in numbers}
    total = len(found)
    picked = range(min(num, total)) if seed is None else sorted(sample_rows(0, min(num, total), total, seed).tolist())
    items = [
        _chat_view(
            number, found[number], rendered[number], max_seq_len + 1, all_tokens, row_of.get(number), number in held
        )
        for number in picked
    ]
    shown = sorted({item.row for item in items if item.row is not None})
    rows = [_row_view(packed, row, places[row]) for row in shown if packed is not None]
    return ChatsView(items, rows, _chat_summary(rendered, kept, packed, max_seq_len, sampled, all_tokens))


def _places(packed: PackedRows, kept: Sequence[int]) -> list[list[int]]:
    """For each row the numbers of the conversations in it."""
    assert packed.items is not None
    return [[kept[i] for i in packed.items[a:b]] for a, b in zip(packed.row_starts, packed.row_starts[1:])]


def _row_view(packed: PackedRows, row: int, items: list[int]) -> RowView:
    pieces = slice(int(packed.row_starts[row]), int(packed.row_starts[row + 1]))
    tokens = int(packed.lengths[pieces].sum()) + packed.lead * len(items)
    return RowView(row, items, tokens, packed.row_len - tokens)


def _trained(item: Rendered, all_tokens: bool) -> list[int]:
    return [0] + [1] * (len(item.ids) - 1) if all_tokens else item.mask


def _chat_view(
    number: int,
    conversation: Conversation,
    item: Rendered,
    row_len: int,
    all_tokens: bool,
    row: int | None,
    held_out: bool,
) -> ChatView:
    return ChatView(
        number=number,
        messages=conversation.to_json()["messages"],
        ids=item.ids[:row_len],
        mask=_trained(item, all_tokens)[:row_len],
        lost_tokens=max(0, len(item.ids) - row_len),
        held_out=held_out,
        row=row,
    )


def _chat_summary(
    rendered: list[Rendered],
    kept: list[int],
    packed: PackedRows | None,
    max_seq_len: int,
    sampled: bool,
    all_tokens: bool,
) -> ChatSummary:
    lengths = [len(item.ids) for item in rendered]
    tokens = sum(lengths[number] for number in kept)
    truncated = sum(lengths[number] > max_seq_len + 1 for number in kept)
    lost = packed.dropped_tokens if packed else tokens
    return ChatSummary(
        conversations=len(rendered),
        sampled=sampled,
        held_out=len(rendered) - len(kept),
        mean_tokens=sum(lengths) / len(lengths),
        longest_tokens=max(lengths),
        trained_share=sum(sum(_trained(item, all_tokens)) for item in rendered) / sum(lengths),
        max_seq_len=max_seq_len,
        truncated=truncated,
        truncated_share=truncated / len(kept),
        left_out=packed.dropped_items if packed else len(kept),
        lost_tokens=lost,
        lost_share=lost / tokens,
        rows=packed.num_rows if packed else 0,
        padding_share=packed.padding_fraction if packed else None,
    )


# ---- documents -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PieceView:
    """A document, or a piece of one, in a row: `tokens` of it from token `first` on, `cropped` are lost after that."""

    document: int
    first: int
    tokens: int
    cropped: int


@dataclass(frozen=True)
class TextRowView:
    """A row of documents with all its slots, padding included; mask is 1 where a token may be a target."""

    row: int
    pieces: list[PieceView]
    padding: int
    ids: list[int]
    mask: list[int]


@dataclass(frozen=True)
class TextSummary:
    """Documents within rows of `max_seq_len` + 1 slots; shares are of 1."""

    documents: int
    documents_in_split: int
    sampled: bool
    tokens: int
    max_seq_len: int
    packing: str
    rows: int
    documents_per_row: float
    cut_share: float
    """Share of the documents that are cropped (crop) or continued in another piece (whole)."""
    cropped_share: float
    padding_share: float


@dataclass(frozen=True)
class TextView:
    """What `texts` returns."""

    rows: list[TextRowView]
    summary: TextSummary

    def to_json(self) -> dict[str, Any]:
        """The view as plain values."""
        return asdict(self)


def texts(
    corpus: Corpus,
    split: Split,
    tokenizer: BatchEncoder,
    max_seq_len: int,
    num: int,
    *,
    seed: int = 0,
    packing: Packing = "whole",
) -> TextView:
    """Return the first rows of documents in the order of `seed`: those that training with it begins with, if all of
    the split is measured, else those of the sample.
    """
    tokens, total = _encoded(corpus, split, tokenizer), corpus.num_documents(split)
    packed = pack_documents(tokens, max_seq_len + 1, packing)
    numbers = sample_rows(0, min(num, packed.num_rows), packed.num_rows, seed)
    sizes, owners = np.diff(tokens.doc_offsets), _owners(tokens, packed)
    taken = np.bincount(owners, weights=packed.lengths, minlength=tokens.num_docs)
    pieces = np.bincount(owners, minlength=tokens.num_docs)
    return TextView(
        rows=[_text_row(packed, int(row), owners, tokens.doc_offsets, packing) for row in numbers],
        summary=TextSummary(
            documents=tokens.num_docs,
            documents_in_split=total,
            sampled=tokens.num_docs < total,
            tokens=tokens.num_tokens,
            max_seq_len=max_seq_len,
            packing=packing,
            rows=packed.num_rows,
            documents_per_row=len(packed.lengths) / packed.num_rows,
            cut_share=float(((taken < sizes) | (pieces > 1)).mean()),
            cropped_share=packed.dropped_fraction,
            padding_share=packed.padding_fraction,
        ),
    )


def _encoded(corpus: Corpus, split: Split, tokenizer: BatchEncoder) -> TokenSplit:
    """The first documents of a split as tokens."""
    shards: list[tuple[np.ndarray, np.ndarray]] = []
    documents = chars = 0
    for array in corpus.arrays(split):
        here = array[: MEASURED - documents]
        tokens, offsets = tokenizer.encode_batch(here)
        shards.append((np.asarray(tokens), np.asarray(offsets)))
        documents, chars = documents + len(here), chars + here.nbytes
        if documents >= MEASURED or chars >= MEASURED_CHARS:
            break
    return TokenSplit(shards, tokenizer.bos_id)


def _owners(tokens: TokenSplit, packed: PackedRows) -> np.ndarray:
    """For each piece the number of its document."""
    return np.searchsorted(tokens.doc_offsets, packed.starts, side="right") - 1


def _text_row(packed: PackedRows, row: int, owners: np.ndarray, offsets: np.ndarray, packing: Packing) -> TextRowView:
    pieces = []
    for piece in range(int(packed.row_starts[row]), int(packed.row_starts[row + 1])):
        document, start, size = int(owners[piece]), int(packed.starts[piece]), int(packed.lengths[piece])
        after = int(offsets[document + 1]) - start - size
        cropped = after if packing == "crop" else 0
        pieces.append(PieceView(document, start - int(offsets[document]), size, cropped))
    ids, mask = packed.take(np.array([row]))
    filled = sum(piece.tokens for piece in pieces) + packed.lead * len(pieces)
    shown = mask[0].astype(np.int64)
    shown[0] = 0  # the first slot is read only; a BOS further on is a target: that a document ends is learnt, too
    return TextRowView(row, pieces, packed.row_len - filled, ids[0].tolist(), shown.tolist())
