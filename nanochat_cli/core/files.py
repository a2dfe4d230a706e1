"""Files that are either whole or absent: write beside, flush to the disk, rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nanochat_cli.core.errors import DamagedArtifact, EnvironmentLacks, MissingArtifact, NanochatError


@contextlib.contextmanager
def explain_os_errors(what: str) -> Iterator[None]:
    """Turn a full disk, a missing permission or a read-only folder into one clear line about `what`."""
    try:
        yield
    except OSError as problem:
        where = f": {problem.filename}" if problem.filename else ""
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NanochatError(
                f"the disk is full while writing {what}{where}",
                hint="free some space, or set NANOCHAT_BASE_DIR to a larger disk; what was saved before is intact",
            ) from problem
        if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise EnvironmentLacks(
                f"no permission to write {what}{where}", hint="set NANOCHAT_BASE_DIR to a folder that you can write to"
            ) from problem
        if problem.errno == errno.ENOENT:  # a folder where nothing can be made, or one that vanished meanwhile
            raise EnvironmentLacks(
                f"cannot create {what}{where}", hint="set NANOCHAT_BASE_DIR to a folder that you can write to"
            ) from problem
        if problem.errno in (errno.ENOTDIR, errno.EEXIST):
            raise EnvironmentLacks(
                f"a file stands where a folder is needed for {what}{where}",
                hint="move that file away, or set NANOCHAT_BASE_DIR to another folder",
            ) from problem
        raise


def inside(folder: Path, name: str, what: str) -> Path:
    """Return the file of this name in a folder. Raises DamagedArtifact if the name leads out of it."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or not parts.parts:
        raise DamagedArtifact(f"{what} names a file outside its folder: {name}")
    return folder / name


def make_dir(path: Path, what: str) -> Path:
    """Create `path` with its parents and return it; the names of those that are new are flushed to the disk.

    Else a power cut could take the folder away again, with everything that was carefully flushed inside it.
    """
    with explain_os_errors(what):
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in new:
            fsync_dir(folder.parent)
    return path


def fsync_dir(path: Path) -> None:
    """Flush a folder's list of names to the disk (a no-op where folders cannot be opened or flushed)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Flush one file's content to the disk."""
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `path` so that a reader, or a crash, sees the old content or the new one and nothing between."""
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with explain_os_errors(path.name):
        try:
            with beside.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            beside.replace(path)
            fsync_dir(path.parent)
        finally:
            beside.unlink(missing_ok=True)


def staging_dir(final: Path) -> Path:
    """Create and return a folder beside `final` that `publish_dir` can later rename to it."""
    staged = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
    make_dir(final.parent, final.name)
    with explain_os_errors(final.name):
        staged.mkdir()
    return staged


def publish_dir(staged: Path, final: Path) -> None:
    """Flush every file in `staged` and rename it to `final`, which must not exist."""
    with explain_os_errors(final.name):
        for path in sorted(staged.rglob("*")):
            if path.is_file():
                fsync_file(path)
            else:
                fsync_dir(path)
        fsync_dir(staged)
        staged.rename(final)
        fsync_dir(final.parent)


def aside_of(final: Path) -> Path:
    """Return where an old folder waits while `replace_dir` puts a new one in its place."""
    return final.with_name(f".{final.name}.replaced")


def replace_dir(staged: Path, final: Path) -> None:
    """Publish `staged` in the place of `final`: the old folder is moved aside, and deleted once the new one stands."""
    aside = aside_of(final)
    with explain_os_errors(final.name):
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
    try:
        publish_dir(staged, final)
    except BaseException:
        aside.rename(final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def restore_dir(final: Path) -> None:
    """Bring the old folder back if a replacement was killed between its two renames. Call it before `final` is read."""
    if not final.exists() and aside_of(final).is_dir():
        aside_of(final).rename(final)


def sweep_staging(parent: Path, *prefixes: str) -> None:
    """Delete what a killed process left half-written in `parent`. The caller holds the lock on `parent`.

    `prefixes` limits it to files and folders whose names begin so; where other processes write as well, the caller
    names what none but itself writes.
    """
    for path in parent.glob(".*.tmp"):
        if prefixes and not path.name.startswith(tuple(f".{prefix}" for prefix in prefixes)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value written as canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in `path`. Raises MissingArtifact or DamagedArtifact, naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingArtifact(f"{what} is missing: {path}") from None
    except OSError as problem:
        raise EnvironmentLacks(f"cannot read {what}: {path}: {problem.strerror}") from problem
    except (ValueError, UnicodeDecodeError) as problem:
        raise DamagedArtifact(f"{what} is damaged: {path}") from problem
    if not isinstance(value, dict):
        raise DamagedArtifact(f"{what} is damaged, not a JSON object: {path}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def can_write(path: Path) -> bool:
    """Return whether `path` may be written or created: false on a read-only file system, also for root."""
    while not path.exists():
        path = path.parent
    return os.access(path, os.W_OK)


def free_space(path: Path) -> int:
    """Return the free bytes on the disk that holds `path`, or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def tree_size(path: Path) -> int:
    """Return the bytes of all files under `path`."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
