"""The demo's smoke tier from nothing to a report, and what a `kill -9` in the middle of it costs: nothing."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from nanochat_cli.core import files, paths, runs
from tests.conftest import Cli, spawn, wait_for

QUICK = {"NANOCHAT_EVAL_SAMPLE_EVERY": "none"}


def weights(run: str, stage: str) -> str:
    """The hash of a finished stage's final weights."""
    folder = runs.stage_dir(run, stage)
    return files.sha256_file(folder / f"step-{runs.checkpoint_steps(folder)[-1]:06d}" / "model.safetensors")


def test_smoke_demo_runs_through_and_a_second_call_has_nothing_to_do(cli: Cli) -> None:
    done = cli("demo", "--tier", "smoke", "--json", "--no-chat", env=QUICK, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [task["split"] for task in result["tasks"]] == ["held", "held-wording"]
    assert set(result["stages"]) == {"data", "tok", "base", "mid", "sft", "rl", "eval", "report"}
    assert len(result["exchanges"]) >= 5
    assert all(exchange["user"] for exchange in result["exchanges"])
    assert result["stages"]["base"]["val_bpb"] < 2.0, "sixty steps bring a fresh model from about 3.4 to about 1.5"
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    outside = page.replace("http://www.w3.org", "")
    assert not [word for word in ("http://", "https://", "<script", "<link", "src=") if word in outside]

    began = time.monotonic()
    again = cli("demo", "--tier", "smoke", "--no-chat")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("done before") == 8
    assert "you        what is 27 + 45?" in again.stdout
    assert time.monotonic() - began < 60


def test_kill_9_in_the_middle_changes_nothing(cli: Cli) -> None:
    stages = ("--until", "sft")
    whole = cli("run", "demo-smoke", "--run", "whole", *stages, env=QUICK, timeout=600)
    assert whole.returncode == 0, whole.stderr

    killed_after = {"base": "step-000020", "mid": "step-000010", "sft": "step-000020"}
    for stage, checkpoint in killed_after.items():
        with spawn("run", "demo-smoke", "--run", "torn", *stages, env=QUICK) as process:
            wait_for(runs.stage_dir("torn", stage) / checkpoint, process)
            process.kill()
    finished = cli("run", "demo-smoke", "--run", "torn", *stages, env=QUICK, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert [weights("torn", stage) for stage in killed_after] == [weights("whole", stage) for stage in killed_after]


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(cli: Cli) -> None:
    argv = ("run", "demo-smoke", "--until", "base")
    with spawn(*argv, env=QUICK) as process:
        wait_for(runs.stage_dir("demo-smoke", "base") / "step-000020", process)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 0, told
    assert "saved and resumable" in told
    assert "Traceback" not in told
    assert not runs.is_finished(runs.stage_dir("demo-smoke", "base"))
    finished = cli(*argv, env=QUICK, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert runs.checkpoint_steps(runs.stage_dir("demo-smoke", "base"))[-1] == 60


def test_dry_run_names_every_equivalent_command_and_writes_nothing(cli: Cli) -> None:
    done = cli("demo", "--dry-run", "--seed", "3")
    assert done.returncode == 0
    assert "nanochat train base --config demo --run demo-s3 --data demo-s3 --seed 3" in done.stdout
    assert not paths.base_dir().exists()


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("run", "absent"), 2, "no such config file or recipe: absent"),
        (("run", "demo", "--from", "nowhere"), 2, "no stage in recipe demo: nowhere"),
        (("demo", "--run", "../x"), 2, "not a run name: '../x'"),
    ],
)
def test_bad_input(cli: Cli, argv: tuple[str, ...], code: int, text: str) -> None:
    done = cli(*argv)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"error: {text}")
