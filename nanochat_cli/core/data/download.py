"""Fetching one file: try, continue where it broke off, check, and only then give it its name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nanochat_cli.core.data.part import Note, Part, hold
from nanochat_cli.core.data.web import Answer, Refused, Stopped, Transient, Web, clean_url
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.files import sha256_file

WRONG_CONTENTS = 5
STAY_TRIES = 3
"""So many tries without a byte, and a source is left although only it can continue the part."""
_COPY_BYTES = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class FetchFailed(NanochatError):
    """One file could not be had; the message says why and does not name it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file: where it may be had, and what is known about it before. `path` is relative to the data set's folder."""

    path: str
    urls: tuple[str, ...] = ()
    file: Path | None = None  # copied instead, if given
    size: int | None = None
    sha256: str | None = None
    approx: int = 0
    limit: int | None = None  # bytes at which a file of unknown size is refused

    @property
    def about(self) -> int:
        """Its size, or what is expected of it."""
        return self.size if self.size is not None else self.approx


@dataclass(frozen=True, kw_only=True)
class Got:
    """One file that is here and was checked. `moved` counts the bytes that came, `url` is None where none had to."""

    size: int
    sha256: str
    moved: int = 0
    etag: str | None = None
    url: str | None = None


@dataclass
class Watch:
    """How far one file is, for those who draw it."""

    done: int = 0
    total: int | None = None
    moved: int = 0
    state: str = ""


def fetch(
    wanted: Wanted, final: Path, web: Web, *, check: Callable[[Path], None] = lambda _: None, watch: Watch | None = None
) -> Got:
    """Bring one file to `final` and return what came; what is there already is checked and kept.

    `check` is given the whole file before it gets its name, and raises DataError or DamagedArtifact if the content is
    wrong. Raises FetchFailed with the last reason, Stopped if the work is called off.
    """
    return _Fetch(wanted, final, web, check, watch or Watch()).run()


class _Fetch:
    def __init__(self, wanted: Wanted, final: Path, web: Web, check: Callable[[Path], None], watch: Watch) -> None:
        self.wanted, self.final, self.web, self.check, self.watch = wanted, final, web, check, watch
        self.sources = list(wanted.urls)
        self.fruitless = self.wrong = self.best = 0
        watch.total = wanted.size

    def run(self) -> Got:
        def wait(seconds: float) -> None:
            self.watch.state = "another process is fetching it"
            self.web.pause(seconds)

        with hold(self.final, wait) as part:
            self.watch.state = ""
            if self.final.is_file():
                if got := self._adopt():
                    return got
                self.final.unlink()
            self.best = part.size
            if self.wanted.file is not None:
                return self._copy(part, self.wanted.file)
            return self._fetch(part)

    def _adopt(self) -> Got | None:
        """Take a file that has its name but is in no record: it was killed there, or another process was faster."""
        self.watch.state = "checking"
        try:
            got = Got(size=self.final.stat().st_size, sha256=self._checked(self.final, self.wanted.sha256))
        except Transient:
            return None
        self.watch.done = got.size
        return got

    def _fetch(self, part: Part) -> Got:
        turn = dry = 0
        url = "" if self._may_change(part) else next((u for u in self.sources if _is_from(part.note, u)), "")
        while True:
            if not self.sources:
                raise FetchFailed("there is no address to fetch it from")
            if url not in self.sources:
                url, dry = self.sources[turn % len(self.sources)], 0
            before = self.watch.moved
            try:
                self._try(part, url)
                return self._finish(part, url)
            except Refused as problem:
                self.sources.remove(url)
                if not self.sources:
                    raise FetchFailed(str(problem)) from problem
            except Transient as problem:
                self._count(part, problem)
                dry = dry + 1 if self.watch.moved == before else 0
                if self._may_change(part) or dry >= STAY_TRIES:
                    turn, url = self.sources.index(url) + 1, ""
                self.watch.state = f"{problem}, try {self.fruitless + 1} of {self.web.patience.tries}"
                self.web.wait(max(0, self.fruitless - 1), problem.after_s)

    def _may_change(self, part: Part) -> bool:
        """Whether another source may continue what is here: only the hash tells whether it has the same content."""
        return not part.size or part.note is None or bool(self.wanted.sha256 or part.note.sha256)

    def _count(self, part: Part, problem: Transient) -> None:
        """A try that got further than any before by a fair piece is none of those that count."""
        if part.size - self.best >= self.web.patience.worth_bytes:
            self.best, self.fruitless = part.size, 0
            return
        self.fruitless += 1
        if self.fruitless >= self.web.patience.tries or self.wrong >= WRONG_CONTENTS:
            raise FetchFailed(f"{problem}, after {max(self.fruitless, self.wrong)} tries") from problem

    def _try(self, part: Part, url: str) -> None:
        """Bring the part to its full length, or raise."""
        if self._is_whole(part):
            return
        headers = self._continue(part, url)
        with self.web.get(url, headers) as answer:
            if self._accept(part, answer, url):
                self._read(part, answer)
        if (size := self._size(part)) is not None and part.size < size:
            raise Transient(f"it ended after {part.size:,} of {size:,} bytes")

    def _size(self, part: Part) -> int | None:
        return self.wanted.size if self.wanted.size is not None else part.note.size if part.note else None

    def _is_whole(self, part: Part) -> bool:
        return part.size > 0 and part.size == self._size(part)

    def _continue(self, part: Part, url: str) -> dict[str, str]:
        """Return the headers that ask for the rest only, where the rest can be told to belong to what is here."""
        size, note = self._size(part), part.note
        changed = note and note.sha256 and self.wanted.sha256 and note.sha256 != self.wanted.sha256
        if note is None or changed or (size is not None and part.size > size):
            part.discard()
        if not part.size or note is None:
            return {}
        hashed = self.wanted.sha256 or note.sha256
        if note.etag and (_is_from(note, url) or not hashed):
            return {"Range": f"bytes={part.size}-", "If-Range": note.etag}
        if hashed:
            return {"Range": f"bytes={part.size}-"}  # the hash will tell
        part.discard()
        return {}

    def _accept(self, part: Part, answer: Answer, url: str) -> bool:
        """Prepare the part for the body of an answer; False if there is nothing left to read."""
        found = _RANGE.fullmatch(answer.response.headers.get("content-range", ""))
        note = part.note
        if answer.status == 416 or (answer.status == 206 and found is None):
            part.discard()
            raise Transient("the server cannot continue it")
        if answer.status == 206 and found and note:
            self._check_same(part, note, answer, found, url)
        elif part.size:
            part.discard()  # the server sends it from the start: it changed, or parts are not to be had there
        length = found[3] if found and answer.status == 206 else answer.response.headers.get("content-length", "")
        size = (
            answer.size if answer.size is not None else int(length) if length.isascii() and length.isdigit() else None
        )
        old = note if note and part.size else Note()
        etag = answer.etag or (old.etag if _is_from(old, url) else None)
        part.begin(Note(clean_url(url), etag, size, answer.sha256 or old.sha256))
        return True

    def _check_same(self, part: Part, note: Note, answer: Answer, found: re.Match[str], url: str) -> None:
        """Raise Transient if the rest that a server offers is not the rest of what is here."""
        same_source, total = _is_from(note, url), found[3]
        if not same_source and (
            (self.wanted.sha256 and answer.sha256 and answer.sha256 != self.wanted.sha256)
            or (self.wanted.size is not None and total != "*" and int(total) != self.wanted.size)
        ):
            raise Transient("it has another version")  # which is no reason to throw away what is here
        hashed = bool(self.wanted.sha256 or note.sha256)
        other = answer.sha256 and note.sha256 and answer.sha256 != note.sha256
        if same_source or not hashed:  # servers name the same content differently: then only the hash tells
            other = other or (answer.etag and note.etag and answer.etag != note.etag)
        if other or int(found[1]) != part.size:
            part.discard()
            raise Transient("it changed on the server")

    def _read(self, part: Part, answer: Answer) -> None:
        size = self._size(part)
        limit = self.wanted.limit if self.wanted.size is None else None
        if limit is not None and size is not None and size > limit:
            raise Refused(f"{size:,} bytes, where {limit:,} at most are expected")
        most = size if size is not None else limit
        self.watch.total, self.watch.state = size, ""
        pace = _Pace(self.web)
        for chunk in answer.response.iter_raw():
            self.web.check()
            if most is not None and part.size + len(chunk) > most:
                part.discard()
                raise self._wrong(f"more than {most:,} bytes")
            part.write(chunk)
            self.watch.done, self.watch.moved = part.size, self.watch.moved + len(chunk)
            pace.add(len(chunk))

    def _finish(self, part: Part, url: str) -> Got:
        self.watch.state, self.watch.done = "checking", part.size
        note = part.note or Note()
        try:
            sha256 = self._checked(part.path, self.wanted.sha256 or note.sha256)
        except Transient:
            part.discard()
            raise
        size = part.size
        part.publish()
        return Got(size=size, sha256=sha256, moved=self.watch.moved, etag=note.etag, url=clean_url(url))

    def _checked(self, path: Path, expected: str | None) -> str:
        """Return the SHA-256 of a file that is as it should be; else raise Transient, for it may come out right."""
        size = path.stat().st_size
        if self.wanted.size is not None and size != self.wanted.size:
            raise self._wrong(f"{size:,} bytes instead of {self.wanted.size:,}")
        sha256 = sha256_file(path)
        if expected and sha256 != expected:
            raise self._wrong("its SHA-256 is not the one of the source")
        try:
            self.check(path)
        except NanochatError as problem:
            raise self._wrong(str(problem)) from problem
        return sha256

    def _wrong(self, text: str) -> Transient:
        self.wrong += 1
        return Transient(text)

    def _copy(self, part: Part, source: Path) -> Got:
        """Copy from a folder, with the same checks; a copy that broke off is made again."""
        part.discard()
        self.watch.total = self.wanted.size
        with _readable(source) as file:
            part.begin(Note(source.name))
            while chunk := file.read(_COPY_BYTES):
                self.web.check()
                part.write(chunk)
                self.watch.done, self.watch.moved = part.size, self.watch.moved + len(chunk)
        try:
            got = self._finish(part, source.absolute().as_uri())
        except Transient as problem:
            raise FetchFailed(f"{problem}: {source}") from problem
        return got


def _is_from(note: Note | None, url: str) -> bool:
    return note is not None and note.url == clean_url(url)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except (FileNotFoundError, PermissionError, IsADirectoryError) as problem:
        raise FetchFailed(f"cannot be read ({problem.strerror}): {path}") from problem


class _Pace:
    """Gives up on a body that trickles: a server that sends a byte now and then would hold a place for ever."""

    def __init__(self, web: Web) -> None:
        self.web, self.since, self.bytes = web, web.clock(), 0

    def add(self, count: int) -> None:
        self.bytes += count
        spent = self.web.clock() - self.since
        if spent >= self.web.patience.window_s:
            if self.bytes < self.web.patience.slowest_bytes_per_s * spent:
                raise Transient(f"too slow, {self.bytes / spent:,.0f} bytes/s")
            self.since, self.bytes = self.web.clock(), 0


__all__ = ["FetchFailed", "Got", "Stopped", "Wanted", "Watch", "fetch"]
