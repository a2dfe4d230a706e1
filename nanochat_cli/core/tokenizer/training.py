"""Byte-pair training: count the pieces of a text stream, then merge the most frequent pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nanochat_cli import _bpe
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.events import Log
from nanochat_cli.core.tokenizer.patterns import Pattern

NUM_BYTES = 256
_BATCH_CHARACTERS = 1 << 22
# Native calls are kept this short, so that Ctrl-C and the progress line never wait long.
_STEP_MS = 50


def learn_tokens(
    texts: Iterable[str], num_tokens: int, *, pattern: Pattern, threads: int, log: Log
) -> tuple[list[bytes], dict[str, Any]]:
    """The bytes of `num_tokens` tokens in the order of their ids, and facts about the training text.

    The first 256 are the single bytes. The outcome depends on the texts alone: neither on their order nor on `threads`.
    Raises ConfigError if the text supports fewer tokens, DataError for text that UTF-8 cannot hold.
    """
    counter = _count(texts, pattern, threads, log)
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


def _count(texts: Iterable[str], pattern: Pattern, threads: int, log: Log) -> _bpe.Counter:
    counter = _bpe.Counter(pattern.max_digits, threads)
    for batch in _batches(texts):
        try:
            counter.feed(batch)
        except ValueError as problem:
            raise DataError(f"text that UTF-8 cannot hold, after document {counter.documents}: {problem}") from None
        log.progress("counting pieces", counter.bytes / 1e6, None, "MB")
    return counter


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
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
