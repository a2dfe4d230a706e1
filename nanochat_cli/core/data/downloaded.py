"""What was downloaded: a record beside the files with size, hash and origin of each, which later runs rely on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanochat_cli.core.claim import Claim
from nanochat_cli.core.data.corpus import Check
from nanochat_cli.core.data.sources import Source
from nanochat_cli.core.errors import DamagedArtifact, MissingArtifact
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.files import explain_os_errors, inside, make_dir, read_json, sha256_file, write_json

RECORD = "download.json"
_LOCK = ".download.lock"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file. `rows`, `chars` and `text_bytes` count the documents of a pretraining shard."""

    size: int
    sha256: str
    url: str | None = None
    etag: str | None = None
    rows: int | None = None
    chars: int | None = None
    text_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """All files of a data set that are here. `complete` says that nothing that was wanted is missing."""

    name: str
    complete: bool = False
    files: Mapping[str, Entry] = field(default_factory=dict)
    archive: Entry | None = None  # what the files were unpacked from


def read(source: Source) -> Record:
    """Return the record of a data set, an empty one if nothing was downloaded. Raises DamagedArtifact."""
    path = source.dir / RECORD
    if not path.exists():
        return Record(name=source.name)
    value = read_json(path, "download record")
    try:
        if value["format"] != FORMAT:
            raise DamagedArtifact(f"download record of unknown format {value['format']}: {path}")
        files = {name: _entry(entry) for name, entry in value["files"].items()}
        archive = _entry(value["archive"]) if value.get("archive") else None
        record = Record(name=source.name, complete=value["complete"] is True, files=files, archive=archive)
    except (KeyError, TypeError, AttributeError) as problem:
        raise DamagedArtifact(
            f"download record is damaged: {path}", hint=f"delete it; the files stay: rm {path}"
        ) from problem
    for name in record.files:
        inside(source.dir, name, "download record")
    return record


def _entry(value: dict[str, Any]) -> Entry:
    entry = Entry(**value)
    if not isinstance(entry.size, int) or not isinstance(entry.sha256, str):
        raise TypeError("size or hash")
    return entry


def write(folder: Path, record: Record) -> None:
    """Write the record of the data set in a folder."""
    files = {name: _lean(record.files[name]) for name in sorted(record.files)}
    value = {"format": FORMAT, "name": record.name, "complete": record.complete, "files": files}
    write_json(folder / RECORD, value | ({"archive": _lean(record.archive)} if record.archive else {}))


def _lean(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if value is not None}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the record of a folder: for the moment of reading, changing and writing it."""
    make_dir(folder, "the data folder")
    with explain_os_errors("the download lock"):
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    claim = Claim(folder / _LOCK)
    try:
        claim.wait(handle)
        yield
    finally:
        os.close(handle)
        claim.release()


def add(source: Source, entries: Mapping[str, Entry], *, complete: bool = False) -> Record:
    """Add files to the record of a data set, beside what other processes add, and return it."""
    with locked(source.dir):
        old = read(source)
        record = Record(name=source.name, complete=old.complete or complete, files={**old.files, **entries})
        write(source.dir, record)
    return record


def here(source: Source, record: Record, name: str) -> bool:
    """Return whether a file is recorded and there in its full size."""
    entry, path = record.files.get(name), source.dir / name
    return entry is not None and path.is_file() and path.stat().st_size == entry.size


def is_complete(source: Source) -> bool:
    """Return whether all of a data set that is no corpus is here."""
    record = read(source)
    return record.complete and all(here(source, record, name) for name in record.files)


def check(source: Source, log: Log = NULL) -> list[Check]:
    """Return one finding per downloaded file, after rehashing it. Raises MissingArtifact if there is none."""
    record = read(source)
    if not record.files:
        raise MissingArtifact(f"not downloaded: {source.name}", hint=f"nanochat data download {source.name}")
    total, done, found = sum(entry.size for entry in record.files.values()), 0, []
    for name, entry in record.files.items():
        found.append(Check(name, _problem(source.dir / name, entry)))
        done += entry.size
        log.progress("verifying", done, total, "bytes")
    return found


def _problem(path: Path, entry: Entry) -> str | None:
    if not path.is_file():
        return "missing"
    if path.stat().st_size != entry.size:
        return f"{path.stat().st_size} bytes instead of {entry.size}"
    return None if sha256_file(path) == entry.sha256 else "its SHA-256 differs from the record"


def folder_of(source: Source) -> Path:
    """Return the folder of a complete data set. Raises MissingArtifact with the command that fetches it."""
    if not is_complete(source):
        raise MissingArtifact(f"not downloaded: {source.name}", hint=f"nanochat data download {source.name}")
    return source.dir
