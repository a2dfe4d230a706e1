"""Recipes: refused before anything runs if they cannot work, and stopped where they were asked to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanochat_cli.core import files, paths, pipeline, runs
from nanochat_cli.core.data import vocabulary
from nanochat_cli.core.errors import ConfigError

TWO = """
[[stage]]
name = "tok"
command = "tok train"
purpose = "cuts text"
[stage.tok]
vocab = 300
max_chars = 1000
doc_cap = 50

[[stage]]
name = "base"
command = "train base"
purpose = "learns"
[stage.horizon]
num_iterations = 5
"""


def recipe(tmp_path: Path, text: str = TWO) -> pipeline.Recipe:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return pipeline.load(str(path))


@pytest.mark.parametrize("name", pipeline.recipe_names())
def test_every_recipe_that_comes_with_the_package_is_whole(name: str) -> None:
    assert pipeline.names(pipeline.load(name))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_iterations", "num_iteration", "unknown config key in .*stage 2: horizon.num_iteration"),
        ("vocab = 300", "vocab = 'many'", "tok.vocab must be a whole number .*stage 1"),
        ('command = "train base"', 'command = "train bass"', "unknown command in .*stage 2: train bass"),
        ('purpose = "learns"', "", "stage 2 has no purpose"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_before_anything_runs(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(tmp_path, TWO.replace(old, new))


def test_a_stage_that_stopped_ends_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def stopped(_: Any, stage: pipeline.Stage, *__: Any) -> dict[str, Any]:
        ran.append(stage.name)
        return {"stopped": 3}

    monkeypatch.setattr(pipeline, "_run_stage", stopped)
    assert pipeline.run(recipe(tmp_path), lambda _: None)["stopped"] == "tok"
    assert ran == ["tok"]


def test_the_tokenizer_gets_every_option_of_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    plan = SimpleNamespace(can_resume=lambda: False)
    monkeypatch.setattr(vocabulary, "make_plan", lambda inputs, **options: given.update(options) or plan)
    monkeypatch.setattr(vocabulary, "train", lambda plan, resume, log: {})
    chosen = pipeline.select(recipe(tmp_path), last="tok")
    pipeline.run(chosen, lambda _: None)
    assert {"name": "own", "vocab": 300, "pattern": None, "max_chars": 1000, "doc_cap": 50}.items() <= given.items()


def test_a_report_older_than_an_evaluation_is_made_again() -> None:
    own = pipeline.load("demo")
    report = own.stage("report")
    folder = runs.create(own.run)
    page = folder / "report.html"
    page.write_text("")
    os.utime(page, (time.time() + 60,) * 2)
    assert pipeline.is_done(own, report)
    graded = files.make_dir(paths.run_dir(own.run) / "eval", "eval") / "rl.json"
    graded.write_text("{}")
    os.utime(graded, (time.time() + 120,) * 2)
    assert not pipeline.is_done(own, report)


def test_the_length_of_a_run_is_settled_once(tmp_path: Path) -> None:
    def scale(minutes: float | None) -> float:
        recipe(tmp_path)
        own = pipeline.load(str(tmp_path / "own.toml"), minutes=minutes)
        return pipeline._scale(own, lambda _: None)

    assert scale(2.0) == 0.25
    assert scale(None) == 0.25, "the same command without the option goes on"
    with pytest.raises(ConfigError, match="another length: --minutes 4") as caught:
        scale(4.0)
    assert "it was 2" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "line", ["least_scal = 0.5", 'least_scale = "0.7"', "least_scale = 7", "tokens_per_s = 0", "tokens_per_s = true"]
)
def test_what_stands_beside_the_stages_is_checked(tmp_path: Path, line: str) -> None:
    path = tmp_path / "own.toml"
    stage = '[[stage]]\nname = "report"\ncommand = "report"\npurpose = "writes"\n'
    path.write_text(stage)
    assert pipeline.load(str(path)).least_scale == 0
    path.write_text(f"{line}\n{stage}")
    with pytest.raises(ConfigError, match=line.split()[0]):
        pipeline.load(str(path))
    path.write_text(f"{stage}limit = 3\n")
    with pytest.raises(ConfigError, match="limit"):
        pipeline.load(str(path))


def test_a_slow_machine_does_fewer_steps_but_enough_for_an_answer() -> None:
    def share(measured: float | None, minutes: float | None = None) -> float:
        return pipeline.share_of_steps(pipeline.load("demo", minutes=minutes), measured)

    nominal = pipeline.load("demo").tokens_per_s or 0
    assert share(nominal * 2) == share(nominal) == share(None) == 1
    assert share(nominal * 0.9) == 0.9
    assert share(nominal * 0.2) == pipeline.load("demo").least_scale > 0.5
    assert share(nominal * 0.5, minutes=8.0) == 0.5 and share(nominal * 0.5, minutes=16.0) == 1, "a user may choose"
