"""Repair: leftovers go, damaged checkpoints step aside, good ones stay, and a second pass finds nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nanochat_cli.core import (
    files,
    lockholder,
    lockmark,
    paths,
    run_details,
    run_names,
    run_removal,
    run_repair,
    run_tags,
    runs,
    stepdirs,
)
from nanochat_cli.core.errors import MissingArtifact
from nanochat_cli.core.run_repair import repair
from tests.core.runs_made import make, write_step


@pytest.fixture
def stage() -> Path:
    return make("r", "base", 10, 20, 30)


def tree(folder: Path) -> list[str]:
    """Every name and content below a folder, but for what any lock leaves."""
    found = (p for p in sorted(folder.rglob("*")) if p.name != "lock")
    return [f"{p.relative_to(folder)} {files.sha256_file(p) if p.is_file() else ''}" for p in found]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_in_order_is_left_alone(stage: Path) -> None:
    before = tree(paths.run_dir("r"))
    assert repair("r") == [] and tree(paths.run_dir("r")) == before


def test_everything_at_once(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockmark, "GRACE_S", 0.0)
    flip(stage / "step-000030" / "model.safetensors")
    (stage / "step-000040").mkdir()
    (stage / "step-000040" / "model.safetensors").write_bytes(b"x")
    (stage / ".step-000050.12345678.tmp").mkdir()
    (stage / ".latest.12345678.tmp").write_text("x")
    (paths.run_dir("r") / ".mid.12345678.tmp").mkdir()
    shutil.copytree(stage / "step-000020", stage / "aside-step-000020-abcdef")
    (stage / "step-000010").rename(stage / "aside-step-000010-abcdef")
    (stage / "stop").touch()
    (stage / "lock.held").write_text(
        json.dumps({"pid": 2**22 + 1, "host": "x", "boot": lockholder._boot()} | {"space": lockholder._space()})
    )
    (stage / "result.json").write_text('{"torn')
    (stage / "config.json").write_text("")
    (paths.run_dir("r") / "run.json").unlink()
    dry = repair("r", dry_run=True)
    assert (stage / "step-000040").exists() and (stage / "stop").exists() and not (stage / "lock").exists()
    done = repair("r")
    assert [(f.path, f.problem) for f in dry] == [(f.path, f.problem) for f in done]
    assert all(f.repaired for f in done)
    assert runs.checkpoint_steps(stage) == [10, 20] and (stage / "latest").read_text() == "step-000020\n"
    names = sorted(p.name for p in stage.iterdir())
    assert [n[:19] for n in names if n.startswith("damaged-")] == [
        "damaged-result.json",
        "damaged-step-000030",
        "damaged-step-000040",
    ]
    assert not [n for n in names if n.startswith((".", "aside", "stop", "lock.held"))]
    assert files.read_json(stage / "config.json", "it")["config"]["optim"] and runs.all_runs() == ["r"]
    assert repair("r") == []


def test_damaged_ones_are_deleted_only_when_asked(stage: Path) -> None:
    flip(stage / "step-000020" / "state.json")
    repair("r")
    assert len(list(stage.glob("damaged-*"))) == 1
    flip(stage / "step-000030" / "optim.safetensors")
    assert {f.action for f in repair("r", delete=True)} == {"deleted", "rewritten"}
    assert not list(stage.glob("damaged-*")) and runs.checkpoint_steps(stage) == [10]


def test_nothing_good_left_cannot_be_repaired(stage: Path) -> None:
    for step in (10, 20, 30):
        (stage / f"step-{step:06d}" / "model.safetensors").unlink()
    left = [finding for finding in repair("r") if not finding.repaired]
    assert [finding.problem for finding in left] == ["no good checkpoint is left"]
    assert not (stage / "latest").exists()


def test_a_running_stage_is_left_alone(stage: Path) -> None:
    flip(stage / "step-000030" / "model.safetensors")
    with runs.lock(stage):
        (finding,) = repair("r")
    assert finding.action == "left alone" and runs.checkpoint_steps(stage) == [10, 20, 30]


def test_a_checkpoint_of_a_newer_version_is_not_damaged(stage: Path) -> None:
    path = stage / "step-000030" / runs.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2, "version": "9.1"}))
    (finding,) = repair("r")
    assert "newer nanochat (9.1)" in finding.problem and not finding.repaired and path.exists()


def test_dangling_tags_are_told(stage: Path) -> None:
    run_tags.add("v1", "r", "base", 10)
    shutil.rmtree(stage / "step-000010")
    (finding,) = repair("r")
    assert finding.problem == "tag v1 of r/base/10: its checkpoint is gone"
    (paths.run_dir("r") / "tags.json").write_text("{")
    assert run_tags.all_tags() == [] and "tags are damaged" in repair("r")[0].problem and repair("r") == []


def test_every_run_is_found_also_without_its_record(stage: Path) -> None:
    (paths.run_dir("r") / "run.json").unlink()
    make("s", "base", 1)
    (paths.runs_dir() / "stray").mkdir()
    assert run_repair.repairable() == ["r", "s"]


def test_a_branch_that_was_left_stays_left(stage: Path) -> None:
    left = [stepdirs.leave(stage / f"step-{step:06d}") for step in (20, 30)]
    write_step(stage, 15)
    before = tree(paths.run_dir("r"))
    for delete in (False, True):
        found = repair("r", delete=delete)
        assert [(f.path, f.action, f.repaired) for f in found] == [(path, "left alone", True) for path in left]
    assert tree(paths.run_dir("r")) == before and runs.checkpoint_steps(stage) == [10, 15]


def test_the_former_content_of_a_step_goes_also_once_the_step_is_gone(stage: Path) -> None:
    write_step(stage, 20, salt="again")
    assert len(list(stage.glob("former-step-000020-*"))) == 1
    stepdirs.leave(stage / "step-000020")
    found = repair("r")
    assert [f.action for f in found] == ["left alone", "deleted", "rewritten"] and runs.checkpoint_steps(stage) == [
        10,
        30,
    ]


def test_what_was_left_can_be_removed_by_its_name(stage: Path) -> None:
    left = stepdirs.leave(stage / "step-000030")
    (shown,) = run_details.of_run("r")["stages"]
    assert [item["name"] for item in shown["left"]] == [left.name] and shown["left"][0]["size_bytes"] > 0
    name = f"r/base/{left.name}"
    with pytest.raises(MissingArtifact, match="no checkpoint of step"):  # it is none to go on with
        run_names.resolve(name)
    make("child", "mid", 1, parent=("r", "base", 20))
    (doomed,) = run_removal.plan([run_names.resolve(name, left=True)])
    assert str(doomed.ref) == name and run_removal.carry_out(doomed) > 0
    assert not left.exists() and runs.checkpoint_steps(stage) == [10, 20]
