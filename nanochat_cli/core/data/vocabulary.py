"""A tokenizer trained on corpora or on text files: from what was asked for to a saved tokenizer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core import paths
from nanochat_cli.core.data import corpus as corpora
from nanochat_cli.core.data import importer, readers
from nanochat_cli.core.data.ahead import read_ahead
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.tokenizer import patterns
from nanochat_cli.core.tokenizer.tokenizer import INFO_FILE, Tokenizer, check_vocab_size
from nanochat_cli.core.tokenizer.training import Batch, Limits, in_batches

_SMALLEST, _LARGEST = 512, 65_536
_BYTES_PER_TOKEN = 1_000
_HELD_OUT_CHARS = 4_000_000


@dataclass(frozen=True)
class Plan:
    """Everything settled before any text is read."""

    name: str
    folder: Path
    corpora: tuple[Corpus, ...]
    files: tuple[Path, ...]
    vocab_size: int
    pattern: str
    text_bytes: int
    """Size of the training text; for files an estimate from their size on disk."""
    max_chars: int | None = None
    doc_cap: int | None = None

    def facts(self) -> dict[str, Any]:
        """What a dry run shows."""
        return {
            "tokenizer": self.name,
            "corpora": [corpus.name for corpus in self.corpora],
            "files": [str(path) for path in self.files],
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "text_bytes": self.text_bytes,
            "dir": str(self.folder),
        }


def make_plan(
    inputs: Iterable[str] = (),
    *,
    name: str | None = None,
    vocab: int | None = None,
    pattern: str | None = None,
    max_chars: int | None = None,
    doc_cap: int | None = None,
    force: bool = False,
) -> Plan:
    """Settle name, sources, vocabulary size and pattern; None means automatic, and no input the newest corpus.

    Raises ConfigError for a size or name that cannot be, or a name that is taken unless `force`; MissingArtifact and
    DataError for inputs that are not there.
    """
    if vocab is not None:
        check_vocab_size(vocab)
    found, files = _sources(list(inputs))
    text_bytes = sum(corpus.text_bytes("train") for corpus in found) + sum(path.stat().st_size for path in files)
    vocab_size = vocab if vocab is not None else automatic_vocab_size(text_bytes)
    chosen = patterns.find(pattern if pattern is not None else patterns.automatic(vocab_size)).name
    called = paths.check_name("tokenizer", name if name is not None else _name_of(found, files))
    folder = paths.tokenizer_dir(called)
    if (folder / INFO_FILE).is_file() and not force:
        raise ConfigError(
            f"there is a tokenizer of this name already: {called}",
            hint="use another --name, or replace it with --force",
        )
    return Plan(called, folder, found, files, vocab_size, chosen, text_bytes, max_chars, doc_cap)


def train(plan: Plan, *, threads: int | None = None, log: Log = NULL) -> dict[str, Any]:
    """Train and save the tokenizer of a plan; returns its facts, with bytes per token on training and held-out text."""
    began = time.monotonic()
    tokenizer = Tokenizer.train_on_batches(
        read_ahead(_batches(plan)),
        plan.vocab_size,
        pattern=plan.pattern,
        threads=threads,
        limits=Limits(doc_cap=plan.doc_cap, max_chars=plan.max_chars),
        log=log,
    )
    tokenizer.save(plan.folder, replace=True)
    facts = tokenizer.training
    held_out = list(_first(_held_out(plan), _HELD_OUT_CHARS))
    return {
        "tokenizer": plan.name,
        "vocab_size": tokenizer.vocab_size,
        "pattern": plan.pattern,
        "documents": facts["documents"],
        "text_bytes": facts["bytes"],
        "tokens": facts["tokens"],
        "bytes_per_token": facts["bytes"] / facts["tokens"],
        "held_out_bytes_per_token": bytes_per_token(tokenizer, held_out),
        "seconds": round(time.monotonic() - began, 2),
        "hash": tokenizer.hash,
        "dir": str(plan.folder),
    }


def bytes_per_token(tokenizer: Tokenizer, texts: list[str]) -> float | None:
    """How many bytes of `texts` one token stands for, on average; None for no text."""
    ids, _ = tokenizer.encode_batch(texts)
    return float(tokenizer.token_bytes()[ids].mean()) if len(ids) else None


def automatic_vocab_size(text_bytes: int) -> int:
    """A vocabulary in proportion to the text: a power of two from 512 to 65,536, about one token per kilobyte."""
    wanted = max(_SMALLEST, min(_LARGEST, text_bytes // _BYTES_PER_TOKEN))
    return 1 << (wanted.bit_length() - 1)


def _sources(inputs: list[str]) -> tuple[tuple[Corpus, ...], tuple[Path, ...]]:
    if not inputs:
        return (corpora.newest(),), ()
    known = corpora.names()
    paths_given = [text for text in inputs if text not in known and _is_path(text)]
    found = tuple(Corpus.open(text) for text in inputs if text not in paths_given)
    return found, importer.find(paths_given).files if paths_given else ()


def _is_path(text: str) -> bool:
    return "/" in text or Path(text).exists() or Path(text).suffix in (*readers.KNOWN, ".gz", ".zst")


def _name_of(found: tuple[Corpus, ...], files: tuple[Path, ...]) -> str:
    if len(found) == 1 and not files:
        return found[0].name
    raise ConfigError("a tokenizer that is not trained on a single corpus needs a name", hint="add --name NAME")


def _batches(plan: Plan) -> Iterator[Batch]:
    """The training text: corpora as Arrow arrays, then files as lists."""
    for corpus in plan.corpora:
        yield from corpus.arrays("train")
    yield from in_batches(text for path in plan.files for _, text in readers.read(path, "text", "auto"))


def _held_out(plan: Plan) -> Iterator[str]:
    for corpus in plan.corpora:
        for group in corpus.documents("val"):
            yield from group


def _first(texts: Iterator[str], max_chars: int) -> Iterator[str]:
    """Texts until the one that carries the sum of their characters beyond `max_chars`."""
    total = 0
    for text in texts:
        yield text
        total += len(text)
        if total > max_chars:
            return
