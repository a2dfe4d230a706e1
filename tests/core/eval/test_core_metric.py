"""The CORE score: reading bundles, rendering prompts, drawing examples, centering, resuming."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError, DataError, MissingArtifact
from nanochat_cli.core.eval import bundle, chat_core, core_metric, core_stage, icl, plain_yaml, scoring
from nanochat_cli.core.eval.intervals import mean_centered
from nanochat_cli.core.eval.nets import OwnCodec, OwnNet
from nanochat_cli.core.eval.scoring import Result, Span
from nanochat_cli.core.events import Listener
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.build import build
from nanochat_cli.core.settings import EvalWhat
from nanochat_cli.core.tasks.base import task_class
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

MC = [{"query": f"What is {i}?", "choices": [f"{i} it is", f"none of {i}"], "gold": i % 2} for i in range(9)]
SCHEMA = [
    {"context_options": [f"Ann met Bob {i} and Ann", f"Ann met Bob {i} and Bob"], "continuation": "sang.", "gold": 0}
    for i in range(7)
]
LM = [{"context": f" {i} and one make ", "continuation": f"{i + 1}"} for i in range(8)]
YAML = r"""
# the tasks
icl_tasks:
-
  label: choice   # a comment
  dataset_uri: a/choice.jsonl
  num_fewshot: [3]
  icl_task_type: multiple_choice
  continuation_delimiter: "\nAnswer: "
- label: schema
  dataset_uri: a/schema.jsonl
  num_fewshot:
  - 0
  icl_task_type: schema
- label: words
  dataset_uri: a/words.jsonl
  num_fewshot: [2]
  icl_task_type: language_modeling
  continuation_delimiter: '

    Answer: '
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with a task of each kind, whose two tables of baselines differ for one."""
    (tmp_path / "core.yaml").write_text(YAML)
    for name, items in {"choice": MC, "schema": SCHEMA, "words": LM}.items():
        path = tmp_path / "eval_data" / "a" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    for table, chance in {"eval_meta_data.csv": 20, "eval_meta_data_v2.csv": 50}.items():
        rows = f'Eval Task,Random baseline,Description\nchoice,{chance},"a, b"\nschema,50,\nwords,0,\n'
        (tmp_path / table).write_text(rows)
    return tmp_path


@pytest.fixture(scope="module")
def subject() -> tuple[OwnNet, OwnCodec]:
    tokenizer = Tokenizer.train([json.dumps(item) for item in (*MC, *SCHEMA, *LM)], 300)
    model = build(shape.from_depth(1, 300, 64, n_embd=32, n_head=2)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2 and not weight.any():
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
        model.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return OwnNet(model), OwnCodec(tokenizer)


# ---- the bundle ------------------------------------------------------------------------------------------------------


def test_a_bundle_is_read(folder: Path) -> None:
    found = bundle.open_bundle(folder)
    assert [task.label for task in found.tasks] == ["choice", "schema", "words"] and found.tables == ("v1", "v2")
    choice, schema, words = found.tasks
    assert choice.delimiter == words.delimiter == "\nAnswer: " and schema.delimiter == " "
    assert (choice.shots, schema.shots, words.shots) == (3, 0, 2)
    assert choice.baselines == {"v1": 0.2, "v2": 0.5}


def test_order_and_draws_are_those_of_the_reference(folder: Path) -> None:
    task = bundle.open_bundle(folder).tasks[0]
    shuffled = list(MC)
    random.Random(1337).shuffle(shuffled)
    items = task.items(6)
    assert items == shuffled[:6], "cropped after shuffling"
    for i in range(6):
        want = random.Random(1234 + i).sample([k for k in range(6) if k != i], 3)
        assert task.draw(items, i) == [items[k] for k in want]
    assert len(task.draw(items[:2], 0)) == 1, "as many as there are"


def test_prompts(folder: Path) -> None:
    choice, schema, words = bundle.open_bundle(folder).tasks
    assert icl.prompts(choice, MC[2], [MC[1]]) == [
        "What is 1?\nAnswer: none of 1\n\nWhat is 2?\nAnswer: 2 it is",
        "What is 1?\nAnswer: none of 1\n\nWhat is 2?\nAnswer: none of 2",
    ]
    assert icl.prompts(schema, SCHEMA[0], ()) == ["Ann met Bob 0 and Ann sang.", "Ann met Bob 0 and Bob sang."]
    assert icl.prompts(words, LM[3], [LM[1]]) == [
        "1 and one make\nAnswer: 2\n\n3 and one make\nAnswer:",
        "1 and one make\nAnswer: 2\n\n3 and one make\nAnswer: 4",
    ]


def test_spans_begin_where_answers_differ(folder: Path) -> None:
    choice, schema, words = bundle.open_bundle(folder).tasks
    spans, aligned = icl.to_spans(choice, [[9, 1, 2, 3], [9, 1, 4, 5, 6]])
    assert aligned and [span.start for span in spans] == [2, 2]
    spans, aligned = icl.to_spans(schema, [[9, 1, 7, 8], [9, 2, 3, 7, 8]])
    assert aligned and [span.start for span in spans] == [2, 3]
    spans, aligned = icl.to_spans(words, [[9, 1, 2], [9, 1, 2, 5]])
    assert aligned and spans == [Span([9, 1, 2, 5], 3)]
    # An answer that begins another, and a prompt whose last token changes when the answer follows:
    spans, aligned = icl.to_spans(choice, [[9, 1, 2], [9, 1, 2, 3]])
    assert not aligned and [span.start for span in spans] == [2, 2]
    spans, aligned = icl.to_spans(words, [[9, 1, 2], [9, 1, 6]])
    assert not aligned and spans == [Span([9, 1, 6], 2)]
    with pytest.raises(DataError, match="without tokens"):
        icl.to_spans(words, [[9, 1], [9, 1]])


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda f: (f / "core.yaml").unlink(), MissingArtifact, "no evaluation bundle"),
        (lambda f: (f / "eval_data/a/words.jsonl").unlink(), MissingArtifact, "task words are missing"),
        (lambda f: (f / "eval_data/a/words.jsonl").write_text("\n"), DataError, "task words has no questions"),
        (lambda f: (f / "eval_data/a/words.jsonl").write_text('{"context": "a"}\n'), DataError, "words.jsonl, line 1"),
        (
            lambda f: (f / "eval_data/a/choice.jsonl").write_text('{"query": "a", "choices": ["b"], "gold": 1}\n'),
            DataError,
            "not a multiple choice question",
        ),
        (lambda f: (f / "eval_meta_data.csv").write_text("Eval Task,Random baseline\n"), DataError, "no random base"),
        (lambda f: (f / "core.yaml").write_text("icl_tasks: {a: 1}"), DataError, "core.yaml, line 1"),
        (lambda f: (f / "core.yaml").write_text(YAML.replace("a/words", "../../words")), Exception, "words"),
    ],
)
def test_what_is_wrong_with_a_bundle(folder: Path, damage: Any, error: type[Exception], says: str) -> None:
    damage(folder)
    with pytest.raises(error, match=says):
        for task in bundle.open_bundle(folder).tasks:
            task.items()


def test_yaml_as_bundles_have_it() -> None:
    text = "a:\n- b: 'it''s'\n  c: 1.5\n-\n  b: 'two\n\n\n    breaks # no comment'\n  d: [x, 2] # one\n  e: true\nz:\n"
    assert plain_yaml.read(text, "y") == {
        "a": [{"b": "it's", "c": 1.5}, {"b": "two\n\nbreaks # no comment", "d": ["x", 2], "e": True}],
        "z": None,
    }
    for wrong in ("a: 'open", "a: {b: 1}", "- a", "a: &x 1", "a: 'b' c"):
        with pytest.raises(DataError, match="y, line 1"):
            plain_yaml.read(wrong, "y")


def test_baselines_that_are_not_there(folder: Path) -> None:
    (folder / "eval_meta_data_v2.csv").unlink()
    with pytest.raises(ConfigError, match="no baselines v2"):
        core_stage.find_bundle(EvalWhat(bundle=str(folder), baselines="v2"))
    assert core_stage.find_bundle(EvalWhat(bundle=str(folder))).tables == ("v1",)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_the_lowest_loss_per_token_wins_and_the_first_of_equals(folder: Path) -> None:
    choice = bundle.open_bundle(folder).tasks[0]

    def result(nats: float, count: int) -> Result:
        return Result(nats=nats, count=count, best=(1,) * count, greedy=False)

    assert core_metric.judge(choice, [result(3, 2), result(2, 1)], 0, None)["chosen"] == 0  # type: ignore[arg-type]
    told = core_metric.judge(choice, [result(2, 1), result(4, 2)], 1, None)  # type: ignore[arg-type]
    assert told["chosen"] == 0 and not told["correct"]


def test_answers_are_those_of_one_by_one_and_are_kept(folder: Path, subject: Any, tmp_path: Path) -> None:
    net, codec = subject
    found = bundle.open_bundle(folder)
    work = tmp_path / "work"
    whole = core_metric.answer_tasks(net, codec, found, work, Dist())
    for task, (counts, lines) in zip(found.tasks, whole, strict=True):
        asked = icl.questions(task, codec)
        assert asked == icl.questions(task, codec, keep=False), "the cache holds what was put in"
        cropped = [[span.cropped(net.context) for span in spans] for spans in asked.spans]
        alone = scoring.score_one_by_one(net, cropped)
        want = [core_metric.judge(task, results, gold, codec) for results, gold in zip(alone, asked.gold, strict=True)]
        assert [line["item"] for line in lines] == list(range(len(want)))
        assert [line["correct"] for line in lines] == [line["correct"] for line in want]
        assert counts["correct"] == sum(line["correct"] for line in want) and counts["total"] == len(want)
    longest = max(len(span.ids) for spans in icl.questions(found.tasks[0], codec).spans for span in spans)
    assert longest > net.model.config.max_seq_len, "three worked examples are longer than 64 tokens"
    assert net.context == 8 * net.model.config.max_seq_len and not any(counts["cropped"] for counts, _ in whole)


def test_only_a_model_with_a_limit_of_its_own_has_prompts_cropped(folder: Path, subject: Any, tmp_path: Path) -> None:
    net, codec = subject

    class Short(OwnNet):
        @property
        def context(self) -> int:
            return 64

    told: list[dict[str, Any]] = []
    short = Short(net.model)
    found = core_metric.answer_tasks(
        short, codec, bundle.open_bundle(folder), tmp_path / "w", Dist(), limit=8, log=Listener(told.append)
    )
    first = found[0][0]
    assert first["cropped"] > 0 and any("lost their beginning" in event.get("text", "") for event in told)
    assert [counts["limit"] for counts, _ in found] == [8, None, None], "what cut nothing is not told"


class Stop(Exception):
    """Ends an evaluation half-way."""


def test_what_was_answered_is_not_asked_again(
    folder: Path, subject: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, codec = subject
    found = bundle.open_bundle(folder)
    monkeypatch.setitem(scoring._BUDGET, "cpu", 200)
    whole = core_metric.answer_tasks(net, codec, found, tmp_path / "whole", Dist())
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stop

    with pytest.raises(Stop):
        core_metric.answer_tasks(net, codec, found, tmp_path / "cut", Dist(), between=stop)
    (part,) = (tmp_path / "cut").glob("*.jsonl")
    kept = len(part.read_text().splitlines())
    assert 0 < kept < len(MC)
    part.write_text(part.read_text() + '{"item": 0, "corr')  # a line that was being written
    asked: list[int] = []

    def counting(net: Any, questions: Any, **options: Any) -> Any:
        asked.append(len(questions))
        return scoring.score(net, questions, **options)

    monkeypatch.setattr(core_metric, "score", counting)
    again = core_metric.answer_tasks(net, codec, found, tmp_path / "cut", Dist())
    assert asked == [len(MC) - kept, len(SCHEMA), len(LM)]
    for (a, lines_a), (b, lines_b) in zip(whole, again, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
        assert [line["correct"] for line in lines_a] == [line["correct"] for line in lines_b]


def test_shares_of_several_processes_are_put_together(folder: Path, subject: Any, tmp_path: Path) -> None:
    net, codec = subject
    task = bundle.open_bundle(folder).tasks[0]
    one = core_metric.answer_tasks(net, codec, bundle.open_bundle(folder), tmp_path / "one", Dist())
    asked = icl.questions(task, codec)
    for rank in (0, 1):  # what each of two would have written
        ranked = core_metric.Kept(tmp_path / "two", task.label, _Rank(rank))  # type: ignore[arg-type]
        ranked.done = {}
        share = ranked.left(range(len(asked.spans)))
        assert share == list(range(rank, len(MC), 2))
        ranked.add([line for line in one[0][1] if line["item"] in share])
    both = core_metric.answer_tasks(net, codec, bundle.open_bundle(folder), tmp_path / "two", Dist())
    assert both[0][1] == one[0][1]


class _Rank:
    """One of two processes, as far as keeping goes."""

    world = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def barrier(self) -> None:
        """Nobody to wait for."""


def test_answers_of_a_fuller_result_stay(folder: Path, subject: Any, tmp_path: Path) -> None:
    net, codec = subject
    stored = tmp_path / "base-core" / "choice.jsonl"

    def measure(limit: Any) -> dict[str, Any]:
        what = EvalWhat(only="core", limit=limit)
        return core_stage.measure(
            net, codec, bundle.open_bundle(folder), what, tmp_path, Dist(), Listener(told.append), name="base",
            weights="w", precision="fp32", between=lambda: None,
        )  # fmt: skip

    told: list[dict[str, Any]] = []
    whole = measure("all")
    (tmp_path / "base.json").write_text(json.dumps({"weights_sha256": "w", "core": whole}))
    few = measure(4)
    assert few["tasks"][0]["total"] == 4 and whole["tasks"][0]["total"] == len(stored.read_text().splitlines()) == 9
    assert any(event.get("text", "").startswith("choice: the earlier result of 9") for event in told)
    (tmp_path / "base.json").write_text(json.dumps({"weights_sha256": "other", "core": whole}))
    measure(4)
    assert len(stored.read_text().splitlines()) == 4, "other weights leave nothing"


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_score_is_the_mean_of_centered_accuracies(folder: Path) -> None:
    counts = [
        {"correct": 6, "total": 10, "baselines": {"v1": 0.2, "v2": 0.5}, "limit": 10, "cropped": 0},
        {"correct": 1, "total": 4, "baselines": {"v1": 0.0, "v2": 0.0}, "limit": 10, "cropped": 0},
    ]
    record = core_metric.summarise(counts, ["v1", "v2"])
    assert record["scores"]["v1"]["core"] == pytest.approx((0.5 + 0.25) / 2)
    assert record["scores"]["v2"]["core"] == pytest.approx((0.2 + 0.25) / 2)
    assert record["scores"]["v2"]["label"] == "CORE (v2 baselines, 2 of 22 tasks, at most 10 questions a task)"
    counts = [counts[0] | {"limit": None, "cropped": 3}, counts[1]]
    record = core_metric.summarise(counts, ["v1"])
    assert record["cropped"] == 3
    assert record["scores"]["v1"]["label"] == (
        "CORE (v1 baselines, 2 of 22 tasks, at most 10 questions in 1 of them, 3 cropped)"
    )


def test_bootstrap_is_as_wide_as_theory_says() -> None:
    mean, low, high = mean_centered([(300, 1000, 0.25), (200, 500, 0.0)])
    error = ((0.3 * 0.7 / 1000) / 0.75**2 + 0.4 * 0.6 / 500) ** 0.5 / 2
    assert mean == pytest.approx((0.05 / 0.75 + 0.4) / 2)
    assert low == pytest.approx(mean - 1.96 * error, rel=0.05) and high == pytest.approx(mean + 1.96 * error, rel=0.05)
    assert mean_centered([(3, 10, 0.0)]) == mean_centered([(3, 10, 0.0)])
    with pytest.raises(ValueError, match="needs questions"):
        mean_centered([(0, 0, 0.0)])


def test_chat_core() -> None:
    def task(name: str, correct: int) -> dict[str, Any]:
        return {"task": name, "held_out": True, "limit": 200, "all": {"correct": correct, "total": 100}}

    tasks = [task("arc_easy", 40), task("gsm8k", 10), task("tinyworld", 90)]
    score = chat_core.summarise(tasks, {"arc_easy": 0.25, "gsm8k": 0.0, "tinyworld": 0.0})
    assert score and score["chat_core"] == pytest.approx((0.15 / 0.75 + 0.1) / 2, abs=1e-6)
    assert score["label"] == "ChatCORE (2 of 6 tasks, at most 200 questions a task)"
    assert chat_core.summarise([task("tinyworld", 5)], {"tinyworld": 0.0}) is None


def test_the_tasks_of_chat_core_know_their_chance() -> None:
    chance = {name: task_class(name).baseline for name in chat_core.NAMES}
    assert chance == dict.fromkeys(("arc_easy", "arc_challenge", "mmlu"), 0.25) | dict.fromkeys(
        ("gsm8k", "humaneval", "spellingbee"), 0.0
    )


def test_the_real_bundle(real_data: Path) -> None:
    found = bundle.open_bundle(real_data / "eval_bundle")
    assert len(found.tasks) == 18 and found.tables == ("v1", "v2")
    by_label = {task.label: task for task in found.tasks}
    assert by_label["jeopardy"].delimiter == "\nAnswer: " and by_label["boolq"].baselines["v1"] == 0.62
    assert by_label["commonsense_qa"].baselines == {"v1": 0.2, "v2": pytest.approx(0.403)}
    assert all(task.items(1) for task in found.tasks)
