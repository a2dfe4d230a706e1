"""The files a user gave: found in folders, told apart from what cannot be text, and read document by document."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core.data import readers, textfile
from nanochat_cli.core.data.cutting import Cut
from nanochat_cli.core.data.shards import encode
from nanochat_cli.core.data.textfile import COMPRESSED, check_given, kind_of
from nanochat_cli.core.errors import DataError, NanochatError
from nanochat_cli.core.events import Log
from nanochat_cli.core.files import free_space
from nanochat_cli.core.units import many, write_size

MAX_DOCUMENT_BYTES = 1 << 30
LISTED = 20
GROUP_BYTES = 32 << 20  # small files are read and journalled together up to this size
GROUP_FILES = 2_000  # and up to this number: what is said of each travels as one line


@dataclass(frozen=True)
class Found:
    """The files to import, in reading order, what was passed over in folders, and which came from a folder."""

    files: tuple[Path, ...]
    passed_over: tuple[Path, ...]
    walked: frozenset[Path] = frozenset()

    @property
    def bytes(self) -> int:
        """Size of the files together."""
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True)
class Input:
    """One file as it was when the work began. `number` is its place among all; `walked`: found in a folder."""

    number: int
    path: str
    size: int
    mtime_ns: int
    walked: bool

    @property
    def identity(self) -> list[Any]:
        """What must be the same for a result from this file to count as a result from it."""
        return [self.number, str(Path(self.path).resolve()), self.size, self.mtime_ns, self.walked]


@dataclass
class Tally:
    """What reading one file gave. `problem` says why a file from a folder was skipped."""

    path: str
    bytes: int
    documents: int = 0
    blank: int = 0
    problem: str | None = None
    hint: str | None = None


def find(paths: Iterable[str | Path]) -> Found:
    """Return the files to import. Raises DataError for one that is missing or empty, and if a folder has none."""
    files: dict[Path, Path] = {}
    passed_over: list[Path] = []
    named: set[Path] = set()
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
            named.add(given.resolve())
        for path in known:
            files.setdefault(path.resolve(), path)  # a file named twice is read once
    if not files:
        raise DataError("no files given", hint="nanochat data add FILES… --name NAME")
    walked = frozenset(path for real, path in files.items() if real not in named)
    return Found(tuple(files.values()), tuple(passed_over), walked)


def take(found: Found) -> list[Input]:
    """Return the files with the size and time that identify them."""
    made = []
    for number, path in enumerate(found.files):
        state = path.stat()
        made.append(Input(number, str(path), state.st_size, state.st_mtime_ns, path in found.walked))
    return made


def grouped(inputs: Sequence[Input]) -> list[list[Input]]:
    """Return the inputs in groups to be read by one process: a large file alone, small neighbours together."""
    groups: list[list[Input]] = []
    size = 0
    for item in inputs:
        if not groups or size + item.size > GROUP_BYTES or len(groups[-1]) >= GROUP_FILES:
            groups.append([])
            size = 0
        groups[-1].append(item)
        size += item.size
    return groups


def told_passed_over(found: Found) -> str | None:
    """Return a line about the files of other kinds in the folders, if there were any."""
    if not found.passed_over:
        return None
    kinds = ", ".join(sorted({path.suffix or "no suffix" for path in found.passed_over})[:8])
    num = len(found.passed_over)
    return f"{many(num, 'file')} of other kinds in the folders {'was' if num == 1 else 'were'} passed over ({kinds})"


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """A document with its place: number of the file, number in the file (from 0), and length in characters."""

    file: int
    number: int
    chars: int
    raw: bytes


def documents(
    group: Sequence[dict[str, Any]], field: str, cut: Cut, tallies: list[Tally], tell: Callable[[float], None]
) -> Iterator[Document]:
    """Yield the documents of some inputs (as dicts), in order, and append a tally of each to `tallies`.

    Blank documents are left out and counted. A file from a folder whose very beginning is of no use is skipped, and
    its tally has the problem. Raises DataError with file and line for everything else; `tell` gets bytes read.
    """
    before = 0
    for item in (Input(**entry) for entry in group):
        tally = Tally(item.path, item.size)
        tallies.append(tally)
        try:
            yield from _one(item, field, cut, tally, lambda done, before=before: tell(before + done))
        except DataError as problem:
            if not item.walked or tally.documents:
                raise
            tally.problem, tally.hint = str(problem), problem.hint
        _check_unchanged(item)
        before += item.size
        tell(before)


def _one(item: Input, field: str, cut: Cut, tally: Tally, tell: Callable[[float], None]) -> Iterator[Document]:
    path = Path(item.path)
    with textfile.metered(tell):
        for position, text in readers.read(path, field, cut):
            if not text.strip():
                tally.blank += 1
                continue
            try:
                raw = encode(text)
            except DataError as problem:
                raise DataError(f"{problem}: {path}:{position}", hint=problem.hint) from None
            if len(raw) > MAX_DOCUMENT_BYTES:
                raise DataError(
                    f"a document of {len(raw):,} bytes is too long: {path}:{position}",
                    hint="cut plain text with --split paragraph or --split line",
                )
            yield Document(item.number, tally.documents, len(text), raw)
            tally.documents += 1
    if not tally.documents:
        raise DataError(f"no text in: {path}")


def _check_unchanged(item: Input) -> None:
    state = Path(item.path).stat()
    if (state.st_size, state.st_mtime_ns) != (item.size, item.mtime_ns):
        raise DataError(f"the file changed while it was read: {item.path}", hint="run the command again")


def as_job(group: Sequence[Input]) -> list[dict[str, Any]]:
    """Return inputs as plain values, as `documents` reads them."""
    return [asdict(item) for item in group]


def tell_tallies(tallies: Sequence[Tally], log: Log) -> None:
    """Name the files that were skipped, count what was left out. Raises DataError if nothing was of any use."""
    skipped = [tally for tally in tallies if tally.problem is not None]
    for tally in skipped[:LISTED]:
        log.warning(f"skipped: {tally.problem}")
    if skipped:
        more = f", {len(skipped) - LISTED} of them not named here" if len(skipped) > LISTED else ""
        log.warning(f"files in the folders without usable text, which were left out: {len(skipped)}{more}")
    if blank := sum(tally.blank for tally in tallies if tally.problem is None):
        log.note(f"documents without text were left out: {blank}")
    if not any(tally.documents for tally in tallies):
        raise DataError(f"no usable text in any file: {skipped[0].problem}", hint=skipped[0].hint)


# ---- names and sizes -------------------------------------------------------------------------------------------------


def default_name(given: str | Path) -> str:
    """Return the corpus name that goes with a file or folder: its own, without suffixes."""
    name = Path(given).absolute().name
    return name.split(".")[0] or name


def kind(path: Path) -> str:
    """Return as what a file will be read."""
    suffix = kind_of(path)
    return suffix.removeprefix(".") if suffix in readers.KNOWN else "plain text"


def guessed_text_bytes(path: Path, field: str) -> int:
    """Return about how much text is in a file, without reading it: exact for parquet, a guess if compressed."""
    known = readers.text_size(path, field)
    return known if known is not None else 4 * path.stat().st_size


def guessed_stored_bytes(path: Path) -> int:
    """Return about how many bytes a file's documents take as a shard: as they are if compressed, else about half."""
    size = path.stat().st_size
    return size if readers.is_parquet(path) or path.suffix.lower() in COMPRESSED else size // 2


def check_space(folder: Path, needed: int) -> None:
    """Raise NanochatError if the disk that holds a folder has less room than a piece of work needs."""
    free = free_space(folder)
    if free < needed:
        raise NanochatError(
            f"not enough room on the disk: about {write_size(needed)} are needed, {write_size(free)} are free",
            hint=f"free some space at {folder}, or set NANOCHAT_BASE_DIR to a larger disk",
        )


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(here) / name for name in sorted(names) if not name.startswith("."))
        yield from (path for path in visible if path.is_file())
