"""School maths: worked answers as calls of the calculator, numbers compared by value, a validation split of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanochat_cli.core.tasks import _numbers, gsm8k
from nanochat_cli.core.tasks.base import open_for_selection, open_task
from nanochat_cli.core.tokenizer.conversation import Conversation, Part
from tests.core.tasks.conftest import Download, sum_row


def test_sums_become_calls_of_the_calculator() -> None:
    parts = gsm8k.worked("Half is 48/2 = <<48/2=24>>24.\nBoth: <<48+24=72>>72\n#### 72")
    assert parts == (
        Part("text", "Half is 48/2 = "),
        Part("python", "48/2"),
        Part("python_output", "24"),
        Part("text", "24.\nBoth: "),
        Part("python", "48+24"),
        Part("python_output", "72"),
        Part("text", "72\n#### 72"),
    )


SAME = [
    ("#### 1000", "#### 1,000"),
    ("#### 1,000", "It is #### 1000.0"),
    ("#### 10", "#### 10."),
    ("#### 10", "####10.00"),
    ("#### 10", "#### $10"),
    ("#### -3", "#### -$3.0"),
    ("#### -3", "#### $-3"),
    ("#### 0.5", "#### .50"),
    ("#### 18", "#### 18 dollars."),
]
OTHER = [
    ("#### 10", "#### 100"),
    ("#### 10", "10"),
    ("#### 10", "#### ten"),
    ("#### 10", "#### -10"),
    ("#### 10", "#### 1 or #### 10"),
    ("no number", "none either"),
    ("#### 10", ""),
]


@pytest.mark.parametrize(("reference", "reply"), SAME)
def test_equal_numbers_are_equal_however_they_are_written(reference: str, reply: str) -> None:
    assert _numbers.same(reference, reply) and _numbers.same(reply, reference)


@pytest.mark.parametrize(("reference", "reply"), OTHER)
def test_other_numbers_and_none_are_wrong(reference: str, reply: str) -> None:
    assert not _numbers.same(reference, reply)


@pytest.fixture
def sums(download: Download) -> None:
    rows = [sum_row(number) for number in range(600)]
    download(
        "gsm8k",
        {"main/train-00000-of-00001.parquet": rows[:550], "main/test-00000-of-00001.parquet": rows[540:]},
    )


def asked(split: str | None, name: str = "gsm8k") -> set[str]:
    task = open_task(name, split=split)
    return {task.example(i).messages[0].text for i in range(len(task))}


def test_a_validation_split_is_carved_from_training(sums: None) -> None:
    train, val, test = asked("train"), asked("val"), asked("test")
    assert len(train) + len(val) == 540 and len(test) == 60  # ten of the training rows are test questions
    assert 15 < len(val) < 70 and not train & val and not train & test and not val & test
    chosen_by = open_for_selection("gsm8k")
    assert chosen_by.split == "val" and {chosen_by.example(0).messages[0].text} <= val


def test_the_carved_split_does_not_depend_on_the_order_of_rows(sums: None, download: Download) -> None:
    before = asked("val")
    rows = [sum_row(number) for number in reversed(range(540))]
    from nanochat_cli.core.tasks import _tables

    _tables._split.cache_clear()
    download("gsm8k", {"main/train-00000-of-00001.parquet": rows})
    assert asked("val") == before


def test_reference_answers_are_right_and_pay(sums: None) -> None:
    task = open_task("gsm8k")
    for i in range(len(task)):
        conversation = task.example(i).validate()
        assert task.grade(conversation, conversation.messages[-1].text)
        assert task.reward(conversation, f"#### {task.label(i)}.00") == 1.0
        assert not task.grade(conversation, "#### 1")
    assert task.label(0) == "542" and Conversation.from_json(task.example(0).to_json()) == task.example(0)


def test_the_real_questions(real_data: Path, download: Download) -> None:
    folder = real_data / "gsm8k"
    if not folder.is_dir():
        pytest.skip(f"no GSM8K in {folder}")
    texts = {f"{split}.jsonl": (folder / f"{split}.jsonl").read_text() for split in ("train", "test")}
    download("gsm8k", texts)
    train, val, test = asked("train"), asked("val"), asked("test")
    assert len(test) == 1319 and len(train) + len(val) == 7473 and 430 < len(val) < 570
    assert not (train & val or train & test or val & test)
    task = open_task("gsm8k")
    assert all(task.grade(task.example(i), task.example(i).messages[-1].text) for i in range(len(task)))
    assert all(task.label(i) is not None for i in range(len(task)))
    calls = [part for i in range(200) for part in task.example(i).messages[-1].content if not isinstance(part, str)]
    assert {part.kind for part in calls} == {"text", "python", "python_output"}
    assert json.loads(texts["test.jsonl"].splitlines()[0])["question"] == task.example(0).messages[0].text
