"""The user's own files into a corpus: found, read one after another, and published only if all of them are good."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core.data import readers
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.cutting import Cut
from nanochat_cli.core.data.shards import CorpusWriter, check_free
from nanochat_cli.core.data.textfile import check_given, kind_of
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.events import NULL, Log

PROGRESS_EVERY = 2_000  # documents
LISTED_FILES = 1_000  # in the manifest; of more files only the number is kept


@dataclass(frozen=True)
class Found:
    """The files to import, in reading order, and what was passed over in folders."""

    files: tuple[Path, ...]
    passed_over: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Size of the files together."""
        return sum(path.stat().st_size for path in self.files)


def add_files(
    paths: Iterable[str | Path],
    name: str,
    *,
    text_field: str = "text",
    cut: Cut = "auto",
    val_fraction: float = 0.01,
    seed: int = 0,
    force: bool = False,
    log: Log = NULL,
) -> Corpus:
    """Read files and folders (txt, md, jsonl, json, csv, tsv, parquet; also .gz and .zst) into a new corpus.

    Documents come in the order of the arguments, folders sorted by name. Raises DataError naming file and line of the
    first problem, and then leaves nothing behind; ConfigError if the corpus exists and `force` is not given.
    """
    check_free(name, force)
    found = find(paths)
    if found.passed_over:
        kinds = ", ".join(sorted({path.suffix or "no suffix" for path in found.passed_over})[:8])
        log.note(f"{len(found.passed_over)} files of other kinds in the folders were passed over ({kinds})")
    listed: list[dict[str, Any]] = []
    source = {"kind": "files", "text_field": text_field, "split": cut, "num_files": len(found.files), "files": listed}
    with CorpusWriter(name, val_fraction=val_fraction, seed=seed, force=force, source=source, log=log) as writer:
        done, total, all_blank = 0, found.bytes, 0
        for path in found.files:
            documents, blank = _add_file(writer, path, text_field, cut, log)
            done += path.stat().st_size
            log.progress("reading", done, total, "bytes")
            all_blank += blank
            if len(listed) < LISTED_FILES:
                listed.append({"path": str(path), "bytes": path.stat().st_size, "documents": documents})
        if all_blank:
            log.note(f"documents without text were left out: {all_blank}")
    return writer.corpus


def _add_file(writer: CorpusWriter, path: Path, field: str, cut: Cut, log: Log) -> tuple[int, int]:
    """Add one file; return how many documents it gave and how many of it were blank."""
    count = blank = 0
    for position, text in readers.read(path, field, cut):
        if not text.strip():
            blank += 1
            continue
        try:
            writer.add(text)
        except DataError as problem:
            raise DataError(f"{problem}: {path}:{position}", hint=problem.hint) from None
        count += 1
        if count % PROGRESS_EVERY == 0:
            log.progress(f"reading {path.name}", count, None, "documents")
    if not count:
        raise DataError(f"no text in: {path}")
    return count, blank


def find(paths: Iterable[str | Path]) -> Found:
    """Return the files to import. Raises DataError for one that is missing or empty, and if a folder has none."""
    files: dict[Path, Path] = {}
    passed_over: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            inside = list(_walk(given))
            known = [path for path in inside if kind_of(path) in readers.KNOWN and path.stat().st_size]
            if not known:
                raise DataError(f"no text files in the folder: {given}", hint=f"known kinds: {' '.join(readers.KNOWN)}")
            passed_over += [path for path in inside if path not in set(known)]
        else:
            check_given(given)
            known = [given]
        for path in known:
            files.setdefault(path.resolve(), path)  # a file named twice is read once
    if not files:
        raise DataError("no files given", hint="nanochat data add FILES… --name NAME")
    return Found(tuple(files.values()), tuple(passed_over))


def default_name(given: str | Path) -> str:
    """Return the corpus name that goes with a file or folder: its own, without suffixes."""
    name = Path(given).absolute().name
    return name.split(".")[0] or name


def kind(path: Path) -> str:
    """Return as what a file will be read."""
    suffix = kind_of(path)
    return suffix.removeprefix(".") if suffix in readers.KNOWN else "plain text"


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(here) / name for name in sorted(names) if not name.startswith("."))
        yield from (path for path in visible if path.is_file())
