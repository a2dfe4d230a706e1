"""The stages as a user types them: own text to an answer, two processes, Ctrl-C, and a folder that takes nothing."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from nanochat_cli.core import events, paths, runs
from tests.conftest import Cli, spawn, wait_for

SMALL = ("--depth", "1", "--gpus", "0", "--set", "model.max_seq_len=64", "--set", "batch.total_batch_size=512")
FIXED = ("--precision", "fp32", "--attention", "matmul", "--compile", "off")


def own_text(seed: int) -> str:
    """Sentences with a grammar to be learned, about 30 KB of them."""
    draw = random.Random(seed)
    who, did, what = (
        ("The old man", "A girl", "My dog"),
        ("saw", "took", "forgot"),
        ("the river", "a small boat", "bread"),
    )
    return "\n\n".join(
        " ".join(f"{draw.choice(who)} {draw.choice(did)} {draw.choice(what)}." for _ in range(6)) for _ in range(200)
    )


def losses(run: str) -> list[float]:
    log = events.read(runs.stage_dir(run, "base") / "events.jsonl")
    return [event["raw_loss"] for event in log if event["kind"] == "step"]


def test_from_own_text_to_an_answer(cli: Cli) -> None:
    for name, seed in (("one.txt", 1), ("two.txt", 2)):
        Path(name).write_text(own_text(seed), encoding="utf-8")
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"What did {x} see?"},
                {"role": "assistant", "content": "The river."},
            ]
        }
        for x in ("he", "she", "it", "the dog") * 8
    ]
    Path("chats.json").write_text(json.dumps(chats), encoding="utf-8")
    for argv in (
        ("data", "add", "one.txt", "two.txt", "--name", "books"),
        ("data", "verify", "books"),
        ("tok", "train", "--vocab", "300", "--input", "books"),
        ("train", "base", *SMALL, "--num-iterations", "60", "--data", "books"),
        ("train", "sft", "--data", "chats.json", "--num-iterations", "20"),
        ("eval", "bpb"),
    ):
        done = cli(*argv)
        assert done.returncode == 0, (argv, done.stderr)
    history = events.read(runs.stage_dir("books-d1", "base") / "events.jsonl")
    bpb = [event["value"] for event in history if event["kind"] == "eval" and event["metric"] == "val_bpb"]
    assert bpb[-1] < 0.7 * bpb[0], "validation loss falls clearly"
    answer = cli("chat", "-p", "What did he see?", "--temperature", "0", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["reply"]


def test_two_processes_draw_progress_once_and_give_the_loss_of_one(cli: Cli) -> None:
    assert cli("data", "synth", "--documents", "400", "--chats", "20", "--name", "w").returncode == 0
    assert cli("tok", "train", "--vocab", "320", "--input", "w").returncode == 0
    common = ("train", "base", *SMALL, *FIXED, "--num-iterations", "12", "--data", "w")
    one = cli(*common, "--run", "one")
    two = cli(*common, "--procs", "2", "--run", "two")
    assert (one.returncode, two.returncode) == (0, 0), (one.stderr, two.stderr)
    assert losses("two") == pytest.approx(losses("one"), rel=1e-4) and len(losses("two")) == 12
    assert two.stderr.count("parameters, 12 steps") == one.stderr.count("parameters, 12 steps") == 1

    argv = (
        "train",
        "base",
        *SMALL,
        *FIXED,
        "--num-iterations",
        "20000",
        "--data",
        "w",
        "--procs",
        "2",
        "--run",
        "long",
    )
    with spawn(*argv, "--set", "save.save_every=20") as process:
        wait_for(runs.stage_dir("long", "base") / "step-000020", process)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "saved and resumable" in told and "Traceback" not in told, told


def test_ctrl_c_while_text_is_written_leaves_nothing() -> None:
    with spawn("data", "synth", "--documents", "5000000", "--name", "big") as process:
        wait_for(paths.corpora_dir(), process)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Traceback" not in told, told
    assert not list(paths.corpora_dir().iterdir())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder here that refuses even root")
@pytest.mark.parametrize(
    "argv", [("data", "synth", "--documents", "50"), ("demo", "--tier", "smoke", "--no-chat"), ("doctor",)]
)
def test_a_folder_that_takes_nothing_is_said_in_one_line(cli: Cli, argv: tuple[str, ...]) -> None:
    done = cli(*argv, env={"NANOCHAT_BASE_DIR": "/proc/nanochat"})
    assert done.returncode == 4
    assert "NANOCHAT_BASE_DIR" in done.stderr and "bug" not in done.stderr and "Traceback" not in done.stderr
