"""Text straight from Arrow arrays: the same tokens and ids as from Python strings, whatever the array looks like."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from nanochat_cli import _bpe
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.tokenizer.limits import Limits
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.tokenizer.training import Options

TEXTS = ["the cat sat on the mat", "", "naïve café 中文 😀 12345", "  the end\n\n", "don't we'll"] * 20


def shapes() -> dict[str, Any]:
    """The same texts in every way that an array can hold them."""
    padded = pa.array(["other", *TEXTS, "more"])
    with_nulls = pa.array([text for text in TEXTS for text in (text, None)])
    return {
        "plain": pa.array(TEXTS),
        "large": pa.array(TEXTS, pa.large_string()),
        "views": pa.array(TEXTS, pa.string_view()),
        "slice of views": pa.array([None, "other", *TEXTS, None], pa.string_view()).slice(2, len(TEXTS)),
        "slice": padded.slice(1, len(TEXTS)),
        "nulls": with_nulls,
        "slice with nulls": pa.array([None, "other", *TEXTS, None]).slice(2, len(TEXTS)),
    }


@pytest.mark.parametrize("shape", shapes())
def test_the_same_tokens_and_ids(shape: str) -> None:
    array = shapes()[shape]
    plain = Tokenizer.train(TEXTS, 300)
    found = Tokenizer.train_on_batches([array.slice(0, 31), array.slice(31)], 300)
    assert found.hash == plain.hash and found.training == plain.training
    for bos in (False, True):
        ids, offsets = plain.encode_batch(TEXTS, bos=bos)
        got, ends = found.encode_batch(array, threads=2, bos=bos)
        assert got.tolist() == ids.tolist() and ends.tolist() == offsets.tolist()


def test_an_empty_array_and_one_of_nulls_hold_nothing() -> None:
    tokenizer = Tokenizer.train(TEXTS, 300)
    for array in (pa.array([], pa.string()), pa.array([None, None], pa.string()), pa.array(TEXTS).slice(3, 0)):
        ids, offsets = tokenizer.encode_batch(array)
        assert len(ids) == 0 and offsets.tolist() == [0]


@pytest.mark.parametrize("array", [pa.array([1, 2]), pa.array([b"x"]), pa.array([["x"]])])
def test_what_is_no_text_is_refused_by_its_type(array: Any) -> None:
    with pytest.raises(TypeError, match="format is"):
        _bpe.Counter(_bpe.Splitter("gpt2"), 1).feed_arrow(array)


def test_a_row_that_is_no_utf8_is_named() -> None:
    bytes_ = pa.array([b"fine", b"bad \xff", b"fine"])
    broken = pa.Array.from_buffers(pa.string(), 3, bytes_.buffers())
    with pytest.raises(DataError, match="row 1"):
        Tokenizer.train_on_batches([broken], 300)
    with pytest.raises(DataError, match="row 1"):
        Tokenizer.train(TEXTS, 300).encode_batch(broken)


@pytest.mark.parametrize("max_chars", [1, 21, 22, 23, 40, 10_000])
@pytest.mark.parametrize("doc_cap", [None, 3, 13])
def test_limits_count_characters_and_keep_the_document_that_crosses(max_chars: int, doc_cap: int | None) -> None:
    texts, want, total = ["😀" * 5, *TEXTS], [], 0
    for text in texts:
        want.append(text[:doc_cap])
        total += len(want[-1])
        if total > max_chars:
            break
    options = Options(threads=2, limits=Limits(doc_cap=doc_cap, max_chars=max_chars))
    for batches in ([pa.array(texts[:4]), pa.array(texts[4:])], [texts[:7], texts[7:]]):
        training = Tokenizer.train_on_batches(batches, 265, options=options).training
        assert training["documents"] == len(want)
        assert training["bytes"] == sum(len(text.encode()) for text in want)
