"""Byte-pair training: count the pieces of a text stream, then merge the most frequent pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from nanochat_cli import _bpe
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, DataError, NanochatError
from nanochat_cli.core.events import Log
from nanochat_cli.core.interrupts import uninterrupted
from nanochat_cli.core.tokenizer.limits import Limits, cropped
from nanochat_cli.core.tokenizer.patterns import Counting, Pattern
from nanochat_cli.core.tokenizer.unfinished import Unfinished
from nanochat_cli.core.units import write_size

NUM_BYTES = 256
_BATCH_CHARACTERS = 1 << 22
# Native calls are kept short, so that Ctrl-C and the progress line never wait long: this much time, or text.
_STEP_MS = 50
_SLICE_BYTES, _SLOW_SLICE_BYTES = 1 << 24, 1 << 18
_QUICKLY_SAVED = 1_000_000  # pieces that go to the disk in a fraction of a second
_PARTITIONS = 64  # of a file of counts: rust/bpe/src/spill.rs
_BYTES_PER_TOKEN, _BYTES_PER_THREAD = 400, 1 << 18  # taken before anything is counted: rust/bpe/src/train.rs, count.rs


class ArrowArray(Protocol):
    """An Arrow array of text (utf8, large_utf8, utf8_view), such as a pyarrow.Array; it is read where it lies."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...
    def __len__(self) -> int: ...


Batch = list[str] | ArrowArray
"""Some documents."""
Source = Callable[[int], Iterable[Batch]]
"""The documents behind the first n."""


class BadText(DataError):
    """A document that is no UTF-8."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row
        """Its number in the whole text, from 0, nulls included."""


@dataclass(frozen=True)
class Options:
    """How a training goes about its work."""

    threads: int
    limits: Limits = field(default_factory=Limits)
    max_memory: int | None = None
    """Bytes that counts and merges may take, beside the interpreter and the text that is being read."""
    min_piece_count: int = 1
    """Pieces that occur less often are left out before merging: the tokens are then no longer exact."""
    allow_smaller: bool = False
    """Accept fewer tokens than asked for where the text supports no more."""
    text_bytes: int | None = None
    """Size of the text, if known: for the progress line."""


def learn_tokens(
    source: Source, num_tokens: int, pattern: Pattern, options: Options, saved: Unfinished, log: Log
) -> tuple[list[bytes], dict[str, Any]]:
    """The bytes of `num_tokens` tokens in the order of their ids, and facts about the training text.

    The first 256 are the single bytes. The outcome depends on the texts alone: neither on their order nor on threads,
    memory or interruptions (a limit on all characters makes the order matter). Raises DataError if the text supports
    fewer tokens or UTF-8 cannot hold it, ConfigError if the memory is too small.
    """
    if not pattern.is_native:
        log.note("this split pattern takes the slow path: a general regular expression, a few MB of text per second")
    fixed = num_tokens * _BYTES_PER_TOKEN + options.threads * _BYTES_PER_THREAD
    if options.max_memory is not None and options.max_memory < fixed:
        raise ConfigError(
            f"{num_tokens:,} tokens and {options.threads} threads need more memory: {write_size(options.max_memory)}",
            hint=f"use --max-memory {write_size(fixed).replace(' ', '')} at least",
        )
    with saved:
        pieces = _count(source, num_tokens, pattern, options, saved, log)
        facts: dict[str, Any] = {"documents": saved.documents, "bytes": saved.bytes}
        if not saved.bytes:
            raise DataError("no text to train a tokenizer on", hint="nanochat data list shows what a corpus holds")
        facts["distinct_pieces"] = len(pieces)
        if options.min_piece_count > 1:
            facts["min_piece_count"] = options.min_piece_count
        _check_memory(pieces, num_tokens, options, 1.0)
        try:
            trainer = _bpe.Trainer(pieces, num_tokens)
        except ValueError as problem:
            raise ConfigError(
                str(problem), hint="leave out rare pieces with --min-piece-count 2, or read less with --max-chars"
            ) from None
        _merge(trainer, pieces, num_tokens, saved, log)
    if trainer.num_tokens < num_tokens and not options.allow_smaller:
        _refuse(num_tokens, trainer.num_tokens)
    facts["tokens"] = trainer.encoded_length()
    return trainer.tokens(), facts


def _refuse(asked: int, reached: int) -> None:
    from nanochat_cli.core.tokenizer.tokenizer import SPECIALS

    largest = reached + len(SPECIALS)
    raise DataError(
        f"vocabulary larger than the text supports: {asked + len(SPECIALS)} asked, {largest} reached",
        hint=f"use --vocab {largest} or less, train on more text, or accept what there is: --allow-smaller",
    )


def _check_memory(pieces: _bpe.Pieces, num_tokens: int, options: Options, share: float) -> None:
    """Raise ConfigError if merging needs more than is allowed; `share` says which part of the pieces there is."""
    needed, limit = pieces.merge_memory(num_tokens), options.max_memory
    if limit is not None and needed > limit:
        fixed = num_tokens * _BYTES_PER_TOKEN
        size, count = write_size(fixed + int((needed - fixed) / share)), int(len(pieces) / share)
        rare = options.min_piece_count + 1
        raise ConfigError(
            f"merging {count:,} distinct pieces needs about {size} of memory, {write_size(limit)} allowed",
            hint=f"use --max-memory {size.replace(' ', '')}, or leave out rarer pieces: --min-piece-count {rare}",
        )


# ---- merging ----


def _merge(trainer: _bpe.Trainer, pieces: _bpe.Pieces, num_tokens: int, saved: Unfinished, log: Log) -> None:
    known = len(saved.merges)  # while these are followed, what is saved is more than what is done
    try:
        trainer.follow(saved.merges)
        done = False
        while not done:
            done = trainer.step(_STEP_MS)
            log.progress("merging pairs", trainer.num_tokens - NUM_BYTES, num_tokens - NUM_BYTES, "merges")
            if saved.due() and trainer.num_tokens - NUM_BYTES > known:
                saved.save_merges(pieces, trainer.merges())
    except KeyboardInterrupt:
        if trainer.num_tokens - NUM_BYTES > known or not saved.counted:
            saved.save_merges(pieces, trainer.merges())
        raise
    except (ValueError, OverflowError) as problem:
        raise _damaged(problem) from None


def _damaged(problem: Exception) -> DamagedArtifact:
    return DamagedArtifact(f"the interrupted training is damaged: {problem}", hint="begin anew without --resume")


# ---- counting ----


def _count(
    source: Source, num_tokens: int, pattern: Pattern, options: Options, saved: Unfinished, log: Log
) -> _bpe.Pieces:
    if not saved.counted:
        counter = pattern.counter(options.threads)
        try:
            _count_text(source, counter, pattern, options, saved, log)
        except KeyboardInterrupt:
            if counter.distinct <= _QUICKLY_SAVED:
                saved.spill(counter)
            raise
        if not saved.counts:
            return counter.finish(options.min_piece_count)
        saved.spill(counter, last=True)
        del counter
    pieces = _bpe.Pieces()
    for partition in range(_PARTITIONS):
        try:
            pieces.gather(saved.counts, partition, options.min_piece_count)
        except (ValueError, FileNotFoundError) as problem:
            raise _damaged(problem) from None
        except OSError as problem:
            raise NanochatError(f"cannot read what was counted: {problem.filename} ({problem.strerror})") from None
        log.progress("putting counts together", partition + 1, _PARTITIONS, "parts")
        _check_memory(pieces, num_tokens, options, (partition + 1) / _PARTITIONS)
    return pieces


def _count_text(
    source: Source, counter: Counting, pattern: Pattern, options: Options, saved: Unfinished, log: Log
) -> None:
    earlier_documents, earlier_bytes = saved.documents, saved.bytes
    max_chars, total = options.limits.max_chars, options.text_bytes
    share = None if options.max_memory is None else options.max_memory // 4  # a table that grows is copied
    size = min(_SLICE_BYTES if pattern.is_native else _SLOW_SLICE_BYTES, (share or _SLICE_BYTES) // 4)
    for batch in _sliced(source(saved.rows), size):
        left = None if max_chars is None else max_chars - saved.chars
        if left is not None and left < 0:  # the document that carries the sum beyond the limit is still read
            break
        with uninterrupted():  # what is counted and how far the text is read belong together
            try:
                saved.chars += _feed(counter, batch, options.limits.doc_cap, left)
            except TypeError as problem:
                raise DataError(f"after document {saved.rows}: {problem}") from None
            except ValueError as problem:
                raise _bad_text(problem, saved.rows) from None
            saved.rows += len(batch)
            saved.documents = earlier_documents + counter.documents
            saved.bytes = earlier_bytes + counter.bytes
        detail = f"{counter.pieces:,} pieces, about {counter.distinct:,} distinct"
        log.progress("counting pieces", saved.bytes / 1e6, total / 1e6 if total else None, "MB", detail)
        if saved.due() or (share is not None and counter.memory > share):
            saved.spill(counter)


def _bad_text(problem: ValueError, rows: int) -> DataError:
    found = re.search(r"invalid UTF-8 in row (\d+)", str(problem))
    text = f"text that UTF-8 cannot hold, after document {rows}: {problem}"
    return BadText(text, rows + int(found[1])) if found else DataError(text)


def _feed(counter: Counting, batch: Batch, doc_cap: int | None, left: int | None) -> int:
    """Count a batch and return its characters, those beyond the limits left out."""
    if not isinstance(batch, list):
        return counter.feed_arrow(batch, doc_cap, left)
    texts, chars = cropped(batch, doc_cap, left)
    counter.feed(texts)
    return chars


def _sliced(batches: Iterable[Batch], limit: int) -> Iterator[Batch]:
    """The batches, large ones in slices of about `limit` bytes."""
    for batch in batches:
        size = sum(map(len, batch)) if isinstance(batch, list) else getattr(batch, "nbytes", 0)
        rows = max(1, len(batch) * limit // max(size, 1))
        if rows >= len(batch):
            yield batch
            continue
        for start in range(0, len(batch), rows):
            yield batch[start : start + rows]  # type: ignore[index]  # Arrow arrays are sliced like lists


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


def behind(batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """The batches without their first `rows` documents."""
    for batch in batches:
        if rows >= len(batch):
            rows -= len(batch)
            continue
        yield batch[rows:] if rows else batch  # type: ignore[index]
        rows = 0
