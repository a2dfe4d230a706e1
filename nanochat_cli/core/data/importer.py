"""The user's own files into a corpus: read side by side, put together in order, and published only if all are good.

Each group of files becomes a part, made by any process at any time; parts are joined in the order of the files. So the
corpus does not depend on how many processes there are, nor on how often the work was interrupted: a part that the
journal names is not made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core import paths as places
from nanochat_cli.core.data import corpus as corpora
from nanochat_cli.core.data import inputs as files_given
from nanochat_cli.core.data import parts, workers
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.cutting import Cut
from nanochat_cli.core.data.inputs import Found, Input, Tally, default_name, find, kind
from nanochat_cli.core.data.journal import KEEP_BYTES, Workspace, discard, workspace
from nanochat_cli.core.data.pace import Pace
from nanochat_cli.core.data.shards import CorpusWriter, check_free
from nanochat_cli.core.errors import DataError, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.files import make_dir, restore_dir, sha256_json

__all__ = ["Found", "add_files", "default_name", "find", "kind"]

FORMAT = 1
LISTED_FILES = 1_000  # in the manifest; of more files only the number is kept
PROGRESS_EVERY = 20_000  # documents
PURPOSE = "adding"
MEMORY_EACH = 400 << 20  # what a process takes at most, documents of usual size supposed


def add_files(
    paths: Iterable[str | Path],
    name: str,
    *,
    text_field: str = "text",
    cut: Cut = "auto",
    val_fraction: float = 0.01,
    seed: int = 0,
    force: bool = False,
    strict: bool = False,
    num_workers: int | None = 1,
    log: Log = NULL,
) -> Corpus:
    """Read files and folders (txt, md, jsonl, json, csv, tsv, parquet; also .gz and .zst) into a new corpus.

    Documents come in the order of the arguments, folders sorted by name. A file found in a folder that has no usable
    text is skipped with a warning, unless `strict`. Raises DataError naming file and line of the first other problem;
    ConfigError if the corpus exists, `force` is not given and it was made of other files or in another way. After an
    interruption the same call goes on; None for `num_workers` is one per core, and fewer for small inputs.
    """
    wanted = list(paths)
    options = {"format": FORMAT, "text_field": text_field, "cut": cut}
    whole = {**options, "val_fraction": val_fraction, "seed": seed}
    if (same := _already(wanted, name, whole, force)) is not None:
        log.note(f"corpus {name} holds exactly these files already, read in the same way: nothing to do")
        discard(places.corpus_dir(name), PURPOSE)
        return same
    found = find(wanted)
    if told := files_given.told_passed_over(found):
        log.note(told)
    given = files_given.take(found)
    groups = files_given.grouped(given)
    make_dir(places.corpora_dir(), "the data folder")
    files_given.check_space(places.corpora_dir(), disk_needed(found))
    with workspace(places.corpus_dir(name), PURPOSE, keep_bytes=KEEP_BYTES) as space:
        work = _Adding(space, groups, [_key(group, options) for group in groups], log, strict)
        jobs = [{"inputs": files_given.as_job(g), "field": text_field, "cut": cut} for g in groups]
        source = {"kind": "files", "text_field": text_field, "split": cut, "num_files": len(found.files)}
        source["inputs"] = _identity(given, whole)
        with CorpusWriter(name, val_fraction=val_fraction, seed=seed, force=force, source=source, log=log) as writer:
            work.run(jobs, writer, num_workers or workers.default_workers(MEMORY_EACH, found.bytes))
            source.update(work.facts())
        space.finished = True
    _check_counts(writer.corpus, work.documents)
    return writer.corpus


def disk_needed(found: Found) -> int:
    """Return about how many bytes an import takes: the parts and the shards, both packed, stand side by side once."""
    return 2 * sum(map(files_given.guessed_stored_bytes, found.files))


def _already(wanted: list[str | Path], name: str, options: dict[str, Any], force: bool) -> Corpus | None:
    """The corpus of this name, if it was made of the same files in the same way. Raises ConfigError if of others."""
    final = places.corpus_dir(name)
    restore_dir(final)
    if force or not final.exists():
        return None
    try:
        made = Corpus.open(name)
        if made.manifest.get("source", {}).get("inputs") == _identity(files_given.take(find(wanted)), options):
            return made
    except NanochatError:
        pass  # whatever is wrong with the files: the name is taken
    check_free(name, force)
    return None


def _identity(given: list[Input], options: dict[str, Any]) -> str:
    return sha256_json([options, [item.identity for item in given]])


def _key(group: list[Input], options: dict[str, Any]) -> str:
    return sha256_json([options, [item.identity for item in group]])


def _check_counts(corpus: Corpus, documents: int) -> None:
    held = sum(corpus.num_documents(split) for split in corpora.SPLITS)
    if held != documents:  # cannot happen; but if it does, nobody should train on it
        raise NanochatError(f"corpus {corpus.name} has {held:,} documents instead of the {documents:,} that were read")


@dataclass
class _Adding:
    """The work in progress: which groups are done, and how far their parts are joined."""

    space: Workspace
    groups: list[list[Input]]
    keys: list[str]
    log: Log
    strict: bool

    def run(self, jobs: list[dict[str, Any]], writer: CorpusWriter, num_workers: int) -> None:
        done = self.space.resume(set(self.keys).__contains__)
        self.results: dict[int, list[Tally]] = {}
        self._parts: dict[int, Path] = {}
        self._joined = 0
        open_jobs = []
        for number, key in enumerate(self.keys):
            if key in done:
                self._take(number, done[key])
            else:
                open_jobs.append(number)
        if done:
            files = sum(len(self.groups[n]) for n in self.results)
            self.log.note(f"going on: {files} of {sum(map(len, self.groups))} files were read before")
        sizes = [sum(item.size for item in group) for group in self.groups]
        pace = Pace(self.log, "reading", sum(sizes), sum(sizes[n] for n in self.results))
        joining = self._join(writer)
        pending = ({**jobs[n], "folder": str(self.space.dir)} for n in open_jobs)
        reading = workers.run(parts.make, pending, num_workers, on_progress=pace.at, idle=lambda: next(joining, False))
        with contextlib.closing(reading):
            for index, result in reading:
                number = open_jobs[index]
                self._take(number, result)
                self.space.add(self.keys[number], result)
                pace.end(index, sizes[number])
        self._join_rest(joining)
        files_given.tell_tallies(self._tallies(), self.log)

    def _take(self, number: int, result: dict[str, Any]) -> None:
        tallies = [Tally(**entry) for entry in result["tallies"]]
        for tally in tallies:
            if tally.problem is not None and self.strict:
                raise DataError(tally.problem, hint=tally.hint)
        self.results[number] = tallies
        self._parts[number] = self.space.dir / result["part"]

    def _join(self, writer: CorpusWriter) -> Iterator[bool]:
        """Add the parts to the corpus in order; yield False where the next one is not made yet."""
        for number in range(len(self.groups)):
            while number not in self._parts:
                yield False
            for documents in parts.read(self._parts[number]):
                for chars, raw in documents:
                    writer.add_raw(chars, raw)
                self._joined += len(documents)
                yield True

    def _join_rest(self, joining: Iterator[bool]) -> None:
        total, told = self.documents, 0
        for _ in joining:
            if self._joined - told >= PROGRESS_EVERY or self._joined == total:
                told = self._joined
                self.log.progress("writing shards", told, total, "documents")

    def _tallies(self) -> list[Tally]:
        return [tally for number in sorted(self.results) for tally in self.results[number]]

    @property
    def documents(self) -> int:
        """Documents that were read."""
        return sum(tally.documents for tally in self._tallies())

    def facts(self) -> dict[str, Any]:
        """What the manifest says about the files."""
        read = [tally for tally in self._tallies() if tally.problem is None]
        skipped = [tally for tally in self._tallies() if tally.problem is not None]
        return {
            "documents": self.documents,
            "blank": sum(tally.blank for tally in self._tallies()),
            "files": [{"path": t.path, "bytes": t.bytes, "documents": t.documents} for t in read[:LISTED_FILES]],
            "skipped": [{"path": t.path, "problem": t.problem} for t in skipped[:LISTED_FILES]],
        }
