"""A tokenizer trained on corpora or on text files: from what was asked for to a saved tokenizer."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core import files, machine, paths, runs
from nanochat_cli.core.data import corpus as corpora
from nanochat_cli.core.data import importer, readers
from nanochat_cli.core.data.ahead import read_ahead
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.errors import ConfigError, DataError, MissingArtifact, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.settings import TokSection
from nanochat_cli.core.tokenizer import patterns
from nanochat_cli.core.tokenizer.limits import Limits
from nanochat_cli.core.tokenizer.patterns import Pattern
from nanochat_cli.core.tokenizer.tokenizer import INFO_FILE, Tokenizer, check_vocab_size
from nanochat_cli.core.tokenizer.training import BadText, Batch, Options, behind, in_batches
from nanochat_cli.core.tokenizer.unfinished import STATE, Unfinished
from nanochat_cli.core.units import parse_size

_SMALLEST, _LARGEST = 512, 65_536
_BYTES_PER_TOKEN = 1_000
_HELD_OUT_CHARS = 4_000_000
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Plan:
    """Everything settled before any text is read."""

    name: str
    folder: Path
    corpora: tuple[Corpus, ...]
    files: tuple[Path, ...]
    vocab_size: int
    pattern: Pattern
    text_bytes: int
    """Size of the training text; for files an estimate from their size on disk."""
    options: Options
    text_field: str = "text"
    """JSON field or column of files that holds the text."""
    force: bool = False
    """Replace a tokenizer of the same name."""

    def facts(self) -> dict[str, Any]:
        """What a dry run shows."""
        return {
            "tokenizer": self.name,
            "corpora": [corpus.name for corpus in self.corpora],
            "files": [str(path) for path in self.files],
            "vocab_size": self.vocab_size,
            "pattern": self.pattern.name,
            "text_bytes": self.text_bytes,
            "threads": self.options.threads,
            "dir": str(self.folder),
        }

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the outcome: an interrupted training goes on only if none of it has changed."""
        limits = self.options.limits
        return {
            "corpora": [corpus.fingerprint for corpus in self.corpora],
            "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in self.files],
            "vocab_size": self.vocab_size,
            "pattern": self.pattern.regex,
            "doc_cap": limits.doc_cap,
            "max_chars": limits.max_chars,
            "min_piece_count": self.options.min_piece_count,
            "text_field": self.text_field,
        }

    @property
    def unfinished_dir(self) -> Path:
        """Where an interrupted training of this tokenizer waits."""
        return self.folder.with_name(f".{self.name}{_UNFINISHED}")

    def can_resume(self) -> bool:
        """True if this very training was interrupted and has saved what it did."""
        try:
            return self.unfinished().load()
        except NanochatError:
            return False

    def unfinished(self) -> Unfinished:
        """How far an interrupted training of this tokenizer came, once it is loaded."""
        return Unfinished(self.unfinished_dir, self.identity)


def plan_of(section: TokSection, *, force: bool = False) -> Plan:
    """The plan that a command's options ask for; errors as those of `make_plan`."""
    asked = dataclasses.asdict(section)
    return make_plan(asked.pop("input"), **asked, force=force)


def make_plan(
    inputs: Iterable[str] = (),
    *,
    name: str | None = None,
    vocab: int | None = None,
    pattern: str | None = None,
    text_field: str = "text",
    max_chars: int | None = None,
    doc_cap: int | None = None,
    threads: int | None = None,
    max_memory: str | None = None,
    min_piece_count: int = 1,
    allow_smaller: bool = False,
    force: bool = False,
) -> Plan:
    """Settle name, sources, vocabulary size and pattern; None means automatic, and no input the newest corpus.

    Raises ConfigError for a size or name that cannot be, or a name that is taken unless `force`; MissingArtifact and
    DataError for inputs that are not there.
    """
    if vocab is not None:
        check_vocab_size(vocab)
    found, given = _sources(list(inputs))
    sizes = [readers.text_size(path, text_field) for path in given]
    told = [size if size is not None else path.stat().st_size for size, path in zip(sizes, given)]
    text_bytes = sum(corpus.text_bytes("train") for corpus in found) + sum(told)
    vocab_size = vocab if vocab is not None else automatic_vocab_size(text_bytes)
    chosen = patterns.find(pattern if pattern is not None else patterns.automatic(vocab_size))
    called = paths.check_name("tokenizer", name if name is not None else _name_of(found, given))
    folder = paths.tokenizer_dir(called)
    if (folder / INFO_FILE).is_file() and not force:
        raise ConfigError(
            f"there is a tokenizer of this name already: {called}",
            hint="use another --name, or replace it with --force",
        )
    options = Options(
        threads=threads or machine.usable_cores(),
        limits=Limits(doc_cap=doc_cap, max_chars=max_chars),
        max_memory=parse_size(max_memory, "--max-memory") if max_memory is not None else None,
        min_piece_count=min_piece_count,
        allow_smaller=allow_smaller,
        text_bytes=text_bytes if max_chars is None and doc_cap is None and None not in sizes else None,
    )
    return Plan(called, folder, found, given, vocab_size, chosen, text_bytes, options, text_field, force)


def train(plan: Plan, *, resume: bool = False, log: Log = NULL) -> dict[str, Any]:
    """Train and save the tokenizer of a plan; returns its facts, with bytes per token on training and held-out text.

    `resume` goes on with an interrupted training of the same plan. Raises MissingArtifact if there is none, else as
    `learn_tokens`.
    """
    began = time.monotonic()
    saved = plan.unfinished()
    with _alone(plan):
        _take_up(saved, resume, log)
        try:
            tokenizer = Tokenizer.train_on_batches(
                lambda rows: read_ahead(_batches(plan, rows)),
                plan.vocab_size,
                pattern=plan.pattern,
                options=plan.options,
                saved=saved,
                log=log,
            )
        except BadText as problem:
            raise DataError(f"invalid UTF-8: {_where(plan, problem.row)}") from None
        if plan.corpora:  # base training on one of them will look for this tokenizer
            told = [{"name": corpus.name, "fingerprint": corpus.fingerprint} for corpus in plan.corpora]
            tokenizer.training["corpora"] = told
        tokenizer.save(plan.folder, replace=plan.force)
        saved.clear()
    facts = tokenizer.training
    return {
        "tokenizer": plan.name,
        "vocab_size": tokenizer.vocab_size,
        "pattern": plan.pattern.name,
        "documents": facts["documents"],
        "text_bytes": facts["bytes"],
        "distinct_pieces": facts["distinct_pieces"],
        "tokens": facts["tokens"],
        "bytes_per_token": facts["bytes"] / facts["tokens"],
        "held_out_bytes_per_token": bytes_per_token(
            tokenizer, [text for corpus in plan.corpora for text in held_out(corpus)]
        ),
        "seconds": round(time.monotonic() - began, 2),
        "hash": tokenizer.hash,
        "dir": str(plan.folder),
    }


@contextlib.contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """Keep a second training of the same name out, and leave no folder behind that holds nothing."""
    folder = plan.unfinished_dir
    while True:
        files.make_dir(folder, "the unfinished tokenizer")
        with runs.lock(folder, takeover=None) as handle:
            try:
                if not os.path.samestat(os.fstat(handle), os.stat(folder / "lock")):
                    continue
            except FileNotFoundError:
                continue  # whoever held it has taken the folder away
            try:
                yield
            finally:
                if not plan.unfinished().exists:
                    shutil.rmtree(folder, ignore_errors=True)
            return


def _take_up(saved: Unfinished, resume: bool, log: Log) -> None:
    if resume:
        if not saved.load():
            waiting = (path.parent.name for path in paths.tokenizers_dir().glob(f".*{_UNFINISHED}/{STATE}"))
            there = [name[1:].removesuffix(_UNFINISHED) for name in waiting]
            other = f"; interrupted here: {', '.join(sorted(there))}" if there else ""
            raise MissingArtifact("no interrupted training to go on with", hint=f"begin it without --resume{other}")
        done = "all text counted" if saved.counted else f"{saved.bytes / 1e6:,.0f} MB counted"
        log.note(f"goes on with {done}" + (f" and {len(saved.merges):,} merges" if saved.merges else ""))
    else:
        if saved.exists:
            log.note("begins anew: what an interrupted training had saved is dropped (--resume goes on with it)")
        saved.clear()


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


def _batches(plan: Plan, rows: int) -> Iterator[Batch]:
    """The training text behind the first `rows` documents: corpora as Arrow arrays, then files."""
    for corpus in plan.corpora:
        there = corpus.num_documents("train")
        if rows < there:
            yield from corpus.arrays("train", skip=rows)
        rows = max(0, rows - there)
    yield from behind(_file_batches(plan), rows)


def _file_batches(plan: Plan) -> Iterator[Batch]:
    for path in plan.files:
        if readers.is_parquet(path):
            yield from readers.parquet_arrays(path, plan.text_field)
        else:
            yield from in_batches(text for _, text in readers.read(path, plan.text_field, "auto"))


def _where(plan: Plan, row: int) -> str:
    """The file, row group and row of a document of the training text, by its number from 0."""
    for corpus in plan.corpora:
        for shard in corpus.shards_of("train"):
            if row < shard.rows:
                return readers.parquet_place(corpus.dir / shard.name, row)
            row -= shard.rows
    for path in plan.files:
        if not readers.is_parquet(path):  # their readers have refused such text, with its line
            row -= sum(1 for _ in readers.read(path, plan.text_field, "auto"))
        elif row < (there := readers.parquet_rows(path)):
            return readers.parquet_place(path, row)
        else:
            row -= there
    return f"document {row}"


def held_out(corpus: Corpus) -> list[str]:
    """Validation text of a corpus, about four million characters at most."""
    return list(_first((text for group in corpus.documents("val") for text in group), _HELD_OUT_CHARS))


def sample_of_file(path: Path, text_field: str) -> list[str]:
    """Documents of a file, about four million characters at most; any format that a corpus is made from."""
    return list(_first((text for _, text in readers.read(path, text_field, "auto")), _HELD_OUT_CHARS))


def _first(texts: Iterator[str], max_chars: int) -> Iterator[str]:
    """Texts until the one that carries the sum of their characters beyond `max_chars`."""
    total = 0
    for text in texts:
        yield text
        total += len(text)
        if total > max_chars:
            return
