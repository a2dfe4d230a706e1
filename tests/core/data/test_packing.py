from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_cli.core.data.packing import PackedRows, pack_conversations, pack_documents
from nanochat_cli.core.data.tokens import TokenSplit
from nanochat_cli.core.errors import ConfigError, DataError

BOS = 60_000


def split_of(documents: list[list[int]], num_shards: int = 1) -> TokenSplit:
    shards = []
    for part in np.array_split(np.arange(len(documents)), num_shards):
        here = [documents[i] for i in part]
        offsets = np.cumsum([0, *map(len, here)]).astype(np.int64)
        shards.append((np.array([t for d in here for t in d], np.uint16), offsets))
    return TokenSplit(shards, BOS)


def numbered(lengths: list[int]) -> list[list[int]]:
    """Documents whose tokens are all different, so that each can be followed."""
    offsets = np.cumsum([0, *lengths])
    return [list(range(a, b)) for a, b in pairwise(offsets)]


def pieces_of(rows: PackedRows) -> list[tuple[int, ...]]:
    """The stretches between BOS tokens, padding taken off by the mask."""
    found = []
    for ids, mask in zip(*rows.take(np.arange(rows.num_rows)), strict=True):
        kept = ids[mask]
        cuts = np.flatnonzero(kept == BOS)
        found += [tuple(part[1:].tolist()) for part in np.split(kept, cuts[1:])]
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(2, 25), st.integers(1, 3))
def test_laws_of_packed_documents(lengths: list[int], row_len: int, num_shards: int) -> None:
    documents = numbered(lengths)
    rows = pack_documents(split_of(documents, min(num_shards, len(documents))), row_len)
    ids, mask = rows.take(np.arange(rows.num_rows))
    assert ids.shape == mask.shape == (rows.num_rows, row_len)
    assert (ids[:, 0] == BOS).all() and mask[:, 0].all()
    assert (ids[~mask] == BOS).all()
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()  # padding is at the end only
    assert sorted(ids[mask & (ids != BOS)].tolist()) == list(range(sum(lengths)))  # each token exactly once
    room = row_len - 1
    expected = [tuple(d[at : at + room]) for d in documents for at in range(0, len(d), room)]
    assert Counter(pieces_of(rows)) == Counter(expected)
    assert rows.padding_fraction == pytest.approx(1 - mask.mean())
    assert rows.dropped_tokens == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=60), st.integers(2, 25), st.integers(1, 3))
def test_laws_of_cropped_documents(lengths: list[int], row_len: int, num_shards: int) -> None:
    documents = numbered(lengths)
    split = split_of(documents, min(num_shards, len(documents)))
    if not sum(lengths):
        with pytest.raises(DataError, match="no tokens"):
            pack_documents(split, row_len, "crop")
        return
    rows = pack_documents(split, row_len, "crop")
    ids, mask = rows.take(np.arange(rows.num_rows))
    assert ids.shape == mask.shape == (rows.num_rows, row_len)
    assert (ids[:, 0] == BOS).all() and mask[:-1].all()  # padding in the last row only
    assert (np.diff(mask[-1].astype(int)) <= 0).all() and mask[-1].sum() > 1
    beginnings = {document[0]: tuple(document) for document in documents if document}
    used = [piece for piece in pieces_of(rows) if piece]
    assert len({piece[0] for piece in used}) == len(used)  # each document once at most, and only from its beginning
    assert all(beginnings[piece[0]][: len(piece)] == piece for piece in used)
    assert rows.dropped_tokens == sum(lengths) - sum(map(len, used))
    assert rows.dropped_fraction == pytest.approx(rows.dropped_tokens / sum(lengths))
    assert rows.padding_fraction == pytest.approx(1 - mask.mean())


def test_cropping_drops_the_ends_of_long_documents_and_little_else() -> None:
    lengths = np.exp(np.random.default_rng(0).normal(np.log(60), 1.0, 5000)).astype(np.int64) + 1
    split = TokenSplit([(np.zeros(lengths.sum(), np.uint16), np.append(0, np.cumsum(lengths)))], BOS)
    beyond = np.maximum(lengths - 256, 0).sum() / lengths.sum()
    crop, whole = pack_documents(split, 257, "crop"), pack_documents(split, 257)
    assert 0 < beyond <= crop.dropped_fraction < beyond + 0.04
    assert crop.padding_fraction < 1e-3 and whole.dropped_fraction == 0 < whole.padding_fraction
    again = pack_documents(split, 257, "crop")
    assert np.array_equal(crop.starts, again.starts) and np.array_equal(crop.row_starts, again.row_starts)


def test_take_in_any_order_and_with_repeats() -> None:
    rows = pack_documents(split_of(numbered([3, 9, 27, 5, 5, 14, 2])), 11)
    ids, mask = rows.take(np.arange(rows.num_rows))
    chosen = np.array([2, 0, 2, rows.num_rows - 1])
    some_ids, some_mask = rows.take(chosen)
    assert np.array_equal(some_ids, ids[chosen]) and np.array_equal(some_mask, mask[chosen])
    assert rows.take(np.array([], np.int64))[0].shape == (0, 11)


def test_padding_of_realistic_lengths_is_small() -> None:
    lengths = np.random.default_rng(0).integers(20, 110, 4000)
    split = TokenSplit([(np.zeros(lengths.sum(), np.uint16), np.append(0, np.cumsum(lengths)))], BOS)
    assert pack_documents(split, 129).padding_fraction < 0.09
    assert pack_documents(split, 513).padding_fraction < 0.01


def test_nothing_to_pack() -> None:
    with pytest.raises(DataError, match="no tokens"):
        pack_documents(split_of([[]]), 8)
    with pytest.raises(ConfigError, match="at least two tokens: 1"):
        pack_documents(split_of([[1, 2]]), 1)


@dataclass
class Rendered:
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    truncated: bool = False


def chat(start: int, asked: int, replied: int) -> Rendered:
    return Rendered([BOS, *range(start, start + asked + replied)], [0] * (1 + asked) + [1] * replied)


def test_laws_of_packed_conversations(log) -> None:
    chats = [chat(100 * i, 3 + i % 5, 2 + i % 7) for i in range(40)]
    rows = pack_conversations(chats, 32, log)
    ids, mask = rows.take(np.arange(rows.num_rows))
    assert (ids[:, 0] == BOS).all() and not mask[:, 0].any()
    learned = [t for c in chats for t, m in zip(c.ids, c.mask, strict=True) if m]
    assert sorted(ids[mask].tolist()) == sorted(learned)
    assert sorted(ids[ids != BOS].tolist()) == sorted(t for c in chats for t in c.ids[1:])
    flat = " ".join(map(str, ids.ravel().tolist()))
    assert all(" ".join(map(str, c.ids)) in flat for c in chats)  # none is cut
    assert rows.dropped_tokens == 0 and log.events == []


def test_all_tokens_may_be_targets() -> None:
    rows = pack_conversations([chat(1, 4, 3), chat(50, 2, 2)], 20, all_tokens=True)
    ids, mask = rows.take(np.array([0]))
    assert mask.sum() == (ids != BOS).sum() == 11


def test_long_conversations_are_cut_counted_and_told(log) -> None:
    rows = pack_conversations([chat(0, 3, 3), chat(100, 5, 20), chat(200, 30, 5)], 16, log)
    ids, mask = rows.take(np.arange(rows.num_rows))
    assert rows.dropped_tokens == (26 - 16) + 36
    assert set(ids[mask].tolist()) == {3, 4, 5, *range(105, 115)}
    (warning,) = log.texts("warning")
    assert "2 of 3 conversations (66.7 %)" in warning and "1 had nothing to learn" in warning


def test_chats_with_nothing_to_learn_are_an_error() -> None:
    with pytest.raises(DataError, match="within the context: 7"):
        pack_conversations([chat(0, 30, 5)], 8)
