"""What a piece of work tells while it runs: small JSON records, on a file or to a listener.

A worker appends its records to `events.jsonl` in the stage folder; the parent process follows that file and draws.
The same file is the stage's history: the report reads its curves from it.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.files import explain_os_errors

Event = dict[str, Any]


class Log:
    """The one way that core code speaks; this base class swallows everything, see the two below.

    Kinds and their fields: stage (name, purpose, run) · progress (task, done, total, unit, detail, parts: what is
    worked on side by side, each with name, done, total, detail) · step (stage, step, num_steps, loss, tokens_per_s,
    eta_s, …) · eval (step, metric, value) · sample (step, prompt, text) · saved (step, path, bytes, seconds, stall_s) ·
    save_failed (step, message) · resumed (step) · skipped (step, why, where, in_a_row) · rolled_back (step, batch,
    left_out) · note, warning (text) · stopped (step, why) · error (message, hint) · done (the result).
    A step counts updates: the record of step s describes the update that led to the weights of checkpoint s.
    """

    def emit(self, kind: str, **fields: Any) -> None:
        """Record one event."""

    def note(self, text: str) -> None:
        """Tell a fact worth a line."""
        self.emit("note", text=text)

    def warning(self, text: str) -> None:
        """Tell a fact that the user should act on."""
        self.emit("warning", text=text)

    def progress(self, task: str, done: float, total: float | None, unit: str = "", detail: str = "") -> None:
        """Tell how far a piece of work is, and more about it in words; `total` is None when unknown."""
        more = {"detail": detail} if detail else {}
        self.emit("progress", task=task, done=done, total=total, unit=unit, **more)


NULL = Log()


class Listener(Log):
    """Hands each event to a function in the same process."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event

    def emit(self, kind: str, **fields: Any) -> None:
        self._on_event({"kind": kind, "time": time.time(), **fields})


def _finite(value: Any) -> Any:
    """JSON has no NaN: write it as text, so that every line stays readable by any parser."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


_MOST_WAITING = 1000


class FileLog(Log):
    """Appends each event as one line to a file. A line is written whole or, after a crash, ignored.

    `emit` raises NanochatError with one clear line if the disk is full; from the first step of a training on, events
    wait for room instead (the last 1,000 of them), as a history is nothing to end a training for.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_torn_line(path)
        self._path = path
        self._waits = False
        self._waiting: deque[str] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()

    def emit(self, kind: str, **fields: Any) -> None:
        record = {"kind": kind, "time": round(time.time(), 3)} | {key: _finite(value) for key, value in fields.items()}
        line = json.dumps(record, ensure_ascii=False) + "\n"
        self._waits = self._waits or kind == "step"
        with self._lock:
            try:
                if self._waiting:
                    _end_torn_line(self._path)
                self._write("".join([*self._waiting, line]))
                self._waiting.clear()
            except NanochatError:
                if not self._waits:
                    raise
                self._waiting.append(line)

    def _write(self, text: str) -> None:
        with explain_os_errors("the history"), self._path.open("a", encoding="utf-8") as file:
            file.write(text)


def _end_torn_line(path: Path) -> None:
    """A killed writer may leave half a line: end it, so that the next record starts on its own line."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as handle:
            handle.seek(-1, 2)
            if handle.read(1) != b"\n":
                handle.write(b"\n")


class Tail:
    """Follows an events file that another process appends to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def poll(self) -> Iterator[Event]:
        """Yield the events that were completed since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as handle:
            handle.seek(self._offset)
            chunk = handle.read()
        self._offset += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        yield from _parse(lines)


def _parse(lines: list[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the torn last line of a killed process
        if isinstance(record, dict) and "kind" in record:
            yield record


def read(path: Path) -> list[Event]:
    """Return a stage's history: after a resume, what the lost steps had recorded is left out."""
    return _kept(_parse(path.read_bytes().split(b"\n"))) if path.exists() else []


_TAIL_BYTES, _LINE_BYTES = 1 << 18, 1 << 14


def read_tail(path: Path) -> list[Event]:
    """Return the last events of a history, of a long one not all, and what a resume has undone among them."""
    try:
        with path.open("rb") as handle:
            begin = max(0, handle.seek(0, 2) - _TAIL_BYTES)
            handle.seek(begin)
            lines = handle.read().split(b"\n")
    except OSError:
        return []
    return list(_parse(lines[1:] if begin else lines))


def last_time(path: Path) -> float | None:
    """Return when the last event of a history was written, as the writer's clock said; None if there is none."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, 2) - _LINE_BYTES))
            lines = handle.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines):
        for event in _parse([line] if line else []):
            if isinstance(event.get("time"), int | float):
                return event["time"]
    return None


def read_kinds(path: Path, *kinds: str) -> list[Event]:
    """Return the events of a few rare kinds in order, without lost ones as `read` does; other lines are not parsed."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    starts: list[int] = []
    for kind in (*kinds, "resumed", "rolled_back"):
        mark = b'{"kind": "' + kind.encode() + b'"'
        at = content.find(mark)
        while at >= 0:
            if at == 0 or content[at - 1 : at] == b"\n":
                starts.append(at)
            at = content.find(mark, at + 1)
    ends = ((at, content.find(b"\n", at)) for at in sorted(starts))
    return _kept(_parse([content[at : end if end >= 0 else None] for at, end in ends]))


def _kept(history: Iterable[Event]) -> list[Event]:
    kept: list[Event] = []
    for event in history:
        if event["kind"] in ("resumed", "rolled_back"):
            kept = [old for old in kept if not _undone(old, event.get("step", 0))]
        kept.append(event)
    return kept


def _undone(event: Event, resumed_at: int) -> bool:
    """A step recorded as s leads to weights of step s; those after the resume point are done again."""
    return event["kind"] in ("step", "eval", "sample", "saved") and event.get("step", 0) > resumed_at
