"""Graded replies: counting, families, baselines, stopping, and the order of items."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.eval import chat
from nanochat_cli.core.events import Listener
from nanochat_cli.core.tasks.base import Task, majority_correct
from nanochat_cli.core.tokenizer.conversation import Conversation, Part
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


class Sums(Task):
    """Even items ask for a sum, odd ones for the larger number; every fifth reference is a tool call."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    max_reply_tokens: ClassVar[int] = 20

    def __len__(self) -> int:
        return self.size or 600

    def family(self, i: int) -> str:
        return "sum" if i % 2 == 0 else "larger/" + ("first" if i % 4 == 1 else "second")

    def numbers(self, i: int) -> tuple[int, int]:
        return (i % 7, 1) if i % 4 != 1 else (9, i % 9)

    def example(self, i: int) -> Conversation:
        a, b = self.numbers(i)
        question = f"{a} + {b}?" if i % 2 == 0 else f"which is larger: {a} or {b}?" + " please" * (i % 5)
        parts = (Part("python", f"{a}+{b}"), Part("text", self.label(i)))
        return Conversation.turn(user=question, assistant=parts if i % 5 == 0 else self.label(i))

    def label(self, i: int) -> str:
        a, b = self.numbers(i)
        return str(a + b if i % 2 == 0 else max(a, b))

    def shortcut(self, i: int) -> str | None:
        return None if i % 2 == 0 else str(self.numbers(i)[0])

    def grade(self, conversation: Conversation, reply: str) -> bool:
        content = conversation.messages[-1].content
        return reply == (content if isinstance(content, str) else content[-1].text)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["0 1 2 3 4 5 6 7 8 9 which is larger please + or ?"] * 3, 270)


class Engine:
    """Knows the answer to every prompt of the task; may be told to fail in several ways."""

    def __init__(self, task: Sums, tokenizer: Tokenizer, mistakes: dict[int, str] | None = None) -> None:
        self.tokenizer = tokenizer
        self.known = {}
        for i in reversed(range(len(task))):
            prompt = tuple(chat.render_prompt(tokenizer, task.example(i)))
            self.known[prompt] = self.reply(task.label(i), (mistakes or {}).get(i, ""))

    def reply(self, text: str, mistake: str) -> list[int]:
        end = self.tokenizer.special("assistant_end")
        if mistake == "endless":
            return self.tokenizer.encode(text)
        if mistake == "special":
            return [self.tokenizer.special("user_start"), *self.tokenizer.encode(text), end]
        return [*self.tokenizer.encode("no" if mistake == "wrong" else text), end]

    def __call__(self, prompts: list[list[int]], longest: int) -> list[list[int]]:
        assert longest == 20
        return [self.known[tuple(prompt)] for prompt in prompts]


def test_perfect_model_gets_everything_right(tokenizer: Tokenizer) -> None:
    task, told = Sums(), []
    engine = Engine(task, tokenizer)
    found = chat.predict(task, range(len(task)), tokenizer, engine, Listener(told.append))
    assert [p.item for p in found] == list(range(600))
    assert all(p.correct and p.well_formed for p in found)
    assert all(p.reply == task.label(p.item) for p in found)  # replies went back to their own questions
    assert [event["done"] for event in told] == [256, 512, 600]
    assert found[5].reference == "9+59" and found[1].prompt[0]["role"] == "user"


def test_wrong_endless_and_malformed_replies(tokenizer: Tokenizer) -> None:
    task = Sums(size=24)
    mistakes = {0: "wrong", 2: "endless", 4: "special"}
    found = chat.predict(task, range(8), tokenizer, Engine(task, tokenizer, mistakes))
    assert [(p.correct, p.well_formed) for p in found[:5:2]] == [(False, True), (False, False), (False, False)]
    assert [p.cut for p in found[:5:2]] == [False, True, False] and not any(p.too_long for p in found)
    assert chat.summarise(task, found)["cut"] == 1


def test_a_prompt_that_leaves_no_room_is_counted(tokenizer: Tokenizer) -> None:
    task = Sums(size=24)
    found = chat.predict(task, range(4), tokenizer, lambda prompts, longest: [[] for _ in prompts])
    assert all(p.too_long and not p.cut and not p.correct for p in found)
    summary = chat.summarise(task, found)
    assert (summary["too_long"], summary["cut"]) == (4, 0)


def test_known_replies_are_right(tokenizer: Tokenizer) -> None:
    task = Sums(size=24)
    found = chat.predict(task, range(8), tokenizer, Engine(task, tokenizer))
    assert found[1].correct and found[3].correct


def test_families_parts_and_baselines(tokenizer: Tokenizer) -> None:
    task = Sums(size=40)
    found = chat.predict(task, range(40), tokenizer, Engine(task, tokenizer))
    scores = chat.by_family(found)
    assert list(scores) == ["sum", "larger", "larger/first", "larger/second"]
    assert [s.total for s in scores.values()] == [20, 20, 10, 10]
    assert scores["larger/first"].shortcut == 10 and scores["sum"].shortcut is None
    assert scores["larger/first"].majority == 10  # the answer is always 9
    summary = chat.summarise(task, found)
    assert summary["all"]["correct"] == 40 and summary["all"]["high"] == 1.0 and summary["all"]["low"] < 0.95
    assert summary["held_out"] is True and summary["split"] == "test"
    lines = [json.loads(line) for line in chat.to_lines(task, found).splitlines()]
    assert len(lines) == 40 and lines[3]["task"] == "test_chat" and lines[3]["correct"] is True


def test_majority_baseline() -> None:
    assert majority_correct(["a", "b", "a"]) == 2
    assert majority_correct(["a", None]) is None
    assert majority_correct([]) is None
    assert chat.score([]).to_json() == {"total": 0, "correct": 0, "well_formed": 0, "majority": None, "shortcut": None}


def test_unknown_split_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="no such split: dev") as caught:
        Sums(split="dev")
    assert caught.value.hint == "choose one of: train, test"
    with pytest.raises(ConfigError, match="at least one item: 0"):
        Sums(size=0)
