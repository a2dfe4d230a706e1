"""Spelling and counting letters: right by Python's own count, and no word of the test in training."""

from __future__ import annotations

import pytest

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.tasks import _words, spellingbee
from nanochat_cli.core.tasks.base import open_task
from tests.core.tasks.conftest import Download


def test_no_word_of_one_split_is_in_another_of_either_task() -> None:
    """Where item i of the test was once item i + 1 of training, test and training share not one word now."""
    words: dict[str, set[str]] = {}
    for split in _words.SPLITS:
        bee, simple = (open_task(name, split=split, size=900) for name in ("spellingbee", "simplespelling"))
        assert isinstance(bee, spellingbee.SpellingBee)
        words[split] = {bee.drawn(i)[0] for i in range(900)}
        words[split] |= {simple.example(i).messages[0].text.split()[-1] for i in range(len(simple))}
        assert len(words[split]) > 150
        assert {_words.split_of(word) for word in words[split]} == {split}
    assert not words["train"] & words["test"] and not words["train"] & words["val"] and not words["val"] & words["test"]


@pytest.mark.parametrize("name", ["spellingbee", "simplespelling"])
def test_splits_and_seeds_ask_different_things(name: str) -> None:
    asked = {
        (split, seed): [open_task(name, split=split, seed=seed).example(i) for i in range(40)]
        for split in ("train", "test")
        for seed in (0, 1, -1)
    }
    flat = [str(conversations) for conversations in asked.values()]
    assert len(set(flat)) == len(flat)
    assert asked["train", 0] == [open_task(name, split="train", size=50).example(i) for i in range(40)]


def test_counting_agrees_with_python() -> None:
    task = open_task("spellingbee")
    assert isinstance(task, spellingbee.SpellingBee)
    zeros = 0
    for i in range(300):
        word, letter, question = task.drawn(i)
        count = word.count(letter)
        zeros += count == 0
        content = task.example(i).messages[-1].content
        kinds = {part.kind: part.text for part in content if not isinstance(part, str)}
        assert kinds["python"] == f"'{word}'.count('{letter}')" and kinds["python_output"] == str(count)
        assert f"{word}:{','.join(word)}" in task.example(i).messages[-1].text
        assert task.label(i) == str(count) and word in question
        assert task.grade(task.example(i), f"#### {count}.0") and not task.grade(task.example(i), f"#### {count + 1}")
    assert 0 < zeros < 60


def test_every_wording_has_its_letter_and_its_word() -> None:
    for wording in spellingbee.WORDINGS:
        assert wording.count("{letter}") == 1 and wording.count("{word}") == 1
    assert len(set(spellingbee.WORDINGS)) == len(spellingbee.WORDINGS) == 40


def test_spelling_takes_every_word_before_any_comes_again(download: Download) -> None:
    listed = [a + b + c + d for a in "abcde" for b in "aeiou" for c in "rstln" for d in "aeiou"]
    download("words", {"words_alpha.txt": "\r\n".join([*listed, "ok", "Don't", "xx", "naïve"])})
    num = len(_words.of_split("train"))
    assert num + len(_words.of_split("val")) + len(_words.of_split("test")) == len(listed)  # the rest are no words
    task = open_task("simplespelling", split="train", size=2 * num)
    words = [task.example(i).messages[0].text.split()[-1] for i in range(2 * num)]
    assert len(set(words[:num])) == num and words[num:] == words[:num] and words[:num] != sorted(words[:num])
    assert len(open_task("simplespelling", split="train")) == 200_000
    assert len(open_task("simplespelling")) == len(_words.of_split("test"))
    question, reply = task.example(0).messages
    word = question.text.split()[-1]
    assert reply.text == f"{word}:{','.join(word)}"
    assert task.grade(task.example(0), reply.text) and not task.grade(task.example(0), word)


def test_the_short_list_is_words() -> None:
    words = _words.list_file().read_text().split()
    assert len(words) > 3_000 and len(set(words)) == len(words)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)


def test_beyond_the_end_there_is_nothing() -> None:
    for name in ("spellingbee", "simplespelling"):
        with pytest.raises(IndexError):
            open_task(name, size=5).example(5)
    with pytest.raises(ConfigError, match="no such split: dev"):
        open_task("spellingbee", split="dev")
