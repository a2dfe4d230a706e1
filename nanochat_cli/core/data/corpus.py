"""A corpus on disk: parquet shards of documents, a fixed validation split, and the manifest that proves both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanochat_cli.core import paths
from nanochat_cli.core.errors import DamagedArtifact, DataError, MissingArtifact, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.files import inside, read_json, restore_dir, sha256_file

if TYPE_CHECKING:
    from pyarrow import Array, ChunkedArray

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")
MANIFEST = "manifest.json"
CHATS = "chats"
TOKENS = "tokens"
DOWNLOADED = "downloaded"
"""Kind of source of a corpus that was fetched by name."""
FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """One parquet file: `rows` documents with `chars` characters, or `text_bytes` bytes of UTF-8."""

    name: str
    split: str
    rows: int
    chars: int
    text_bytes: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ChatFile:
    """One file of conversations that belongs to a corpus, in OpenAI `messages` shape."""

    name: str
    conversations: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Check:
    """What verification found about one file; `problem` is None where all is well."""

    file: str
    problem: str | None = None


class Corpus:
    """A published corpus. Its folder is never written to again, except for derived token shards.

    One that was downloaded can grow: shards are added beside, and a manifest with another fingerprint replaces the old.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.dir = directory
        self.manifest = manifest
        try:
            self.name: str = manifest["name"]
            self.fingerprint: str = manifest["fingerprint"]
            self.shards = tuple(Shard(**entry) for entry in manifest["shards"])
            self.chat_files = tuple(ChatFile(**entry) for entry in manifest["chats"])
        except (KeyError, TypeError) as problem:
            raise DamagedArtifact(f"corpus manifest is damaged: {directory / MANIFEST} ({problem})") from problem
        for entry in (*self.shards, *self.chat_files):  # a corpus may come from someone else
            if not isinstance(entry.name, str):
                raise DamagedArtifact(f"corpus manifest is damaged: {directory / MANIFEST} (a name is no text)")
            inside(directory, entry.name, "corpus manifest")

    @classmethod
    def open(cls, where: str | Path) -> Corpus:
        """Return the corpus of this name, or in this folder. Raises MissingArtifact that lists the choices."""
        directory = paths.corpus_dir(where) if isinstance(where, str) and "/" not in where else Path(where)
        restore_dir(directory)
        if not (directory / MANIFEST).is_file():
            known = names()
            hint = f"corpora here: {', '.join(known)}" if known else "make one: nanochat data synth"
            raise MissingArtifact(f"no such corpus: {where}", hint=f"{hint}; add your own: nanochat data add FILES…")
        manifest = read_json(directory / MANIFEST, "corpus manifest")
        if manifest.get("format") != FORMAT:
            raise DamagedArtifact(f"corpus manifest of unknown format {manifest.get('format')}: {directory / MANIFEST}")
        return cls(directory, manifest)

    @property
    def can_grow(self) -> bool:
        """Whether more shards may be downloaded for it."""
        source = self.manifest.get("source")
        return isinstance(source, dict) and source.get("kind") == DOWNLOADED

    def shards_of(self, split: Split) -> tuple[Shard, ...]:
        """Return the shards of one split, in order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def num_documents(self, split: Split) -> int:
        """Return how many documents a split has."""
        return sum(shard.rows for shard in self.shards_of(split))

    def num_chars(self, split: Split) -> int:
        """Return how many characters a split has."""
        return sum(shard.chars for shard in self.shards_of(split))

    def text_bytes(self, split: Split) -> int:
        """Return the size of a split's text in bytes of UTF-8."""
        return sum(shard.text_bytes for shard in self.shards_of(split))

    def documents(self, split: Split) -> Iterator[list[str]]:
        """Yield the documents of a split in order, one row group (up to 1,024) at a time.

        Raises DamagedArtifact naming the shard that cannot be read.
        """
        for array in self.arrays(split):
            try:
                texts = array.to_pylist()
            except UnicodeDecodeError as problem:
                raise DamagedArtifact(
                    f"damaged shard, text that is no UTF-8 ({problem.reason}): {self.dir}"
                ) from problem
            yield texts

    def arrays(self, split: Split, skip: int = 0) -> Iterator[Array]:
        """Yield the documents of a split in order as Arrow arrays of text, which native code reads without a copy.

        The first `skip` documents are left out, and mostly not even read. Raises DamagedArtifact naming the shard that
        cannot be read.
        """
        for shard in self.shards_of(split):
            if skip >= shard.rows:
                skip -= shard.rows
                continue
            rows = 0
            for count, column in _row_groups(self.dir / shard.name, lambda size: skip < size):  # noqa: B023 (called at once)
                rows += count
                for chunk in column.chunks if column is not None else ():
                    yield chunk[min(skip, len(chunk)) :] if skip else chunk
                    skip = max(0, skip - len(chunk))
                if column is None:
                    skip -= count
            if rows != shard.rows:
                raise DamagedArtifact(
                    f"damaged shard, {rows} documents instead of {shard.rows}: {self.dir / shard.name}"
                )

    def sample(self, split: Split, num: int) -> list[tuple[int, str]]:
        """Return (number, document) of up to `num` documents spread evenly over a split, reading only their groups."""
        total = self.num_documents(split)
        numbers = [total * i // num for i in range(num)] if num < total else list(range(total))
        found: list[tuple[int, str]] = []
        first = 0
        for shard in self.shards_of(split):
            for rows, column in _row_groups(
                self.dir / shard.name, lambda n, first=first: bool(_within(numbers, first, n))
            ):
                if column is not None:
                    found += [(number, column[number - first].as_py()) for number in _within(numbers, first, rows)]
                first += rows
        return found

    def chats(self, stage: str) -> Path:
        """Return the conversations for a stage (`mid`, `sft`). Raises MissingArtifact if the corpus has none."""
        path = self.dir / CHATS / f"{stage}.jsonl"
        if not path.is_file():
            raise MissingArtifact(
                f"corpus {self.name} has no chats for {stage}", hint="name a chat file with --data FILE"
            )
        return path

    def check(self, log: Log = NULL) -> list[Check]:
        """Return one finding per file, after rehashing it and counting its documents."""
        files = [(s.name, s.bytes, s.sha256) for s in self.shards] + [
            (c.name, c.bytes, c.sha256) for c in self.chat_files
        ]
        rows = {shard.name: shard.rows for shard in self.shards}
        total, done, found = sum(size for _, size, _ in files), 0, []
        for name, size, sha256 in files:
            problem = _problem(self.dir / name, size, sha256, rows.get(name))
            found.append(Check(name, problem))
            done += size
            log.progress("verifying", done, total, "bytes")
        return found

    def verify(self, log: Log = NULL) -> None:
        """Rehash every file. Raises DamagedArtifact naming those that do not match the manifest."""
        bad = [check for check in self.check(log) if check.problem]
        if bad:
            raise damaged(self, bad)


def damaged(corpus: Corpus, bad: list[Check]) -> DamagedArtifact:
    """Return the error that names the damaged files of a corpus."""
    told = ", ".join(f"{check.file} ({check.problem})" for check in bad[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    if all(check.file.startswith(f"{TOKENS}/") for check in bad):
        hint = f"tokens are made again when the folder is gone: rm -r {corpus.dir / TOKENS}"
    elif corpus.can_grow:
        hint = f"fetch them again: nanochat data repair {corpus.name}"
    else:
        hint = f"make the corpus again from its source, with --name {corpus.name} --force"
    return DamagedArtifact(f"corpus {corpus.name} is damaged: {told}{more}", hint=hint)


def names() -> list[str]:
    """Return the names of the corpora in the base directory, sorted."""
    folder = paths.corpora_dir()
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and (p / MANIFEST).is_file())


def list_corpora() -> list[tuple[str, Corpus | NanochatError]]:
    """Return every corpus by name; one that cannot be opened comes with its error instead."""
    found: list[tuple[str, Corpus | NanochatError]] = []
    for name in names():
        try:
            found.append((name, Corpus.open(name)))
        except NanochatError as problem:
            found.append((name, problem))
    return found


def newest() -> Corpus:
    """Return the corpus that was made last. Raises MissingArtifact if there is none."""
    folder = paths.newest(paths.corpora_dir(), MANIFEST)
    if folder is None:
        raise MissingArtifact(
            "there is no corpus yet", hint="make one: nanochat data synth, or nanochat data add FILES…"
        )
    return Corpus.open(folder)


def _within(numbers: list[int], first: int, count: int) -> list[int]:
    return [number for number in numbers if first <= number < first + count]


def _row_groups(path: Path, wanted: Callable[[int], bool] = bool) -> Iterator[tuple[int, ChunkedArray | None]]:
    """Yield (size, column of text) per row group; None if `wanted`, given the size, says no."""
    import pyarrow as pa  # here and not on top: listing corpora reads manifests only and should start at once
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                rows = file.metadata.row_group(index).num_rows
                yield rows, file.read_row_group(index, columns=["text"])[0] if wanted(rows) else None
    except FileNotFoundError:
        raise MissingArtifact(f"a shard is missing: {path}") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise DamagedArtifact(
            f"damaged shard: {path}", hint="see which files are damaged: nanochat data verify"
        ) from problem


def _problem(path: Path, size: int, sha256: str, rows: int | None) -> str | None:
    if not path.is_file():
        return "missing"
    if path.stat().st_size != size:
        return f"{path.stat().st_size} bytes instead of {size}"
    if sha256_file(path) != sha256:
        return "its SHA-256 differs from the manifest"
    if rows is not None and (counted := _count_rows(path)) != rows:
        return f"{counted} documents instead of {rows}"
    return None


def _count_rows(path: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as problem:
        raise DataError(f"not a parquet file: {path}") from problem
