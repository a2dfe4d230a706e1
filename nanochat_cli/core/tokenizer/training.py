"""Byte-pair training: count the pieces of a text stream, then merge the most frequent pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from nanochat_cli import _bpe
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.events import Log
from nanochat_cli.core.tokenizer.patterns import Pattern

NUM_BYTES = 256
_BATCH_CHARACTERS = 1 << 22
# Native calls are kept this short, so that Ctrl-C and the progress line never wait long.
_STEP_MS = 50


class ArrowArray(Protocol):
    """An Arrow array of text (utf8 or large_utf8), such as a pyarrow.Array; it is read where it lies."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...


Batch = list[str] | ArrowArray
"""Some documents."""


@dataclass(frozen=True)
class Limits:
    """How much of the text is read: characters of each document, and of all of them."""

    doc_cap: int | None = None
    max_chars: int | None = None


NO_LIMITS = Limits()


def learn_tokens(
    batches: Iterable[Batch],
    num_tokens: int,
    *,
    pattern: Pattern,
    threads: int,
    log: Log,
    limits: Limits = NO_LIMITS,
) -> tuple[list[bytes], dict[str, Any]]:
    """The bytes of `num_tokens` tokens in the order of their ids, and facts about the training text.

    The first 256 are the single bytes. The outcome depends on the texts alone: neither on their order nor on `threads`
    (a limit on all characters makes the order matter). Raises ConfigError if the text supports fewer tokens, DataError
    for text that UTF-8 cannot hold.
    """
    counter = _count(batches, pattern, threads, limits, log)
    facts: dict[str, Any] = {"documents": counter.documents, "bytes": counter.bytes}
    if not counter.bytes:
        raise DataError("no text to train a tokenizer on", hint="nanochat data list shows what a corpus holds")
    trainer = counter.trainer(num_tokens)
    done = False
    while not done:
        done = trainer.step(_STEP_MS)
        log.progress("merging pairs", trainer.num_tokens - NUM_BYTES, num_tokens - NUM_BYTES, "merges")
    if trainer.num_tokens < num_tokens:
        _refuse(num_tokens, trainer.num_tokens)
    facts["distinct_pieces"] = trainer.pieces
    facts["tokens"] = trainer.encoded_length()
    return trainer.tokens(), facts


def _refuse(asked: int, reached: int) -> None:
    from nanochat_cli.core.tokenizer.tokenizer import SPECIALS

    largest = reached + len(SPECIALS)
    raise ConfigError(
        f"vocabulary larger than the text supports: {asked + len(SPECIALS)} asked, {largest} reached",
        hint=f"use --vocab {largest} or less, or train on more text",
    )


def _count(batches: Iterable[Batch], pattern: Pattern, threads: int, limits: Limits, log: Log) -> _bpe.Counter:
    counter = _bpe.Counter(pattern.max_digits, threads)
    left = limits.max_chars
    for batch in batches:
        try:
            chars = _feed(counter, batch, limits.doc_cap, left)
        except ValueError as problem:
            raise DataError(f"text that UTF-8 cannot hold, after document {counter.documents}: {problem}") from None
        log.progress("counting pieces", counter.bytes / 1e6, None, "MB")
        if left is not None:
            left -= chars
            if left < 0:  # the document that carries the sum beyond the limit is still read
                break
    return counter


def _feed(counter: _bpe.Counter, batch: Batch, doc_cap: int | None, left: int | None) -> int:
    """Count a batch and return its characters, those beyond the limits left out."""
    if not isinstance(batch, list):
        return counter.feed_arrow(batch, doc_cap, left)
    chars, texts = 0, []
    for text in batch:
        texts.append(text[:doc_cap])
        chars += len(texts[-1])
        if left is not None and chars > left:
            break
    counter.feed(texts)
    return chars


def in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts, each list about 4 million characters long: enough to keep every thread busy."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
