"""Events are whole lines: readers survive a killed writer, and a resume leaves no step twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat_cli.core import events
from nanochat_cli.core.errors import NanochatError


def test_a_tail_sees_only_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = events.Tail(path)
    assert list(tail.poll()) == []
    with path.open("ab") as file:
        file.write(b'{"kind": "note", "text": "one"}\n{"kind": "no')
        file.flush()
        assert [e["text"] for e in tail.poll()] == ["one"]
        file.write(b'te", "text": "two"}\n')
    assert [e["text"] for e in tail.poll()] == ["two"]


def test_a_tail_starts_at_the_end_of_the_history(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events.FileLog(path).note("before")
    tail = events.Tail(path)
    events.FileLog(path).note("after")
    assert [e["text"] for e in tail.poll()] == ["after"]


def test_a_torn_line_is_ignored_and_does_not_eat_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events.FileLog(path).note("whole")
    with path.open("ab") as file:
        file.write(b'{"kind": "note", "te')
    events.FileLog(path).note("next")
    assert [e["text"] for e in events.read(path)] == ["whole", "next"]


def test_a_resume_undoes_the_lost_steps(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = events.FileLog(path)
    for step in (1, 2, 3):
        log.emit("step", step=step, loss=float(step))
    log.emit("saved", step=2)
    log.emit("resumed", step=2)
    log.emit("step", step=3, loss=30.0)
    steps = [(e["step"], e["loss"]) for e in events.read(path) if e["kind"] == "step"]
    assert steps == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_numbers_that_json_lacks_stay_readable(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events.FileLog(path).emit("step", step=1, loss=float("nan"))
    assert events.read(path)[0]["loss"] == "nan"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    log = events.FileLog(tmp_path / "events.jsonl")
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(NanochatError, match="the disk is full while writing the history"):
        log.note("hello")


def test_a_full_disk_ends_no_training_and_the_history_is_completed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = events.FileLog(tmp_path / "events.jsonl")
    log.emit("note", text="before")
    real, full = events.FileLog._write, True

    def write(self: events.FileLog, text: str) -> None:
        if full:
            with (tmp_path / "events.jsonl").open("a") as file:
                file.write(text[:9])  # torn
            raise NanochatError("the disk is full")
        real(self, text)

    monkeypatch.setattr(events.FileLog, "_write", write)
    with pytest.raises(NanochatError, match="the disk is full"):
        log.emit("note", text="lost")
    for step in range(3):
        log.emit("step", step=step)
    full = False
    log.emit("note", text="after")
    told = [event.get("step", event.get("text")) for event in events.read(tmp_path / "events.jsonl")]
    assert told == ["before", 0, 1, 2, "after"]
