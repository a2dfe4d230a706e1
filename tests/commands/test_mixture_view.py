"""Stages on mixtures of files and tasks: told before they start, trained on, stopped and resumed, measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nanochat_cli.commands import _mixture_view
from nanochat_cli.core import planning, runs
from nanochat_cli.core.data import rows_view
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.eval import stage
from nanochat_cli.core.settings import EvalConfig, SftConfig
from nanochat_cli.output import Output
from tests.core.tasks.conftest import arc_files, arc_row, mmlu_files, mmlu_row, put
from tests.core.train.conftest import one_thread
from tests.core.train.test_stages import COMMON, corpus, hear, told, train, weights

__all__ = ["corpus", "one_thread"]  # the fixtures

MIXED = {"task": ("simplespelling=40", "spellingbee:0.001")}


def test_a_mixture_is_told_before_it_is_trained_on(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("base")
    file = corpus / "chats" / "sft.jsonl"
    cfg = planning.with_values(SftConfig(), "chats", data=(f"{file}:2",), task=MIXED["task"])
    cfg = planning.with_values(planning.with_values(cfg, "batch", total_batch_size=256), "compute", gpus=0)
    found = _mixture_view.of(planning.make("sft", cfg))
    assert [row["per_epoch"] for row in found["sources"]] == [236, 40, 80]
    assert found["conversations"] == 356 and found["max_seq_len"] == 64
    assert found["steps"] == round(found["tokens"] / 256) and found["epochs"] == pytest.approx(1, abs=0.01)
    assert found["sources"][2]["longer_share"] > 0.5 > found["sources"][0]["longer_share"]  # letter by letter is long
    half = planning.with_values(cfg, "horizon", num_iterations=found["steps"] // 2)
    assert _mixture_view.of(planning.make("sft", half))["epochs"] == pytest.approx(0.5, abs=0.01)
    _mixture_view.show(found, Output())
    shown = capsys.readouterr().out
    assert "simplespelling=40" in shown and "356 conversations an epoch" in shown and "longer than context" in shown


def test_a_stopped_mixture_ends_with_the_same_bits(corpus: Path) -> None:
    train("base")
    heard, log = hear()
    train("sft", log=log, chats=MIXED)
    straight = weights("sft")
    notes = " ".join(event["text"] for event in told(heard, "note"))
    assert "simplespelling: 40 conversations an epoch, of 40; " in notes and "spellingbee: 80 conv" in notes
    assert any("are longer than 64 tokens and were cut" in event["text"] for event in told(heard, "warning"))
    shutil.rmtree(runs.stage_dir("r", "sft"))
    runs.stage_dir("r", "sft").mkdir()
    (runs.stage_dir("r", "sft") / "stop").touch()
    assert train("sft", chats=MIXED) == {"stopped": 1}
    (runs.stage_dir("r", "sft") / "stop").unlink()
    train("sft", chats=MIXED, resume=True)
    assert weights("sft") == straight


def test_a_model_is_measured_on_choices_by_subject_and_on_a_file(corpus: Path, tmp_path: Path) -> None:
    wide = {"max_seq_len": 256}
    train(
        "base", model=wide, batch={"total_batch_size": 1024}, horizon={"num_iterations": 1}, eval={"sample_every": None}
    )
    put("arc", arc_files("ARC-Easy", [arc_row(1)], [arc_row(2)], [arc_row(n) for n in range(3, 9)]))
    subjects = ["astronomy", "virology"]
    long = {**mmlu_row(77, "virology"), "question": "so " * 200}  # is not cut, and so counts as not answered
    test = [*[mmlu_row(n, subjects[n % 2]) for n in range(3, 9)], long]
    put("mmlu", mmlu_files([mmlu_row(1)], [mmlu_row(2)], test))
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"question": "say 1", "answer": "1 it is."}))
    cfg = planning.with_values(EvalConfig(), "compute", **{k: v for k, v in COMMON["compute"].items() if k != "seed"})
    cfg = planning.with_values(cfg, "what", only="chat", task=("arc_easy", "mmlu", str(mine)), max_new_tokens=3)
    job = planning.make("eval", cfg)
    job.dir.mkdir(parents=True)
    stage.run(job.config, runs.RunContext("r", "eval", job.dir, False, "nanochat eval"), Dist(), hear()[1])
    record = json.loads((job.dir / "base.json").read_text())
    arc, mmlu, own = record["tasks"]
    assert (arc["graded_by"], mmlu["graded_by"], own["graded_by"]) == ("letters", "letters", "replies")
    assert set(mmlu["families"]) == {"astronomy", "virology"} and mmlu["all"]["total"] == 7
    assert mmlu["families"]["virology"]["total"] == 4 and {"low", "high", "majority"} <= set(
        mmlu["families"]["virology"]
    )
    lines = [json.loads(line) for line in (job.dir / "base.jsonl").read_text().splitlines()]
    assert len(lines) == 6 + 7 + 1 and lines[-1]["task"] == str(mine)
    replies = {line["item"]: line["reply"] for line in lines if line["task"] == "mmlu"}
    assert replies.pop(6) == "" and set(replies.values()) <= set("ABCD")


def test_a_task_is_shown_as_it_is_trained_on(corpus: Path) -> None:
    from nanochat_cli.core.tasks.base import open_task
    from nanochat_cli.core.tokenizer import library

    task = open_task("simplespelling", split="train", size=30)
    view = rows_view.conversations([task.example(i) for i in range(30)], library.open("small"), 64, 2, hold=False)
    assert view.summary.conversations == 30 and view.summary.held_out == 0
