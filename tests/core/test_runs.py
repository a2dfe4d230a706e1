"""Run folders: finding the right model, and never two processes in one folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat_cli.core import files, paths, run_state, runs
from nanochat_cli.core.errors import ConfigError, MissingArtifact, NanochatError


def make(run: str, stage: str, *steps: int, age_s: float = 0.0) -> Path:
    runs.create(run)
    folder = runs.stage_dir(run, stage)
    for step in steps:
        (folder / f"step-{step:06d}").mkdir(parents=True)
        files.write_json(folder / f"step-{step:06d}" / runs.MANIFEST, {})
    files.write_json(folder / "config.json", {})
    (folder / "events.jsonl").write_text("")
    then = time.time() - age_s
    for path in (paths.run_dir(run) / "run.json", folder / "events.jsonl"):
        os.utime(path, (then, then))
    return folder


def test_the_default_is_the_most_recent_run_and_its_last_stage() -> None:
    make("old", "base", 10, age_s=100)
    make("old", "sft", 5, age_s=100)
    make("new", "base", 3, age_s=10)
    assert runs.all_runs() == ["new", "old"]
    assert runs.find_source(None, None) == ("new", "base")
    assert runs.find_source("old", None) == ("old", "sft")
    assert runs.find_source("old", None, before="sft") == ("old", "base")
    assert runs.find_source(None, "sft") == ("old", "sft")


def test_steps_are_compared_as_numbers() -> None:
    folder = make("r", "base", 999_999, 1_000_000, 200)
    (folder / ".step-000300.1234.tmp").mkdir()
    (folder / "step-000400").mkdir()  # nothing was published in it
    assert runs.checkpoint_steps(folder) == [200, 999_999, 1_000_000]


def test_what_is_missing_lists_what_there_is() -> None:
    with pytest.raises(MissingArtifact, match="nothing has been trained yet"):
        runs.find_source(None, None)
    make("a", "base", 1)
    with pytest.raises(MissingArtifact, match="no run named: b") as caught:
        runs.find_source("b", None)
    assert caught.value.hint == "runs: a"
    with pytest.raises(MissingArtifact, match="run a has no checkpoint of: sft") as caught:
        runs.find_source("a", "sft")
    assert caught.value.hint == "stages with a checkpoint: base"
    with pytest.raises(ConfigError, match="mid cannot start from: rl"):
        runs.find_source("a", "rl", before="mid")


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "", ".hidden", "x" * 200, "a\nb"])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="not a run name"):
        paths.run_dir(name)


HOLD = """
import sys, time
from pathlib import Path
from nanochat_cli.core import runs
with runs.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_per_folder_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(NanochatError, match=rf"another process is working in .* \(pid {holder.pid} on "):
            with runs.lock(tmp_path, wait_s=0.2):
                pass
        holder.kill()
        holder.wait()
        with runs.lock(tmp_path, wait_s=5):
            pass


def test_a_stage_that_is_being_worked_on_is_running() -> None:
    folder = make("r", "base", 3)
    assert (info := run_state.describe_stage("r", "base")) and info.status == "interrupted (killed), resumable"
    with runs.lock(folder):
        info = run_state.describe_stage("r", "base")
        assert info and info.status.startswith(f"running, pid {os.getpid()} on ") and not info.resumable
    assert (info := run_state.describe_stage("r", "base")) and info.status == "interrupted (killed), resumable"


def test_an_evaluation_announces_what_it_was_asked_for() -> None:
    from nanochat_cli.core.settings import BaseTrainConfig, EvalConfig, EvalWhat

    def said(only: str) -> str:
        return runs.purpose("eval", EvalConfig(what=EvalWhat(only=only)))  # type: ignore[arg-type]

    assert "question" not in said("bpb") and "bits per byte" in said("bpb")
    assert "questions" in said("chat") and "bits" not in said("chat")
    assert "text" in said("all") and "questions" in said("all")
    assert runs.purpose("base", BaseTrainConfig()) == runs.purpose("base") == runs.PURPOSE["base"]
