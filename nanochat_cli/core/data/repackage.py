"""Documents of corpora and files into a new corpus of equal shards, in a new order: two passes, each resumable.

Pass 1 (shuffle.scatter) works file by file, pass 2 (layout.write) shard by shard; the journal knows what is done of
both. See there for why the result depends on neither interruptions nor the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanochat_cli.core import paths as places
from nanochat_cli.core.data import inputs, layout, readers, shuffle, workers
from nanochat_cli.core.data.corpus import MANIFEST, SPLITS, Corpus
from nanochat_cli.core.data.inputs import Found, Input, Tally
from nanochat_cli.core.data.journal import KEEP_BYTES, Workspace, discard, workspace
from nanochat_cli.core.data.layout import Cut, Layout
from nanochat_cli.core.data.pace import Pace
from nanochat_cli.core.data.shards import MAX_VAL_SHARE, MIN_VAL_CHARS, check_free
from nanochat_cli.core.data.shuffle import Bucket, Scatter
from nanochat_cli.core.errors import ConfigError, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.files import make_dir, publish_dir, replace_dir, restore_dir, sha256_json, tree_size, write_json

FORMAT = 1
PURPOSE = "repackaging"
SHARDS = "shards"
MEMORY_EACH = 1 << 30
VAL_FRACTION = 0.01


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the new corpus depends on besides its documents."""

    text_field: str = "text"
    layout: Layout = field(default_factory=Layout)
    shuffle: bool = True
    seed: int = 42
    val_fraction: float | None = None
    val_shard: bool = False

    def __post_init__(self) -> None:
        if self.val_shard and self.val_fraction is not None:
            raise ConfigError(
                "a share and the last shard for validation: only one of them can be", hint="leave out one of them"
            )


@dataclass(frozen=True)
class Sources:
    """Files to read, in order, and the corpora that they belong to (name and fingerprint)."""

    found: Found
    corpora: tuple[tuple[str, str], ...]
    chats: int

    @property
    def stored_bytes(self) -> int:
        """About how large the new shards get."""
        return sum(map(inputs.guessed_stored_bytes, self.found.files))

    @property
    def disk_needed(self) -> int:
        """About how many bytes the work takes: spooled documents and shards stand side by side once."""
        return 2 * self.stored_bytes

    def text_bytes(self, field: str) -> int:
        """About how much text there is."""
        return sum(inputs.guessed_text_bytes(path, field) for path in self.found.files)

    def documents(self) -> int | None:
        """How many documents there are, as far as footers tell; None if some file would have to be read."""
        if not all(map(readers.is_parquet, self.found.files)):
            return None
        try:
            return sum(map(readers.parquet_rows, self.found.files))
        except (OSError, ValueError):  # Arrow's errors are of these two kinds
            return None


def sources(given: Iterable[str]) -> Sources:
    """Return what to read: paths first, else names of corpora. Raises DataError or MissingArtifact."""
    files: list[Path] = []
    passed: list[Path] = []
    walked: set[Path] = set()
    known: list[tuple[str, str]] = []
    chats = 0
    for name in given:
        path = Path(name)
        if (path.exists() and not (path / MANIFEST).is_file()) or (not path.exists() and path.suffix):
            found = inputs.find([name])
        else:
            corpus = Corpus.open(path if path.exists() else name)
            shards = [corpus.dir / shard.name for split in SPLITS for shard in corpus.shards_of(split)]
            found = inputs.find(shards)
            known.append((corpus.name, corpus.fingerprint))
            chats += len(corpus.chat_files)
        files += found.files
        passed += found.passed_over
        walked |= found.walked
    whole = inputs.find(files)
    return Sources(Found(whole.files, tuple(passed), frozenset(walked & set(whole.files))), tuple(known), chats)


def repackage(
    given: Sources,
    name: str,
    options: Options,
    *,
    force: bool = False,
    num_workers: int | None = 1,
    log: Log = NULL,
) -> Corpus:
    """Write all documents of some sources, duplicates included, into a new corpus, and return it.

    Documents without text are left out and counted. Raises ConfigError if the corpus exists and is another one and
    `force` is not given; DataError naming file and line; NanochatError if the disk lacks room. After an interruption
    the same call goes on; None for `num_workers` is one per core, and fewer for small inputs.
    """
    items = inputs.take(given.found)
    scatter = _scatter(given, options)
    identity = sha256_json([FORMAT, asdict(options), asdict(scatter), [item.identity for item in items]])
    final = places.corpus_dir(name)
    if (same := _already(name, identity, force)) is not None:
        log.note(f"corpus {name} holds exactly these documents already, in this order: nothing to do")
        discard(final, PURPOSE)
        return same
    _tell_sources(given, log)
    make_dir(places.corpora_dir(), "the data folder")
    with workspace(final, PURPOSE, keep_bytes=KEEP_BYTES) as space:
        inputs.check_space(places.corpora_dir(), given.disk_needed - _held(space))
        make_dir(space.dir / SHARDS, "shards")
        team = num_workers or workers.default_workers(MEMORY_EACH, given.found.bytes)
        work = _Repackaging(space, identity, options, scatter, team, log)
        tallies = work.scatter(inputs.grouped(items))
        results = work.write()
        _check_counts(tallies, results)
        source = {**_source(given, options, tallies), "inputs": identity}
        write_json(space.dir / SHARDS / MANIFEST, layout.manifest(name, results, _split(options, scatter), source))
        _publish(space.dir / SHARDS, name, force)
        space.finished = True
    return Corpus.open(name)


def _scatter(given: Sources, options: Options) -> Scatter:
    text = given.text_bytes(options.text_field)
    share = 0.0
    if not options.val_shard:
        least = min(MAX_VAL_SHARE, MIN_VAL_CHARS / max(1, text))
        share = max(options.val_fraction or VAL_FRACTION, least)
    return Scatter(
        shuffle=options.shuffle,
        seed=options.seed,
        buckets=shuffle.num_buckets(text * (1 - share)),
        val_buckets=shuffle.num_buckets(text * share),
        val_limit=int(share * 2**64),
    )


def _already(name: str, identity: str, force: bool) -> Corpus | None:
    final = places.corpus_dir(name)
    restore_dir(final)
    if force or not final.exists():
        return None
    try:
        made = Corpus.open(name)
        if made.manifest.get("source", {}).get("inputs") == identity:
            return made
    except NanochatError:
        pass  # damaged: the name is taken all the same
    check_free(name, force)
    return None


def _tell_sources(given: Sources, log: Log) -> None:
    if told := inputs.told_passed_over(given.found):
        log.note(told)
    if given.chats:
        log.note("chats of a corpus stay with it: only documents are written anew")


def _held(space: Workspace) -> int:
    return tree_size(space.dir)


def _publish(folder: Path, name: str, force: bool) -> None:
    final = places.corpus_dir(name)
    if force and final.exists():
        replace_dir(folder, final)
    else:
        check_free(name, force=False)  # another command may have published it in the meantime
        publish_dir(folder, final)


def _check_counts(tallies: Sequence[Tally], results: Sequence[dict[str, Any]]) -> None:
    read, held = sum(t.documents for t in tallies), sum(result["shard"]["rows"] for result in results)
    if read != held:  # cannot happen; but if it does, nobody should train on it
        raise NanochatError(f"{held:,} documents were written instead of the {read:,} that were read")


def _split(options: Options, scatter: Scatter) -> dict[str, Any]:
    if options.val_shard:
        return {"by": "last shard"}
    return {"by": "content hash", "seed": options.seed, "val_fraction": scatter.val_limit / 2**64}


def _source(given: Sources, options: Options, tallies: Sequence[Tally]) -> dict[str, Any]:
    read = [tally for tally in tallies if tally.problem is None]
    return {
        "kind": "repackaged",
        "corpora": [{"name": name, "fingerprint": fingerprint} for name, fingerprint in given.corpora],
        "num_files": len(read),
        "files": [{"path": t.path, "bytes": t.bytes, "documents": t.documents} for t in read[:1_000]],
        "skipped": [{"path": t.path, "problem": t.problem} for t in tallies if t.problem is not None][:1_000],
        "documents": sum(tally.documents for tally in tallies),
        "blank": sum(tally.blank for tally in tallies),
        "shuffle": options.shuffle,
        "seed": options.seed,
        **asdict(options.layout),
    }


@dataclass
class _Repackaging:
    """The two passes. `identity` stands for the inputs and all options, and so for which shards there will be."""

    space: Workspace
    identity: str
    options: Options
    how: Scatter
    team: int
    log: Log

    def scatter(self, groups: list[list[Input]]) -> list[Tally]:
        """Pass 1: spool the documents of all inputs; return a tally of each."""
        options = [FORMAT, self.options.text_field, asdict(self.how)]
        self._keys = [sha256_json([options, [item.identity for item in group]]) for group in groups]
        known = set(self._keys)
        self._done = self.space.resume(lambda key: key in known or key.startswith(self.identity))
        results = {n: self._done[key] for n, key in enumerate(self._keys) if key in self._done}
        missing = [n for n in range(len(groups)) if n not in results]
        if results:
            files = sum(len(groups[n]) for n in results)
            self.log.note(f"going on: {files} of {sum(map(len, groups))} files were read before")
        sizes = [sum(item.size for item in group) for group in groups]
        pace = Pace(self.log, "reading", sum(sizes), sum(sizes[n] for n in results))
        jobs = (self._scatter_job(groups[n]) for n in missing)
        with closing(workers.run(shuffle.scatter, jobs, self.team, on_progress=pace.at)) as made:
            for index, result in made:
                results[missing[index]] = result
                self.space.add(self._keys[missing[index]], result)
                pace.end(index, sizes[missing[index]])
        self._spools = [
            (self.space.dir / results[n]["spool"], self.space.dir / results[n]["index"]) for n in range(len(groups))
        ]
        tallies = [Tally(**entry) for n in range(len(groups)) for entry in results[n]["tallies"]]
        inputs.tell_tallies(tallies, self.log)
        return tallies

    def _scatter_job(self, group: list[Input]) -> dict[str, Any]:
        return {
            "inputs": inputs.as_job(group),
            "field": self.options.text_field,
            "cut": "auto",
            "folder": str(self.space.dir),
            "scatter": asdict(self.how),
        }

    def write(self) -> list[dict[str, Any]]:
        """Pass 2: write the shards; return what each became."""
        buckets = shuffle.buckets(self._spools, self.how.shuffle)
        cuts: list[Cut] = [cut for split in SPLITS for cut in layout.plan(buckets[split], split, self.options.layout)]
        shards = layout.named(cuts, self.options.val_shard)
        keys = [f"{self.identity}/{name}" for name, _ in shards]
        results = {n: self._done[key] for n, key in enumerate(keys) if key in self._done}
        if results:
            self.log.note(f"going on: {len(results)} of {len(shards)} shards were written before")
        missing = [n for n in range(len(shards)) if n not in results]
        sizes = [cut.chars for _, cut in shards]
        pace = Pace(self.log, "writing shards", sum(sizes), sum(sizes[n] for n in results), unit="characters")
        jobs = (self._write_job(*shards[n], buckets) for n in missing)
        with closing(workers.run(layout.write, jobs, self.team, on_progress=pace.at)) as made:
            for index, result in made:
                number = missing[index]
                result["files"] = {f"{SHARDS}/{name}": sha256 for name, sha256 in result["files"].items()}
                results[number] = result
                self.space.add(keys[number], result)
                pace.end(index, sizes[number])
        return [results[n] for n in range(len(shards))]

    def _write_job(self, name: str, cut: Cut, buckets: dict[str, list[Bucket]]) -> dict[str, Any]:
        held = buckets["train" if self.options.val_shard else cut.split]
        return layout.as_job(cut, name, held, self.options.layout, self.space.dir / SHARDS)
