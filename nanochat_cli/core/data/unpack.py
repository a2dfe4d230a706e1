"""Unpacking an archive from elsewhere: nothing lands outside its folder, is a link, or outgrows a bound."""

from __future__ import annotations

import hashlib
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from nanochat_cli.core.data.downloaded import Entry
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.files import explain_os_errors, make_dir

MAX_BYTES = 4 << 30
MAX_FILES = 20_000
_CHUNK = 1 << 20


def check_zip(path: Path) -> None:
    """Raise DataError unless this is a zip archive whose every name can be unpacked."""
    members(path)


def unpack(
    archive: Path,
    into: Path,
    *,
    max_bytes: int = MAX_BYTES,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Entry]:
    """Unpack a zip archive into an empty folder and return what came out, by name below that folder.

    One folder that holds all the rest is left out. `told` is called with the bytes so far and in total. Raises
    DataError, before anything is written, for a name that leads elsewhere, a link, an encrypted file, two names that
    are one file, and more than `max_bytes`; and for content that does not match its checksum.
    """
    found = members(archive, max_bytes)
    total, done, entries = sum(info.file_size for info in found.values()), 0, {}
    try:
        with zipfile.ZipFile(archive) as file:
            for name, info in found.items():
                path = into / name
                make_dir(path.parent, name)
                entries[name] = _one(file, info, path)
                done += info.file_size
                told(done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as problem:
        raise DataError(f"the archive is damaged: {archive.name} ({problem})") from problem
    return entries


def members(archive: Path, max_bytes: int = MAX_BYTES) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a zip archive by the name they get. Raises DataError, see `unpack`."""
    try:
        with zipfile.ZipFile(archive) as file:
            infos = [info for info in file.infolist() if not info.is_dir() and not _is_rubbish(info.filename)]
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as problem:
        raise DataError(f"not a whole zip archive: {archive.name}") from problem
    if not infos or len(infos) > MAX_FILES:
        raise DataError(f"an archive with a strange number of files: {len(infos)}")
    for info in infos:
        _check(info)
    if (total := sum(info.file_size for info in infos)) > max_bytes:
        raise DataError(f"an archive that unpacks to too much: {total:,} bytes")
    tops = {info.filename.split("/")[0] for info in infos}
    cut = len(tops.pop()) + 1 if len(tops) == 1 and all("/" in info.filename for info in infos) else 0
    found = {info.filename[cut:]: info for info in infos}
    names = {name.casefold() for name in found}
    folders = {"/".join(parts[:i]) for n in names if (parts := n.split("/")) for i in range(1, len(parts))}
    if len(names) < len(infos) or names & folders:
        raise DataError("an archive with two files of one name")
    return found


def _is_rubbish(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2] == ".DS_Store"


def _check(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    parts = name.split("/")
    if "\\" in name or ":" in name or not name.isprintable() or any(p.strip(" .") == "" for p in parts):
        raise DataError(f"an archive with a name that leads elsewhere: {name!r}")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise DataError(f"an archive with something that is no plain file: {name!r}")
    if info.flag_bits & 1:
        raise DataError(f"an archive with an encrypted file: {name!r}")


def _one(file: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Entry:
    size, hashed = 0, hashlib.sha256()
    with explain_os_errors(path.name), file.open(info) as packed, path.open("xb") as out:
        while chunk := packed.read(_CHUNK):
            size += len(chunk)
            if size > info.file_size:
                raise DataError(f"an archive with a file larger than it says: {info.filename!r}")
            out.write(chunk)
            hashed.update(chunk)
    return Entry(size=size, sha256=hashed.hexdigest())
