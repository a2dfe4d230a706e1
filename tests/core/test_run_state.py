"""What is told about runs: their state and end, lineage, most recent one, and that clocks and names may change."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import events, paths, run_details, run_lineage, run_state, run_tags, runs, units
from tests.core.runs_made import make, write_step

ENDS = [
    ({"kind": "done"}, "finished", "finished"),
    ({"kind": "stopped", "step": 2, "why": "SIGTERM"}, "stopped", "stopped by SIGTERM, resumable"),
    ({"kind": "stopped", "step": 2, "why": "SIGINT"}, "stopped", "stopped by Ctrl-C, resumable"),
    ({"kind": "stopped", "step": 2, "why": "deadline"}, "stopped", "stopped by deadline, resumable"),
    ({"kind": "stopped", "step": 2}, "stopped", "stopped by a request, resumable"),
    ({"kind": "error", "message": "the disk is full\nmore"}, "failed", "failed: the disk is full"),
    ({"kind": "error", "type": "Diverged", "message": "loss nan"}, "diverged", "diverged: loss nan"),
    ({"kind": "error", "message": "training diverged at step 3: loss nan"}, "diverged", "diverged: step 3: loss nan"),
    ({"kind": "step", "step": 3}, "interrupted", "interrupted (killed), resumable"),
]


@pytest.mark.parametrize(("end", "state", "status"), ENDS)
def test_why_a_stage_ended(end: dict[str, Any], state: str, status: str) -> None:
    make("r", "base", 1, 2, end=end)
    info = run_state.describe_stage("r", "base")
    assert info is not None and (info.state, info.status) == (state, status)


def test_a_stage_that_was_resumed_and_killed_is_not_as_it_ended_before() -> None:
    folder = make("r", "base", 1, 2, end={"kind": "stopped", "step": 2, "why": "SIGTERM"})
    log = events.FileLog(folder / "events.jsonl")
    log.emit("stage", name="base")
    log.emit("resumed", step=2)
    info = run_state.describe_stage("r", "base")
    assert info is not None and info.state == "interrupted"


def test_the_best_and_not_what_a_resume_undid() -> None:
    folder = make("r", "base", 10, 20, 30, bpb={10: 0.9, 20: 0.7, 30: 0.8})
    info = run_state.describe_stage("r", "base")
    assert info is not None and (info.best_bpb, info.best_step, info.val_bpb) == (0.7, 20, 0.8)
    assert run_state.best_step(folder, [10, 30]) == 30
    events.FileLog(folder / "events.jsonl").emit("resumed", step=10)
    info = run_state.describe_stage("r", "base")
    assert info is not None and (info.best_bpb, info.best_step, info.num_steps) == (0.9, 10, 100)


def test_sizes_follow_no_link_and_match_the_files(tmp_path: Path) -> None:
    folder = make("r", "base", 1, 2)
    (tmp_path / "big").write_bytes(bytes(10**6))
    (folder / "link").symlink_to(tmp_path)
    info = run_state.describe_stage("r", "base")
    there = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    assert info is not None and info.size_bytes == there + (folder / "link").lstat().st_size


def test_rare_events_are_found_in_a_long_history_and_text_is_no_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = events.FileLog(path)
    for step in range(5000):
        log.emit("step", step=step, num_steps=9, text='{"kind": "eval"')
        if step % 1000 == 0:
            log.emit("eval", step=step, metric="val_bpb", value=1.0)
    with path.open("a") as file:
        file.write('{"kind": "eval", "st')  # torn
    assert [e["step"] for e in events.read_kinds(path, "eval")] == [0, 1000, 2000, 3000, 4000]
    assert events.read_tail(path)[-1]["step"] == 4999 and len(events.read_tail(path)) < 5000
    assert events.last_time(path) == events.read(path)[-1]["time"]
    assert events.last_time(tmp_path / "none") is None and events.read_kinds(tmp_path / "none", "eval") == []


# ---- the most recent run, and clocks ---------------------------------------------------------------------------------


def test_recent_is_what_the_records_say_and_not_the_files_times() -> None:
    now = time.time()
    make("new", "base", 1, at=now - 10)
    old = make("old", "base", 1, at=now - 1000)
    for path in old.rglob("*"):  # as after a copy of the folder
        os.utime(path, (now + 50, now + 50))
    assert runs.all_runs() == ["new", "old"] and runs.find_source(None, None) == ("new", "base")


@pytest.mark.parametrize("wrong", [100.0, 4e9])
def test_a_run_written_under_a_wrong_clock_keeps_its_place(wrong: float) -> None:
    now = time.time()
    for number, name in enumerate(("first", "second", "third")):
        folder = make(name, "base", 1, at=wrong if name == "second" else now - 1000 + number)
        if name == "second":
            for path in (paths.run_dir(name) / "run.json", folder / "events.jsonl"):
                os.utime(path, (wrong, wrong))
    assert runs.all_runs() == ["third", "second", "first"]
    assert all(info.run for info in run_state.describe_all())


def test_ages_never_fail() -> None:
    assert units.ago(1000.0, 500.0) == units.ago(1000.0, 1000.0) == "just now"
    assert [units.ago(0.0, s) for s in (59, 61, 7300, 86400 * 3)] == ["59 s ago", "1 min ago", "2 h ago", "3 days ago"]
    assert units.ago(None) == "at an unknown time"


# ---- lineage and names -----------------------------------------------------------------------------------------------


def test_a_parent_is_found_by_its_weights_after_a_rename() -> None:
    make("mother", "base", 5, 6)
    make("child", "sft", 3, parent=("mother", "base", 6))
    assert str(run_lineage.parent("child", "sft")) == "mother/base/6"
    paths.run_dir("mother").rename(paths.run_dir("mama"))
    paths.run_dir("child").rename(paths.run_dir("kid"))
    assert runs.all_runs()[0] in ("kid", "mama")
    assert run_lineage.parent("kid", "sft") == run_lineage.Place("mama", "base", 6)
    assert run_lineage.base_run("kid") == "mama"
    assert [str(child) for child in run_lineage.children("mama")] == ["kid/sft"]
    assert run_lineage.children("mama", "base", 5) == [] and run_lineage.children("kid") == []
    write_step(make("mother", "base"), 6, salt="another")  # another run by the old name is not the parent
    assert run_lineage.parent("kid", "sft") == run_lineage.Place("mama", "base", 6)


def test_a_parent_that_is_gone_is_told_as_such() -> None:
    folder = make("mother", "base", 5)
    make("mother", "sft", 3, parent=("mother", "base", 5))
    (folder / "step-000005" / runs.MANIFEST).unlink()
    assert run_lineage.parent("mother", "sft") == run_lineage.Place("mother", "base", 5, present=False)
    assert run_lineage.parent("mother", "base") is None and run_lineage.base_run("mother") == "mother"


def test_a_moved_base_folder_works_as_before(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("mother", "base", 5)
    make("child", "sft", 3, parent=("mother", "base", 5))
    run_tags.add("v1", "child", "sft", 3)
    before = [(i.run, i.stage, i.step, i.parent, i.tags) for i in run_state.describe_all()]
    base_dir.rename(base_dir.with_name("moved"))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base_dir.with_name("moved")))
    assert [(i.run, i.stage, i.step, i.parent, i.tags) for i in run_state.describe_all()] == before


def test_details_survive_damage() -> None:
    folder = make("r", "base", 1, 2, end={"kind": "done"}, bpb={1: 0.5})
    for name in ("result.json", "events.jsonl", "step-000002/MANIFEST.json", "step-000002/config.json"):
        (folder / name).write_text('{"torn')
    (paths.run_dir("r") / "run.json").write_text("[]")
    details = run_details.of_run("r")
    (stage,) = details["stages"]
    assert [c["readable"] for c in stage["checkpoints"]] == [True, False] and stage["model"] == {"n_layer": 2}
    json.dumps(details)


def test_warnings_are_kept() -> None:
    folder = make("r", "base", 1)
    for _ in range(2):
        events.FileLog(folder / "events.jsonl").warning("slow disk")
    assert run_details.of_stage("r", "base")["warnings"] == ["slow disk"]


def test_a_checkpoint_is_best_permanent_and_tagged() -> None:
    folder = make("r", "base", 1, 2, bpb={1: 0.5, 2: 0.6})
    run_tags.add("good", "r", "base", 2)
    manifest = folder / "step-000002" / runs.MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "permanent": True}))
    first, second = run_details.of_stage("r", "base")["checkpoints"]
    assert (first["best"], first["permanent"], first["tags"]) == (True, False, [])
    assert (second["best"], second["permanent"], second["tags"]) == (False, True, ["good"])
    assert write_step(folder, 3).is_dir()
