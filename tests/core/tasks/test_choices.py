"""Multiple choice from files in the layout of the real ones: prompts, letters, splits that share nothing."""

from __future__ import annotations

import pytest

from nanochat_cli.core.errors import DataError, MissingArtifact
from nanochat_cli.core.tasks.base import open_for_selection, open_task
from tests.core.tasks.conftest import Download, arc_files, arc_row, mmlu_files, mmlu_row


def test_a_question_puts_the_letter_after_its_option(download: Download) -> None:
    download("arc", arc_files("ARC-Easy", [arc_row(1)], [arc_row(2)], [arc_row(3, "ABC", "C")]))
    task = open_task("arc_easy")
    user, reply = task.example(0).messages
    lines = user.text.splitlines()
    assert "Which is thing 3?" in lines[0]
    assert lines[1:4] == ["- option 3 A=A", "- option 3 B=B", "- option 3 C=C"]
    assert "letter" in lines[-1] and reply.text == "C"
    assert (task.kind, task.letters(0), task.label(0), len(task)) == ("choice", ("A", "B", "C"), "C", 1)
    assert task.grade(task.example(0), " C\n") and not task.grade(task.example(0), "C=C")


def test_labels_are_those_of_the_data(download: Download) -> None:
    download("arc", arc_files("ARC-Challenge", [arc_row(1)], [arc_row(2)], [arc_row(3, "1234", "4")]))
    task = open_task("arc_challenge")
    assert task.letters(0) == ("1", "2", "3", "4") and task.label(0) == "4"
    assert "- option 3 4=4" in task.example(0).messages[0].text


def test_an_answer_that_is_no_option_is_named(download: Download) -> None:
    download("arc", arc_files("ARC-Easy", [arc_row(1)], [arc_row(2)], [arc_row(3, "ABCD", "E")]))
    with pytest.raises(DataError, match=r"item 0 of arc_easy \(test\) has no such option: E"):
        open_task("arc_easy").example(0)


def test_what_is_tested_or_selected_by_is_not_trained_on(download: Download) -> None:
    """Rows that the files repeat across splits, spaces and capitals aside, leave the training ones."""
    leak = {**arc_row(8), "question": "  which is THING 8? "}
    train = [arc_row(1), leak, arc_row(9), arc_row(2)]
    download("arc", arc_files("ARC-Easy", train, [arc_row(9), arc_row(5)], [arc_row(8), arc_row(5)]))
    tasks = {split: open_task("arc_easy", split=split) for split in ("train", "val", "test")}
    asked = {s: {t.example(i).messages[0].text.lower() for i in range(len(t))} for s, t in tasks.items()}
    assert {split: len(found) for split, found in asked.items()} == {"train": 2, "val": 1, "test": 2}
    assert not asked["train"] & asked["val"] and not asked["val"] & asked["test"] and not asked["train"] & asked["test"]


def test_mmlu_trains_on_auxiliary_questions_and_reports_subjects(download: Download) -> None:
    test = [mmlu_row(3, "astronomy"), mmlu_row(4, "virology", 0), mmlu_row(5, "astronomy", 3)]
    download("mmlu", mmlu_files([mmlu_row(1, ""), mmlu_row(4, "")], [mmlu_row(2)], test))
    task = open_task("mmlu")
    assert [task.family(i) for i in range(3)] == ["astronomy", "virology", "astronomy"]
    assert [task.label(i) for i in range(3)] == ["C", "A", "D"]
    train = open_task("mmlu", split="train")
    assert len(train) == 1 and "What about 1?" in train.example(0).messages[0].text  # 4 is a test question
    assert train.family(0) == "auxiliary"
    assert "What about 2?" in open_for_selection("mmlu").example(0).messages[0].text


def test_beyond_the_end_there_is_nothing(download: Download) -> None:
    """A size larger than the data is the data, not an index error later on; one item more is an error at once."""
    download("arc", arc_files("ARC-Easy", [arc_row(1)], [arc_row(2)], [arc_row(n) for n in range(10, 15)]))
    assert len(open_task("arc_easy", size=99)) == 5
    task = open_task("arc_easy", size=3)
    assert len(task) == 3
    with pytest.raises(IndexError):
        task.example(3)


def test_what_is_not_here_names_the_command() -> None:
    with pytest.raises(MissingArtifact, match="not downloaded: arc") as caught:
        open_task("arc_easy")
    assert caught.value.hint == "nanochat data download arc"
