"""Fetching many files side by side: threads that fetch, one that tells how far they are and records what is done."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat_cli.core.data.download import FetchFailed, Got, Stopped, Wanted, Watch, fetch
from nanochat_cli.core.data.downloaded import Entry
from nanochat_cli.core.data.web import Web
from nanochat_cli.core.errors import DataError, NanochatError
from nanochat_cli.core.events import Log
from nanochat_cli.core.files import inside

TELL_EVERY_S = 0.25
RECORD_EVERY_S = 2.0
STOP_WITHIN_S = 5.0
GIVE_UP_AFTER = 16
_SPEED_OVER_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A file that could not be had, and why."""

    path: str
    reason: str


@dataclass
class Outcome:
    """What became of all files."""

    done: dict[str, Entry] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    moved_bytes: int = 0


@dataclass(frozen=True)
class Steps:
    """What happens to each file: `check` before it gets its name, `count` after; both run beside other downloads."""

    check: Callable[[Path], None]
    count: Callable[[Path], dict[str, int]] = lambda _: {}


def fetch_many(
    wanted: Sequence[Wanted],
    folder: Path,
    web: Web,
    steps: Steps,
    *,
    workers: int,
    log: Log,
    record: Callable[[dict[str, Entry]], object],
) -> Outcome:
    """Fetch all files into a folder and return what became of each; `record` is given those that are new, every while.

    A file that cannot be had does not stop the others; a full disk does, and is raised. On Ctrl-C the threads stop
    after the piece they are at, which stays to be continued.
    """
    return _Crew(wanted, folder, web, steps, log, record).run(min(workers, len(wanted)))


class _Crew:
    def __init__(
        self,
        wanted: Sequence[Wanted],
        folder: Path,
        web: Web,
        steps: Steps,
        log: Log,
        record: Callable[[dict[str, Entry]], object],
    ) -> None:
        self.wanted, self.folder, self.web, self.steps, self.log, self.record = wanted, folder, web, steps, log, record
        self.todo: queue.SimpleQueue[Wanted] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[tuple[Wanted, Entry | BaseException]] = queue.SimpleQueue()
        self.watches = {file.path: Watch() for file in wanted}
        self.active: dict[str, Watch] = {}
        self.outcome = Outcome()
        self.fresh: dict[str, Entry] = {}
        self.settled_bytes = 0  # of files that are done or given up
        self.paces: list[tuple[float, int]] = []
        self.failed_in_a_row = 0

    def run(self, workers: int) -> Outcome:
        for file in self.wanted:
            self.todo.put(file)
        threads = [threading.Thread(target=self._work, name=f"fetch-{i}", daemon=True) for i in range(workers)]
        for thread in threads:
            thread.start()
        try:
            self._follow()
        finally:
            self.web.stop.set()
            deadline = time.monotonic() + STOP_WITHIN_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            self._take_rest()
            self._record()
        self.outcome.moved_bytes = sum(watch.moved for watch in self.watches.values())
        self.outcome.missing.sort(key=lambda missing: missing.path)
        return self.outcome

    def _work(self) -> None:
        while not self.web.stop.is_set():
            try:
                file = self.todo.get_nowait()
            except queue.Empty:
                return
            watch = self.active[file.path] = self.watches[file.path]
            try:
                self.results.put((file, self._one(file, watch)))
            except Stopped:
                return
            except BaseException as problem:  # told by the thread that collects
                self.results.put((file, problem))
            finally:
                self.active.pop(file.path, None)

    def _one(self, file: Wanted, watch: Watch) -> Entry:
        final = inside(self.folder, file.path, "a list of files")
        got = fetch(file, final, self.web, check=self.steps.check, watch=watch)
        watch.state = "reading"
        try:
            counts: dict[str, Any] = self.steps.count(final)
        except DataError as problem:
            final.unlink(missing_ok=True)
            raise FetchFailed(str(problem)) from problem
        return _entry(got, counts)

    def _follow(self) -> None:
        left, told, recorded = len(self.wanted), 0.0, time.monotonic()
        while left:
            if self.failed_in_a_row >= GIVE_UP_AFTER:
                self._give_up()
                return
            try:
                self._settle(*self.results.get(timeout=TELL_EVERY_S))
                left -= 1
            except queue.Empty:
                pass
            now = time.monotonic()
            if now - told >= TELL_EVERY_S or not left:
                told = now
                self._tell(left, now)
            if now - recorded >= RECORD_EVERY_S:
                recorded = now
                self._record()

    def _settle(self, file: Wanted, result: Entry | BaseException) -> None:
        self.settled_bytes += result.size if isinstance(result, Entry) else file.about
        if isinstance(result, Entry):
            self.outcome.done[file.path] = self.fresh[file.path] = result
            self.failed_in_a_row = 0
        elif isinstance(result, FetchFailed):
            self.outcome.missing.append(Missing(path=file.path, reason=str(result)))
            self.failed_in_a_row += 1
        elif isinstance(result, NanochatError):
            raise result  # a full disk or the like: the next file would meet it, too
        else:
            raise RuntimeError(f"while fetching {file.path}: {result!r}") from result

    def _give_up(self) -> None:
        """A source that is down or out of reach: to wait for each of a thousand files in turn would take days."""
        known = {*self.outcome.done, *(missing.path for missing in self.outcome.missing)}
        reason = f"given up, as the {GIVE_UP_AFTER} files before could not be had"
        self.outcome.missing += [Missing(path=f.path, reason=reason) for f in self.wanted if f.path not in known]

    def _take_rest(self) -> None:
        """What the threads finished while they were being stopped is done, too."""
        while True:
            try:
                file, result = self.results.get_nowait()
            except queue.Empty:
                return
            if isinstance(result, Entry):
                self.outcome.done[file.path] = self.fresh[file.path] = result
        self.outcome.missing = [missing for missing in self.outcome.missing if missing.path not in self.outcome.done]

    def _record(self) -> None:
        if self.fresh:
            self.record(self.fresh)
            self.fresh = {}

    def _tell(self, left: int, now: float) -> None:
        active = [(name, w.done, w.total, w.state) for name, w in list(self.active.items())]
        pending = sum(file.about for file in self.wanted) - self.settled_bytes
        done = self.settled_bytes + sum(part[1] for part in active)
        moved = sum(watch.moved for watch in self.watches.values())
        self.paces = [(when, had) for when, had in self.paces if now - when <= _SPEED_OVER_S] + [(now, moved)]
        (began, had), total = self.paces[0], self.settled_bytes + max(pending, done - self.settled_bytes)
        speed = f" · {(moved - had) / (now - began) / 1e6:.1f} MB/s" if now > began else ""
        self.log.emit(
            "progress",
            task="downloading",
            done=done if left else total,
            total=total,
            unit="bytes",
            detail=f"{len(self.wanted) - left} of {len(self.wanted)} files{speed}",
            parts=[
                {"name": Path(name).name, "done": at, "total": of, "detail": state} for name, at, of, state in active
            ],
        )


def _entry(got: Got, counts: dict[str, Any]) -> Entry:
    return Entry(size=got.size, sha256=got.sha256, url=got.url, etag=got.etag, **counts)
