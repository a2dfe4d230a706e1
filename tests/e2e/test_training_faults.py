"""Trainings as people start them, with everything that can happen to them: signals, deadlines, dead and hung ranks.

The full counts of the fault table are behind `-m slow` (`make faults`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat_cli.core import events, files, runs, stepdirs
from tests.conftest import Cli, spawn, wait_for
from tests.e2e.test_several import CORPUS, TRAIN

slow = pytest.mark.slow
LONG = ("--num-iterations", "20000", "--save-every", "20")


@pytest.fixture(autouse=True)
def corpus(cli: Cli) -> None:
    for argv in CORPUS:
        assert cli(*argv).returncode == 0


def folder(run: str) -> Path:
    return runs.stage_dir(run, "base")


def history(run: str) -> list[events.Event]:
    return events.read(folder(run) / "events.jsonl")


def weights(run: str) -> str:
    newest = runs.checkpoint_steps(folder(run))[-1]
    return files.sha256_file(stepdirs.step_dir(folder(run), newest) / "model.safetensors")


def end(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str]:
    _, said = process.communicate(timeout=timeout)
    return process.returncode, said


STOPS = {
    "SIGTERM": lambda process: process.send_signal(signal.SIGTERM),
    "Ctrl-C": lambda process: process.send_signal(signal.SIGINT),
    "SIGUSR1": lambda process: process.send_signal(signal.SIGUSR1),
    "preempted": lambda process: (folder("r") / "stop").write_text("preempted"),
}


@pytest.mark.parametrize(
    ("procs", "repeats"), [(1, 1), pytest.param(2, 20, marks=[slow, pytest.mark.timeout(3600)])], ids=["1", "2, often"]
)
@pytest.mark.parametrize("why", STOPS)
def test_whoever_asks_gets_a_checkpoint_of_the_step(cli: Cli, why: str, procs: int, repeats: int) -> None:
    """R3: saved at the very step that it stopped at, exit code 0, and why is on record."""
    for number in range(repeats):
        run = "r" if repeats == 1 else f"r{number}"
        with spawn(*TRAIN, *LONG, "--procs", str(procs), "--run", run) as process:
            wait_for(folder(run) / "step-000020", process)
            if why == "preempted":
                (folder(run) / "stop").write_text("preempted")
            else:
                STOPS[why](process)
            code, said = end(process)
        assert code == 0, said
        stopped = [event for event in history(run) if event["kind"] == "stopped"]
        assert [event["why"] for event in stopped] == [why]
        assert runs.checkpoint_steps(folder(run))[-1] == stopped[0]["step"]
        assert f"nanochat train base --run {run} --resume" in said
        if number == 0:
            assert cli("runs", "ls").stdout.count(run)


def test_a_worker_that_is_told_to_end_saves_as_well() -> None:
    with spawn(*TRAIN, *LONG, "--run", "r") as process:
        wait_for(folder("r") / "step-000020", process)
        workers = subprocess.run(["pgrep", "-f", f"{folder('r')}/config.json"], capture_output=True, text=True)
        os.kill(int(workers.stdout.split()[0]), signal.SIGTERM)
        code, said = end(process)
    assert code == 0, said
    assert next(event["why"] for event in history("r") if event["kind"] == "stopped") == "SIGTERM"


def test_a_deadline_is_kept_and_the_rest_can_be_trained(cli: Cli) -> None:
    began = time.monotonic()
    ended = cli(*TRAIN, *LONG, "--run", "r", "--max-wall", "14s")
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - began < 20
    stopped = next(event for event in history("r") if event["kind"] == "stopped")
    assert stopped["why"] == "--max-wall" and runs.checkpoint_steps(folder("r"))[-1] == stopped["step"]


def test_the_end_of_an_allocation_is_a_deadline(cli: Cli) -> None:
    end_of_job = {"SLURM_JOB_END_TIME": str(int(time.time()) + 14)}
    ended = cli(*TRAIN, *LONG, "--run", "r", env=end_of_job)
    assert ended.returncode == 0, ended.stderr
    why = next(event["why"] for event in history("r") if event["kind"] == "stopped")
    assert why == "the end of the Slurm allocation"


def test_a_bad_time_is_refused_at_once(cli: Cli) -> None:
    for option, value in (("--max-wall", "soon"), ("--save-every", "10 parsecs")):
        ended = cli(*TRAIN, option, value)
        assert ended.returncode == 2 and f"no time for {option}: {value}" in ended.stderr


def test_a_rank_that_hangs_is_named_and_a_supervisor_goes_on(cli: Cli) -> None:
    """R4, with a fault that strikes at the first start alone."""
    short = ("--num-iterations", "12", "--save-every", "4", "--procs", "2", "--set", "guard.hang_after_s=3")
    straight = cli(*TRAIN, *short, "--run", "straight")
    assert straight.returncode == 0, straight.stderr
    fault = {"NANOCHAT_FAULT": "hang@step:6,rank:1,attempt:0"}
    ended = cli(*TRAIN, *short, "--run", "alone", env=fault)
    assert ended.returncode == 1
    assert "rank 1 shows no sign of life for 3 s, so training was ended" in ended.stderr
    assert "nanochat train base --run alone --resume" in ended.stderr
    ended = cli(*TRAIN, *short, "--run", "r", "--supervise", "--json", env=fault)
    assert ended.returncode == 0, ended.stderr
    assert "starting again from step 4 (restart 1 of 3)" in ended.stderr
    assert json.loads(ended.stdout)["restarts"] == 1
    assert weights("r") == weights("straight")


def test_a_rank_that_dies_is_started_again_until_it_helps_no_more(cli: Cli) -> None:
    short = ("--num-iterations", "12", "--save-every", "4", "--procs", "2", "--supervise")
    ended = cli(*TRAIN, *short, "--run", "r", env={"NANOCHAT_FAULT": "kill@step:6,rank:1,attempt:0"})
    assert ended.returncode == 0 and "rank 1 was ended by SIGKILL" in ended.stderr, ended.stderr
    ended = cli(*TRAIN, *short, "--run", "again", env={"NANOCHAT_FAULT": "kill@step:6,rank:1"})
    assert ended.returncode == 1
    assert "given up: 2 restarts in a row brought no new checkpoint" in ended.stderr


@pytest.mark.parametrize("starts", [2, pytest.param(50, marks=[slow, pytest.mark.timeout(3600)])])
def test_of_two_starts_into_one_folder_one_proceeds(starts: int) -> None:
    """R14. The other one says who is at work."""
    argv = [sys.executable, "-m", "nanochat_cli.main", *TRAIN, "--num-iterations", "30"]
    for number in range(starts // 2 if starts > 2 else 1):
        run = f"r{number}"
        pair = [
            subprocess.Popen([*argv, "--run", run], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate(timeout=120)[1] for process in pair]
        codes = [process.returncode for process in pair]
        assert sorted(code == 0 for code in codes) == [False, True], said
        loser = said[codes.index(0) ^ 1]
        assert "is working in" in loser or "is finished" in loser or "was started before" in loser, loser
        steps = [event["step"] for event in history(run) if event["kind"] == "step"]
        assert steps == list(range(1, 31))


def test_resume_from_a_step_sets_what_follows_aside(cli: Cli) -> None:
    short = ("--num-iterations", "12", "--save-every", "4", "--run", "r", "--keep-last", "9")
    assert cli(*TRAIN, *short).returncode == 0
    last = weights("r")
    ended = cli("train", "base", "--run", "r", "--resume", "4")
    assert ended.returncode == 0, ended.stderr
    assert "step 12 is set aside" in ended.stderr and weights("r") == last
    assert len(list(folder("r").glob("left-step-*"))) == 2
    ended = cli("train", "base", "--run", "r", "--resume", "5")
    assert ended.returncode == 3 and "no checkpoint of step 5" in ended.stderr
    ended = cli(*TRAIN, *short, "--resume", "auto")
    assert ended.returncode == 0 and "finished already" in ended.stderr
    ended = cli(*TRAIN, "--num-iterations", "3", "--run", "fresh", "--resume", "auto")
    assert ended.returncode == 0 and runs.checkpoint_steps(folder("fresh")) == [3], ended.stderr
    ended = cli("train", "base", "--run", "r", "--resume=soon")
    assert ended.returncode == 2 and "--resume takes a step, or auto: soon" in ended.stderr


@slow
@pytest.mark.timeout(1200)
def test_any_number_of_processes_goes_on(cli: Cli) -> None:
    """R9: 1, 2, 4 and again 1 process: the same rows in each step, so the losses agree to rounding."""
    short = ("--num-iterations", "100", "--save-every", "25", "--keep-last", "9", "--set", "batch.device_batch_size=2")
    assert cli(*TRAIN, *short, "--run", "one").returncode == 0
    for procs, until in (("1", 25), ("2", 50), ("4", 75), ("1", 100)):
        fault = {} if until == 100 else {"NANOCHAT_FAULT": f"kill@step:{until},rank:0"}
        resume = ("train", "base", "--run", "r", "--resume") if until > 25 else (*TRAIN, *short, "--run", "r")
        ended = cli(*resume, "--procs", procs, env=fault, timeout=300)
        assert (ended.returncode == 0) == (until == 100), ended.stderr
    losses = {run: {e["step"]: e["raw_loss"] for e in history(run) if e["kind"] == "step"} for run in ("one", "r")}
    assert losses["one"].keys() == losses["r"].keys() == set(range(1, 101))
    assert max(abs(losses["one"][step] - losses["r"][step]) for step in range(1, 101)) < 1e-4
