"""A file that is not whole yet: its bytes so far, what they belong to, and a lock so that one process writes it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nanochat_cli.core.claim import Claim
from nanochat_cli.core.files import explain_os_errors, fsync_dir, make_dir, write_atomic


@dataclass(frozen=True)
class Note:
    """What the bytes so far belong to; without it they cannot be continued."""

    url: str = ""
    etag: str | None = None
    size: int | None = None
    sha256: str | None = None


class Part:
    """`.NAME.part` beside the final name, with a note in `.NAME.part.json`. Made by `hold`; locked while it lives."""

    def __init__(self, final: Path, path: Path, file: io.FileIO) -> None:
        self.final, self.path, self._file = final, path, file
        self.note = _read_note(note_path(final))
        self.size = os.fstat(file.fileno()).st_size
        if self.size and self.note is None:
            self.discard()

    def begin(self, note: Note) -> None:
        """Remember what is about to be written, before its first byte."""
        if note != self.note:
            write_atomic(note_path(self.final), json.dumps(asdict(note)))
            self.note = note

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        with explain_os_errors(self.final.name):
            view = memoryview(chunk)
            self._file.seek(self.size)
            while view:
                written = self._file.write(view)
                view = view[written:]
                self.size += written

    def discard(self) -> None:
        """Forget the bytes so far."""
        self._file.truncate(0)
        self.size, self.note = 0, None
        note_path(self.final).unlink(missing_ok=True)

    def publish(self) -> None:
        """Flush the bytes to the disk and give the file its name."""
        with explain_os_errors(self.final.name):
            os.fsync(self._file.fileno())
            self.path.replace(self.final)
            fsync_dir(self.final.parent)
        note_path(self.final).unlink(missing_ok=True)


@contextlib.contextmanager
def hold(final: Path, wait: Callable[[float], None]) -> Iterator[Part]:
    """Yield the part of a file, waiting with `wait` while another process has it. An empty part leaves no trace."""
    make_dir(final.parent, final.name)
    path = part_path(final)
    claim = Claim(path)
    file = _locked(path, claim, wait)
    try:
        yield Part(final, path, file)
    finally:
        if os.fstat(file.fileno()).st_size == 0:
            path.unlink(missing_ok=True)
            note_path(final).unlink(missing_ok=True)
        file.close()
        claim.release()


def _locked(path: Path, claim: Claim, wait: Callable[[float], None]) -> io.FileIO:
    while True:
        with explain_os_errors(path.name):
            file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
        try:
            claim.wait(file.fileno(), wait)
            # The one who had it may have given it its final name, or removed it: then this is no part any more.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            claim.release()
            raise
        file.close()
        claim.release()


def part_path(final: Path) -> Path:
    """Return where the bytes of an unfinished file are."""
    return final.with_name(f".{final.name}.part")


def note_path(final: Path) -> Path:
    """Return where it is noted what they belong to."""
    return final.with_name(f".{final.name}.part.json")


def size_so_far(final: Path) -> int:
    """Return the bytes of an unfinished file that are here."""
    try:
        return part_path(final).stat().st_size
    except FileNotFoundError:
        return 0


def _read_note(path: Path) -> Note | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        note = Note(**found)
    except (OSError, ValueError, TypeError):
        return None
    well = isinstance(note.url, str) and all(isinstance(v, str | None) for v in (note.etag, note.sha256))
    return note if well and isinstance(note.size, int | None) else None
