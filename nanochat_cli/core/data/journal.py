"""Work that goes on where it stopped: a locked folder beside what is being made, and a journal of what is done in it.

A journal entry has a key that names everything its result depends on. A rerun takes over the entries whose keys it
computes again, so changed files or options cannot be mistaken for the same work; nothing else is compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nanochat_cli.core.claim import Claim
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.files import explain_os_errors, make_dir, sha256_file, tree_size

JOURNAL = "journal.jsonl"
KEEP_BYTES = 16 << 20
"""Less than this is quicker made again than explained, so an error leaves no trace of it."""


class Workspace:
    """A folder that outlives its process. Entries name files in it, which are hashed before they are believed."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder
        self.finished = False
        self._path = folder / JOURNAL
        self._entries = dict(_entries(self._path))

    def resume(self, wanted: Callable[[str], bool]) -> dict[str, dict[str, Any]]:
        """Return the entries with wanted keys whose files are whole, and delete all other files and entries."""
        kept = {key: facts for key, facts in self._entries.items() if wanted(key) and self._whole(facts)}
        files = {self.dir / name for facts in kept.values() for name in facts.get("files", {})}
        for path in sorted(self.dir.rglob("*")):
            if path.is_file() and path not in files and path != self._path:
                path.unlink()
        text = "".join(_line(key, facts) for key, facts in kept.items())
        beside = self._path.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self._path)
        self._entries = kept
        return kept

    def add(self, key: str, facts: dict[str, Any]) -> None:
        """Record that a piece of work is done; `facts["files"]` maps the names of its files to their SHA-256."""
        with explain_os_errors("the journal"), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(key, facts))
            file.flush()
            os.fsync(file.fileno())
        self._entries[key] = facts

    def _whole(self, facts: dict[str, Any]) -> bool:
        """Whether an entry's files are as they were written: a power cut may keep a name and lose the content."""
        files = facts.get("files", {})
        return all((self.dir / name).is_file() and sha256_file(self.dir / name) == sha for name, sha in files.items())


@contextlib.contextmanager
def workspace(final: Path, purpose: str, *, keep_bytes: int = 0) -> Iterator[Workspace]:
    """Yield the workspace of this purpose beside `final`. It is deleted when `finished` is set.

    It is deleted as well after an error if it holds less than `keep_bytes`; an interruption keeps it always. Raises
    ConfigError if another process is at work in it.
    """
    folder = final.with_name(f".{final.name}.{purpose}")
    handle, claim = _locked(folder, final.name)
    made: Workspace | None = None
    small = False
    try:
        made = Workspace(folder)
        yield made
    except Exception:
        small = tree_size(folder) < keep_bytes
        raise
    finally:
        if small or (made is not None and made.finished):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
        claim.release()


def unfinished(parent: Path) -> list[tuple[str, Path, int]]:
    """Return (name of the corpus, folder, bytes) of each piece of work in `parent` that was stopped or is going on."""
    found = sorted(path.parent for path in parent.glob(f".*/{JOURNAL}")) if parent.is_dir() else []
    return [(folder.name[1:].rpartition(".")[0], folder, tree_size(folder)) for folder in found]


def discard(final: Path, purpose: str) -> None:
    """Delete the workspace of this purpose, if there is one: what it was for is made."""
    if final.with_name(f".{final.name}.{purpose}").is_dir():
        with workspace(final, purpose) as space:
            space.finished = True


def _locked(folder: Path, name: str) -> tuple[int, Claim]:
    """Create and lock a folder; return the handle and the claim that hold the lock."""
    while True:
        make_dir(folder, name)
        handle, claim = os.open(folder, os.O_RDONLY), Claim(folder)
        try:
            if not claim.take_now(handle):
                raise ConfigError(
                    f"another command is making this corpus right now: {name}",
                    hint="wait for it, or choose another --name",
                )
            with contextlib.suppress(FileNotFoundError):  # its last owner may have deleted it since it was opened
                if os.stat(folder).st_ino == os.fstat(handle).st_ino:
                    return handle, claim
        except BaseException:
            os.close(handle)
            claim.release()
            raise
        os.close(handle)
        claim.release()


def _line(key: str, facts: dict[str, Any]) -> str:
    return json.dumps({"key": key, "facts": facts}, ensure_ascii=False) + "\n"


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a journal holds; a line left half-written by a killed process, or odd otherwise, counts for nothing."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("key"), str) and _is_facts(entry.get("facts")):
                yield entry["key"], entry["facts"]


def _is_facts(facts: Any) -> bool:
    files = facts.get("files", {}) if isinstance(facts, dict) else None
    return isinstance(files, dict) and not any(name.startswith("/") or ".." in name for name in files)
