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

from nanochat_cli.core import checkpoint, config, files, paths, runs
from nanochat_cli.core.data import synth
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError, EnvironmentLacks, NanochatError
from nanochat_cli.core.eval import picking, stage
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

    def evaluated(
        source: str, run: str = "r", **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        values = {f"what.{key}": value for key, value in options.items()} | {"what.max_new_tokens": 3}
        cfg = config.build(EvalConfig, {"source.run": run, "source.source": source, "what.tokens": 5_000} | values)
        folder = paths.run_dir(run) / "eval"
        folder.mkdir(exist_ok=True)
        told: list[dict[str, Any]] = []
        context = runs.RunContext(run, "eval", folder, False, "nanochat eval")
        result = stage.run(cfg, context, Dist(), Listener(told.append))
        return result, json.loads((folder / f"{source}.json").read_text()), told

    return evaluated


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


def own_file(path: Path, number: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps({"question": f"{path.name} {i}?", "answer": "yes"}) for i in range(number)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_file_is_asked_wherever_it_is(evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    own_file(tmp_path / "x.jsonl", 3)
    absolute = own_file(tmp_path / "else" / "my [own].jsonl", 120)
    _, record, _ = evaluate("sft", task=("../x.jsonl", str(absolute)), only="chat")
    found = [(t["task"], t["split"], t["held_out"], t["all"]["total"]) for t in record["tasks"] if "json" in t["task"]]
    assert found == [("../x.jsonl", "test", True, 3), (str(absolute), "test", True, 120)]


def test_a_file_that_was_trained_on_does_not_count_as_held_out(
    evaluate: Any, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = own_file(tmp_path / "large.jsonl", 120), own_file(tmp_path / "small.jsonl", 3)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(made))
    sources = [
        {"file": "elsewhere.jsonl", "sha256": files.sha256_file(large)},
        {"task": str(small), "sha256": files.sha256_file(small)},
    ]
    # The file was trained on by the stage before the one that is asked.
    model, tokenizer, meta = checkpoint.load_model(checkpoint.find("r", "sft"))
    common: dict[str, Any] = {"weights": model.state_dict(), "optim": {}, "state": {}, "tokenizer": tokenizer}
    before = {**meta.config, "stage": "mid", "data": {"sources": sources}}
    checkpoint.save(runs.stage_dir("s", "mid"), 4, config=before, **common)
    parent = {"run": "s", "stage": "mid", "step": 4}
    checkpoint.save(runs.stage_dir("s", "sft"), 6, config={**meta.config, "parent": parent}, **common)
    tasks = tuple(map(str, (large, small)))
    _, record, told = evaluate("sft", task=tasks, only="chat", run="s")
    assert [(t["split"], t["held_out"], t["all"]["total"]) for t in record["tasks"]] == [
        ("val", True, 2),
        ("test", False, 3),
    ]
    notes = " ".join(event.get("text", "") for event in told)
    assert "large.jsonl was trained on: asked is only" in notes and "all of" in notes


def test_unknown_task_lists_the_choices(evaluate: Any) -> None:
    with pytest.raises(ConfigError, match="unknown task: chess"):
        evaluate("sft", task=("chess",))


def chats(path: Path, words: str, number: int = 40) -> str:
    """A file of conversations, sorted by kind, as data sets often are."""
    lines = [
        {"messages": [{"role": "user", "content": f"{words} {k}?"}, {"role": "assistant", "content": "yes"}]}
        for k in range(number)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_all_is_whole_and_a_limit_that_cuts_nothing_is_not_told(evaluate: Any, tmp_path: Path) -> None:
    name = chats(tmp_path / "many.jsonl", "is it", 230)
    _, record, _ = evaluate("base", only="chat", task=(name,))
    (counts,) = (task for task in record["tasks"] if task["all"]["total"] == 200)
    assert (counts["limit"], counts["limit_of"]) == (200, "task")
    _, record, _ = evaluate("base", only="chat", task=(name,), limit="all")
    (counts,) = (task for task in record["tasks"] if task["all"]["total"] == 230)
    assert counts["limit"] is None
    short = chats(tmp_path / "short.jsonl", "is it", 20)
    _, record, _ = evaluate("base", only="chat", task=(short,))
    assert [task["limit"] for task in record["tasks"] if task["all"]["total"] == 20] == [None]


def test_a_poorer_result_does_not_replace_a_fuller_one(evaluate: Any, made: Path, tmp_path: Path) -> None:
    name, other = chats(tmp_path / "first.jsonl", "is it"), chats(tmp_path / "second.jsonl", "was it")
    stored = made / "runs" / "r" / "eval" / "base.jsonl"

    def totals(record: dict[str, Any]) -> dict[str, int]:
        lines = [json.loads(line)["task"] for line in stored.read_text().splitlines()]
        found = {task["task"]: task["all"]["total"] for task in record["tasks"] if task["task"] in (name, other)}
        assert found == {key: lines.count(key) for key in found}, "every reply is beside its count"
        return {Path(key).stem: number for key, number in found.items()}

    _, record, _ = evaluate("base", only="chat", task=(name,), limit=30)
    assert totals(record) == {"first": 30}
    result, record, told = evaluate("base", only="chat", task=(name, other), limit=5)
    assert totals(record) == {"first": 30, "second": 5} and any("stays on record" in e.get("text", "") for e in told)
    assert [task["all"]["total"] for task in result["record"]["tasks"]] == [5, 5], "what was measured is shown"
    _, record, _ = evaluate("base", only="chat", task=(other,), limit=7)
    assert totals(record) == {"first": 30, "second": 7}
    chats(tmp_path / "first.jsonl", "is it", 9)
    _, record, _ = evaluate("base", only="chat", task=(name,), limit="all")
    assert totals(record) == {"first": 9, "second": 7}, "all of a data set is never poorer"


def test_kept_answers_are_of_the_same_questions(evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    inner = stage.core_stage.partial_dir

    def watch(folder: Path, **facts: Any) -> Path:
        folders.append(inner(folder, **facts))
        return folders[-1]

    monkeypatch.setattr(stage.core_stage, "partial_dir", watch)
    name = chats(tmp_path / "edited.jsonl", "is it", 4)
    for words in ("is it", "is it", "was it"):
        evaluate("base", only="chat", task=(chats(tmp_path / "edited.jsonl", words, 4),))
    assert folders[0] == folders[1] != folders[2]
    monkeypatch.setattr(type(open_task(name)), "notes", lambda self: {"sandbox": "other"})
    evaluate("base", only="chat", task=(name,))
    assert folders[3] != folders[2]


class Programs:
    """As far as opening goes, a task that runs programs."""

    name, sandbox_mode = "programs", "auto"

    @property
    def sandbox(self) -> Any:
        if self.sandbox_mode == "none":
            return SimpleNamespace(warning="all rights")
        raise EnvironmentLacks("no sandbox", hint="start docker")


def test_without_a_sandbox_only_its_tasks_are_left_out() -> None:
    told: list[dict[str, Any]] = []
    left_out = stage._LeftOut(Listener(told.append))
    tasks: list[Any] = [SimpleNamespace(name="words"), Programs()]
    found = stage._with_sandbox(tasks, EvalConfig(), Dist(), left_out)
    assert found == tasks[:1] and left_out.notes == ["programs is left out: no sandbox (start docker)"]
    with pytest.raises(EnvironmentLacks, match="no sandbox"):
        stage._with_sandbox(tasks, config.build(EvalConfig, {"what.task": ("programs",)}), Dist(), left_out)
    bare = config.build(EvalConfig, {"what.sandbox": "none"})
    assert stage._with_sandbox([*tasks, Programs()], bare, Dist(), left_out)[:2] == tasks  # type: ignore[list-item]
    assert [event["text"] for event in told if event["kind"] == "warning"] == ["all rights"], "once"


def test_pick_takes_the_first_of_each_family() -> None:
    task = open_task("tinyworld")
    items = picking.pick(task, 3)
    families = [task.family(i) for i in items]
    assert len(items) == 3 * len(set(families)) and items == sorted(items)
    assert picking.pick(task, None) == picking.pick(task, 200) == list(range(len(task)))


def test_pick_draws_from_the_whole_of_a_data_set() -> None:
    class Stored(SimpleNamespace):
        def __len__(self) -> int:
            return 1000

    task: Any = Stored(
        name="stored", split="test", seed=0, endless=False, family=lambda i: "early" if i < 500 else "late"
    )
    items = picking.pick(task, 200)
    assert len(items) == 200 and items == sorted(items) == picking.pick(task, 200)
    assert 70 < sum(i < 500 for i in items) < 130 and set(picking.pick(task, 50)) < set(items)
    task.seed = 1
    assert picking.pick(task, 200) != items


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
