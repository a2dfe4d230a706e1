"""Several processes, as people start them: two nodes by hand, a torchrun of their own; and what a dead rank means."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_cli.core import events, files, paths, runs
from tests.conftest import Cli, spawn, wait_for

TINY = ("--depth", "1", "--gpus", "0", "--set", "model.max_seq_len=64", "--set", "batch.total_batch_size=512")
FIXED = ("--precision", "fp32", "--attention", "matmul", "--compile", "off", "--data", "w")
TRAIN = ("train", "base", *TINY, *FIXED, "--set", "eval.eval_every=none", "--set", "eval.sample_every=none")
CORPUS = (
    ("data", "synth", "--documents", "300", "--chats", "0", "--name", "w"),
    ("tok", "train", "--vocab", "300", "--input", "w"),
)
SHORT, LONG = ("--num-iterations", "6"), ("--num-iterations", "20000", "--set", "save.save_every=20")


@pytest.fixture(autouse=True)
def corpus(cli: Cli) -> None:
    for argv in CORPUS:
        assert cli(*argv).returncode == 0


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the same training in one process."""
    base = tmp_path_factory.mktemp("one")
    env = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "OMP_NUM_THREADS": "1"}
    for argv in (*CORPUS, (*TRAIN, *SHORT, "--run", "one")):
        subprocess.run([sys.executable, "-m", "nanochat_cli.main", *argv], env=env, check=True, capture_output=True)
    log = events.read(base / "runs" / "one" / "base" / "events.jsonl")
    return [event["raw_loss"] for event in log if event["kind"] == "step"]


def losses(run: str) -> list[float]:
    log = events.read(runs.stage_dir(run, "base") / "events.jsonl")
    return [event["raw_loss"] for event in log if event["kind"] == "step"]


def node(rank: int, port: int) -> tuple[str, ...]:
    return ("--nnodes", "2", "--node-rank", str(rank), "--rdzv-endpoint", f"127.0.0.1:{port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def worker_of(run: str, rank: int) -> int:
    """Return the process id of a run's worker by its rank."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                argv, environ = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            except OSError:
                continue
            mine = any(f"/runs/{run}/".encode() in word for word in argv)
            if mine and b"torch.distributed.run" not in argv and f"RANK={rank}".encode() in environ:
                return int(folder.name)
    raise AssertionError(f"no worker of rank {rank}")


@pytest.mark.parametrize("shared", [True, False], ids=["one folder", "a folder each"])
def test_two_nodes_give_the_loss_of_one(tmp_path: Path, of_one: list[float], shared: bool) -> None:
    base = paths.base_dir()
    other = base
    if not shared:
        other = tmp_path / "other"
        shutil.copytree(base, other)
        stage = other / "runs" / "two" / "base"  # left behind by an attempt that was stopped
        stage.mkdir(parents=True)
        (stage / "stop").touch()
    port = free_port()
    with (
        spawn(*TRAIN, *SHORT, *node(1, port), "--run", "two", env={"NANOCHAT_BASE_DIR": str(other)}) as second,
        spawn(*TRAIN, *SHORT, *node(0, port), "--run", "two") as first,
    ):
        told = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    assert losses("two") == pytest.approx(of_one, rel=1e-4) and len(of_one) == 6
    assert "step 6/6" in told[0] and "the first node shows how it goes" in told[1] and "step" not in told[1]
    saved = files.read_json(runs.stage_dir("two", "base") / "config.json", "config")["config"]
    assert (saved["cluster"]["nnodes"], saved["cluster"]["node_rank"]) == (2, 0)
    if not shared:
        left = {path.name for path in (other / "runs" / "two" / "base").iterdir()}
        assert left == {"worker-node1.log", "alive"}


def test_torchrun_around_the_command_trains_once(of_one: list[float]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    argv = [*launcher, "nanochat_cli.main", *TRAIN, *SHORT, "-g", "inside"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("parameters, 6 steps") == 1
    assert losses("inside") == pytest.approx(of_one, rel=1e-4)
    assert done.stdout.count("inside") == 1, "the result is shown once"
    folder = runs.stage_dir("inside", "base")
    saved = files.read_json(folder / "config.json", "config")["config"]
    assert (saved["compute"]["procs"], saved["cluster"]["nnodes"]) == (2, 1)
    assert "torch.distributed" not in (folder / "worker.log").read_text(), "it did not spawn torchrun again"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find a rank's process")
def test_a_killed_rank_is_named_and_not_those_that_lost_it() -> None:
    with spawn(*TRAIN, *LONG, "--procs", "2", "--run", "killed") as process:
        wait_for(runs.stage_dir("killed", "base") / "step-000020", process, timeout=60)
        os.kill(worker_of("killed", 1), signal.SIGKILL)
        told = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 1, told
    assert told[-2:] == [
        "error: rank 1 was ended by SIGKILL (the system may have run out of memory)",
        "hint: nanochat train base --run killed --resume",
    ]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find a rank's process")
def test_a_rank_killed_on_another_node_is_told_on_the_first_one() -> None:
    port = free_port()
    with (
        spawn(*TRAIN, *LONG, *node(1, port), "--run", "far") as second,
        spawn(*TRAIN, *LONG, *node(0, port), "--run", "far") as first,
    ):
        wait_for(runs.stage_dir("far", "base") / "step-000020", first, timeout=60)
        os.kill(worker_of("far", 1), signal.SIGKILL)
        told = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (1, 1), told
    for text in told:
        assert "error: rank 1 was ended by SIGKILL" in text and "Traceback" not in text


@pytest.mark.slow
def test_ctrl_c_on_a_second_node_stops_both_with_everything_saved(cli: Cli) -> None:
    port = free_port()
    with (
        spawn(*TRAIN, *LONG, *node(1, port), "--run", "both") as second,
        spawn(*TRAIN, *LONG, *node(0, port), "--run", "both") as first,
    ):
        wait_for(runs.stage_dir("both", "base") / "step-000020", first, timeout=60)
        second.send_signal(signal.SIGINT)
        told = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    assert "saved and resumable" in told[0]
    refused = cli(*TRAIN, *LONG, *node(0, port), "--run", "both")
    assert refused.returncode == 2 and "was started before" in refused.stderr


@pytest.mark.slow
def test_nodes_with_other_options_are_refused() -> None:
    port = free_port()
    with (
        spawn(*TRAIN, "--num-iterations", "7", *node(1, port), "--run", "differ") as second,
        spawn(*TRAIN, *SHORT, *node(0, port), "--run", "differ") as first,
    ):
        told = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (2, 2), told
    for text in told:
        assert "horizon.num_iterations is not what the first process has, which is 6: 7" in text
