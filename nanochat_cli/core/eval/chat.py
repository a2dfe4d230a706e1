"""Graded replies: asks a model the questions of a task, greedily, and counts right answers per family."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanochat_cli.core.eval.intervals import wilson
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.tasks.base import Task, majority_correct
from nanochat_cli.core.tokenizer.conversation import Conversation, render_prompt
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""Prompts and the longest allowed reply in, replies (with the stop token, if one was produced) out."""

CHUNK = 256
"""Prompts handed to the engine between two progress events."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One question and what became of it."""

    item: int
    family: str
    prompt: list[dict[str, Any]]
    reference: str
    reply: str
    correct: bool
    well_formed: bool
    """The model ended its turn by itself and wrote no other special token on the way."""
    label: str | None = None
    shortcut: str | None = None


def predict(
    task: Task, items: Sequence[int], tokenizer: Tokenizer, generate: Generate, log: Log = NULL
) -> list[Prediction]:
    """The graded reply to each of `items`, in their order."""
    found: list[Prediction] = []
    for start in range(0, len(items), CHUNK):
        chunk = list(items[start : start + CHUNK])
        asked = [task.example(i) for i in chunk]
        prompts = [render_prompt(tokenizer, conversation) for conversation in asked]
        replies = generate(prompts, task.max_reply_tokens)
        found += [_judge(task, i, c, ids, tokenizer) for i, c, ids in zip(chunk, asked, replies, strict=True)]
        log.progress(f"{task.name} ({task.split})", len(found), len(items), "questions")
    return found


def _judge(task: Task, item: int, conversation: Conversation, ids: list[int], tokenizer: Tokenizer) -> Prediction:
    end = tokenizer.special("assistant_end")
    stopped = bool(ids) and ids[-1] == end
    body = ids[:-1] if stopped else ids
    reply = tokenizer.decode(body)
    *question, reference = conversation.to_json()["messages"]
    return Prediction(
        item=item,
        family=task.family(item),
        prompt=question,
        reference=plain_text(reference["content"]),
        reply=reply,
        correct=stopped and task.grade(conversation, reply),
        well_formed=stopped and not any(tokenizer.is_special(token) for token in body),
        label=task.label(item),
        shortcut=task.shortcut(item),
    )


def plain_text(content: str | Iterable[dict[str, Any]]) -> str:
    """The text of a message's content, whose parts (text, tool call, tool output) are joined as they come."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@dataclass(frozen=True, kw_only=True)
class Score:
    """Counts for one family of questions. Baselines are None where the task knows none."""

    total: int
    correct: int
    well_formed: int
    majority: int | None
    """Right answers of whoever always gives the most frequent answer."""
    shortcut: int | None
    """Right answers of the task's cheap trick."""

    def to_json(self) -> dict[str, Any]:
        """The counts, with shares and the 95 % interval as fractions."""
        low, high = wilson(self.correct, self.total)
        shares = {"accuracy": self.correct / self.total, "low": low, "high": high} if self.total else {}
        return asdict(self) | {name: round(value, 6) for name, value in shares.items()}


def score(predictions: Sequence[Prediction]) -> Score:
    """Counts over some predictions."""
    tricks = [p.shortcut for p in predictions]
    return Score(
        total=len(predictions),
        correct=sum(p.correct for p in predictions),
        well_formed=sum(p.well_formed for p in predictions),
        majority=majority_correct(p.label for p in predictions),
        shortcut=None if not tricks or None in tricks else sum(p.shortcut == p.label for p in predictions),
    )


def by_family(predictions: Sequence[Prediction]) -> dict[str, Score]:
    """Scores per family, in order of first appearance; a family `a/b` also counts for `a`, which comes before it."""
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        whole = prediction.family.partition("/")[0]
        groups.setdefault(whole, []).append(prediction)
        if prediction.family != whole:
            groups.setdefault(prediction.family, []).append(prediction)
    first = {family.partition("/")[0]: place for place, family in reversed(list(enumerate(groups)))}
    in_order = sorted(groups, key=lambda family: (first[family.partition("/")[0]], "/" in family))
    return {family: score(groups[family]) for family in in_order}


def summarise(task: Task, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What is stored for one task: the whole and every family."""
    return {
        "task": task.name,
        "split": task.split,
        "held_out": task.split in task.held_out,
        "seed": task.seed,
        "all": score(predictions).to_json(),
        "families": {family: counts.to_json() for family, counts in by_family(predictions).items()},
    }


def to_lines(task: Task, predictions: Iterable[Prediction]) -> str:
    """Every prediction as one line of JSON."""
    head = {"task": task.name, "split": task.split}
    return "".join(json.dumps(head | asdict(p), ensure_ascii=False) + "\n" for p in predictions)
