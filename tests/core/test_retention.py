"""What stays: the last ones that are good, whatever else lies between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat_cli.core import retention, runs, stepdirs
from nanochat_cli.core.errors import DamagedArtifact
from nanochat_cli.core.retention import prune
from nanochat_cli.core.stepdirs import Keep
from tests.core.runs_made import make, write_step


@pytest.fixture
def stage() -> Path:
    return make("r", "base", 10, 20, 30, 40)


def damage(stage: Path, step: int) -> None:
    path = stage / f"step-{step:06d}" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_a_damaged_step_is_neither_counted_nor_deleted(stage: Path) -> None:
    damage(stage, 30)
    assert prune(stage, 40, Keep(last=2)) == [10]
    assert runs.checkpoint_steps(stage) == [20, 30, 40]
    for step in (50, 60):
        write_step(stage, step)
    assert prune(stage, 60, Keep(last=2)) == [20, 40]
    assert runs.checkpoint_steps(stage) == [30, 50, 60]


def test_nothing_goes_if_too_few_are_good(stage: Path) -> None:
    for step in (20, 30):
        damage(stage, step)
    assert prune(stage, 40, Keep(last=2)) == [] and runs.checkpoint_steps(stage) == [10, 20, 30, 40]
    damage(stage, 40)
    with pytest.raises(DamagedArtifact, match="step-000040"):
        prune(stage, 40, Keep(last=1))
    assert runs.checkpoint_steps(stage) == [10, 20, 30, 40]


def test_marked_ones_stay_and_a_broken_mark_is_none(stage: Path) -> None:
    stepdirs.mark_best(stage, 10, "val_bpb", 0.5)
    assert prune(stage, 40, Keep(last=1, every=30)) == [20]
    for content in ('{"step"', "[1]", '{"step": "ten"}'):
        (stage / stepdirs.BEST).write_text(content)
        assert stepdirs.best_step(stage) is None
    assert prune(stage, 40, Keep(last=1, every=30)) == [10] and runs.checkpoint_steps(stage) == [30, 40]


def test_what_was_found_good_is_read_again_only_after_a_change(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_SETTLED_NS", -(10**15))
    read: list[str] = []
    real = stepdirs.verify
    monkeypatch.setattr(stepdirs, "verify", lambda path: (read.append(path.name), real(path)))
    assert prune(stage, 30, Keep(last=2)) == [10]
    assert read == ["step-000030", "step-000020", "step-000010"]
    read.clear()
    (stage / "step-000030" / "model.safetensors").touch()
    assert prune(stage, 40, Keep(last=2)) == [20]
    assert read == ["step-000040", "step-000030"]
