"""The evaluation of a checkpoint, from folders on disk to the stored record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from math import log2
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanochat_cli.core import checkpoint, config, paths, runs
from nanochat_cli.core.data import synth
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError, NanochatError
from nanochat_cli.core.eval import stage
from nanochat_cli.core.events import Listener
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.build import build
from nanochat_cli.core.settings import EvalConfig
from nanochat_cli.core.tasks.base import open_task
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A base directory with a small generated corpus and an untrained model as stages base and sft of run `r`."""
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.mktemp("eval")
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        corpus = synth.write("tiny", documents=400, chats=0)
        tokenizer = Tokenizer.train([text for batch in corpus.documents("train") for text in batch], 300)
        net = shape.from_depth(1, 300, 96, n_embd=32, n_head=2)
        model = build(net, seed=0, device=torch.device("cpu"))
        for name in ("base", "sft"):
            folder = runs.stage_dir("r", name)
            record = {"model": dataclasses.asdict(net), "tokenizer": {"hash": tokenizer.hash}, "stage": name}
            weights = model.state_dict()
            checkpoint.save(folder, 5, weights=weights, optim={}, config=record, state={}, tokenizer=tokenizer)
        saved = {"config": {"corpus": {"data": "tiny"}}}
        (runs.stage_dir("r", "base") / "config.json").write_text(json.dumps(saved))
        yield base


@pytest.fixture
def evaluate(made: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that evaluates a stage of the run and returns (result, stored record, events)."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(made))

    def run(source: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        values = {f"what.{key}": value for key, value in options.items()} | {"what.max_new_tokens": 3}
        cfg = config.build(EvalConfig, {"source.run": "r", "source.source": source, "what.tokens": 5_000} | values)
        folder = paths.run_dir("r") / "eval"
        folder.mkdir(exist_ok=True)
        told: list[dict[str, Any]] = []
        context = runs.RunContext("r", "eval", folder, False, "nanochat eval")
        result = stage.run(cfg, context, Dist(), Listener(told.append))
        return result, json.loads((folder / f"{source}.json").read_text()), told

    return run


def test_untrained_model(evaluate: Any, made: Path) -> None:
    result, record, told = evaluate("sft", limit=2)
    assert record["stage"] == "sft" and record["step"] == 5 and record["command"] == "nanochat eval"
    assert result["val_bpb"] == record["bpb"]["val"]["bpb"]
    # An untrained model is near uniform: log2(300) bits a token.
    tokens, num_bytes = (record["bpb"]["val"][key] for key in ("tokens", "bytes"))
    assert record["bpb"]["val"]["bpb"] == pytest.approx(log2(300) * tokens / num_bytes, rel=0.05)
    task = open_task("tinyworld")
    assert [t["split"] for t in record["tasks"]] == list(task.held_out)
    for summary in record["tasks"]:
        assert summary["limit"] == 2 and all(f["total"] == 2 for n, f in summary["families"].items() if n != "story")
        assert summary["all"]["correct"] <= 2 and summary["families"]["story"]["shortcut"] is not None
    lines = (made / "runs" / "r" / "eval" / "sft.jsonl").read_text().splitlines()
    assert len(lines) == sum(t["all"]["total"] for t in record["tasks"])
    assert {"prompt", "reply", "correct", "reference", "family"} <= set(json.loads(lines[0]))
    assert any(event["kind"] == "progress" for event in told)


def test_only_bpb_keeps_what_was_measured_before(evaluate: Any) -> None:
    _, before, _ = evaluate("sft", only="chat", limit=1)
    assert before["tasks"]
    _, after, _ = evaluate("sft", only="bpb")
    assert after["tasks"] == before["tasks"] and after["bpb"]["train"]["bytes"] > 0


def test_a_base_model_is_not_asked(evaluate: Any) -> None:
    result, record, told = evaluate("base")
    assert "tasks" not in record and "val_bpb" in result
    assert any("has not learned to chat" in event.get("text", "") for event in told)
    _, record, _ = evaluate("base", task=("tinyworld",), limit=1, only="chat")
    assert record["tasks"]
    _, record, _ = evaluate("base")
    assert record["tasks"], "an evaluation that asks nothing keeps what the same weights answered before"


def test_corpus_that_is_gone(evaluate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> Corpus:
        raise NanochatError(f"no corpus named: {name}")

    monkeypatch.setattr(Corpus, "open", gone)
    _, record, told = evaluate("sft", task=("tinyworld",), limit=1)
    assert record["tasks"] and any("no corpus to measure on" in event.get("text", "") for event in told)
    with pytest.raises(NanochatError, match="is gone"):
        evaluate("sft", only="bpb")


def test_a_request_to_stop_leaves_what_was_there(evaluate: Any, made: Path) -> None:
    _, before, _ = evaluate("sft", limit=1)
    stop = made / "runs" / "r" / "eval" / runs.STOP_FILE
    stop.touch()
    for only in ("bpb", "chat"):
        result, after, told = evaluate("sft", limit=2, only=only)
        assert result == {"stopped": 5} and after == before and told[-1]["kind"] == "stopped"
    stop.unlink()


def test_unknown_task_lists_the_choices(evaluate: Any) -> None:
    with pytest.raises(ConfigError, match="unknown task: chess"):
        evaluate("sft", task=("chess",))


def test_pick_takes_the_first_of_each_family() -> None:
    task = open_task("tinyworld")
    items = stage.pick(task, 3)
    families = [task.family(i) for i in items]
    assert len(items) == 3 * len(set(families)) and items == sorted(items)


def test_a_reply_ends_where_the_context_does(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(made))
    model, tokenizer, meta = checkpoint.load_model(checkpoint.find("r", "sft"))
    subject = stage._Subject(model=model, tokenizer=tokenizer, meta=meta, corpus=None)
    answer = stage._engine(subject, config.build(EvalConfig, {"what.max_new_tokens": 8}))
    replies = answer([[tokenizer.bos_id] + [5] * (n - 1) for n in (96, 95, 90, 50)], 8)
    assert [len(reply) for reply in replies] == [0, 1, 6, 8]


@pytest.mark.parametrize(
    ("trained", "where", "has", "used"),
    [
        ("bf16", "cuda", (9, 0), "bf16"),
        ("bf16", "cuda", (7, 5), "fp32"),
        ("fp16", "cuda", (7, 5), "fp16"),
        ("bf16", "cpu", {"amx_bf16"}, "bf16"),
        ("bf16", "cpu", {"avx2"}, "fp32"),
        ("fp16", "cpu", {"amx_bf16"}, "fp32"),
        ("fp32", "cpu", {"amx_bf16"}, "fp32"),
    ],
)
def test_a_precision_that_is_only_emulated_is_not_used(
    trained: str, where: str, has: Any, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage.machine, "cpu_flags", lambda: frozenset(has))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: has)
    meta: Any = SimpleNamespace(config={"execution": {"dtype": trained}})
    assert stage._precision(EvalConfig(), meta, torch.device(where)) == used
