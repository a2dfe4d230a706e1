"""What a stranger sees, and what happens when nobody looks."""

from __future__ import annotations

import io
import json

import pytest

from nanochat_cli import output as module
from nanochat_cli.output import LineWatcher, Output


class Gone(io.StringIO):
    """A terminal whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_work_goes_on_when_nobody_reads_its_progress() -> None:
    output = Output()
    output.err = Gone()
    watcher = LineWatcher(output)
    for text in ("one", "two"):
        watcher.on_event({"kind": "note", "time": 0.0, "text": text})
    with watcher:
        pass
    for speak in (output.note, output.hint, output.heading, output.warning, output.error):
        speak("three")


def test_json_holds_no_byte_that_steers_a_terminal() -> None:
    out = io.StringIO()
    Output(json_mode=True, out=out).json({"reply": "a\x1b[2J\x9b2J\x7fé"})
    assert not any((c < " " and c != "\n") or "\x7f" <= c <= "\x9f" for c in out.getvalue())
    assert json.loads(out.getvalue()) == {"reply": "a\x1b[2J\x9b2J\x7fé"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_parts_of_a_work_have_bars_of_their_own() -> None:
    from nanochat_cli.live import LiveWatcher

    output = Output(err=Terminal())
    with LiveWatcher(output) as watcher:
        event = {"kind": "progress", "time": 0.0, "task": "downloading", "total": 3_000_000, "unit": "bytes"}
        parts = [{"name": f"shard_{i}", "done": 500_000, "total": 1_000_000, "detail": ""} for i in range(2)]
        watcher.on_event({**event, "done": 1_000_000, "parts": parts})
        shown = {task.description.strip(): task.fields["detail"] for task in watcher._progress.tasks}
        figures = "500.0 kB of 1.0 MB"
        assert shown == {"downloading": "1.0 MB of 3.0 MB (33 %)", "shard_0": figures, "shard_1": figures}
        waiting = [{**parts[1], "detail": "HTTP 503, try 2 of 8"}]
        watcher.on_event({**event, "done": 2_000_000, "parts": waiting})
        shown = {task.description.strip(): task.fields["detail"] for task in watcher._progress.tasks}
        assert shown == {"downloading": "2.0 MB of 3.0 MB (66 %)", "shard_1": "HTTP 503, try 2 of 8"}


class Log:
    """A log file that follows some work by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.err = io.StringIO()
        self.watcher = LineWatcher(Output(err=self.err))

    def at(self, second: float, task: str, done: float, total: float | None = 151_539) -> None:
        self.now = 1000.0 + second
        event = {"kind": "progress", "time": self.now, "task": task, "done": done, "total": total, "unit": "documents"}
        self.watcher.on_event(event)

    @property
    def lines(self) -> list[str]:
        return self.err.getvalue().splitlines()


def test_progress_in_a_log_has_unit_and_share_and_a_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    for second, done in ((0, 59), (5, 70_000), (11, 120_000), (12, 130_000), (14, 151_539)):
        log.at(second, "encoding train", done)
    assert [line.partition(" · ")[0] for line in log.lines] == [
        "encoding train: 120,000 of 151,539 documents (79 %)",
        "encoding train: 151,539 of 151,539 documents (100 %)",
    ]


def test_what_is_soon_over_leaves_no_line_and_nothing_is_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    log.at(0, "encoding val", 59)
    log.at(3, "encoding val", 151_539)
    assert log.lines == []
    log.at(14, "reading", 7, None)
    log.at(30, "reading", 7, None)
    log.at(45, "reading", 9, None)
    assert log.lines == ["reading: 7 documents", "reading: 9 documents"]
