"""Graded replies: asks a model the questions of a task, greedily, and counts right answers per family."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanochat_cli.core.engine import tools
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.eval.intervals import wilson
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.tasks.base import Task, majority_correct
from nanochat_cli.core.tokenizer.conversation import Conversation, render_prompt
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""Prompts and the longest allowed reply in, replies (with the stop token, if one was produced) out."""

Choose = Callable[[list[list[int]], list[list[int]]], list["int | None"]]
"""Prompts and the tokens that may answer each in, which of these is the likeliest out; None where a prompt is too long.
"""

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
    too_long: bool = False
    """The prompt left no room for an answer."""
    cut: bool = False
    """The reply did not end where it had to: it is wrong whatever it says."""


def predict(
    task: Task,
    items: Sequence[int],
    tokenizer: Tokenizer,
    generate: Generate,
    log: Log = NULL,
    *,
    choose: Choose | None = None,
) -> list[Prediction]:
    """The graded reply to each of `items`, in their order.

    With `choose`, a task of kind `choice` is answered by the likeliest of its letters instead of by a written reply.
    """
    found: list[Prediction] = []
    for start in range(0, len(items), CHUNK):
        chunk = list(items[start : start + CHUNK])
        asked = [task.example(i) for i in chunk]
        prompts = [render_prompt(tokenizer, conversation) for conversation in asked]
        if choose is not None and task.kind == "choice":
            replies = _chosen(task, chunk, prompts, tokenizer, choose)
        else:
            replies = generate(prompts, task.max_reply_tokens)
        found += _judge(task, chunk, asked, replies, tokenizer)
        log.progress(f"{task.name} ({task.split})", len(found), len(items), "questions")
    return found


def _chosen(
    task: Task, items: Sequence[int], prompts: list[list[int]], tokenizer: Tokenizer, choose: Choose
) -> list[list[int]]:
    """The likeliest letter of each item as a finished reply; an empty one where the prompt is too long."""
    allowed = [[letter_token(tokenizer, letter) for letter in task.letters(i)] for i in items]
    end = tokenizer.special("assistant_end")
    picks = choose(prompts, allowed)
    return [[] if pick is None else [ids[pick], end] for pick, ids in zip(picks, allowed, strict=True)]


def letter_token(tokenizer: Tokenizer, letter: str) -> int:
    """The one token that a letter is. Raises ConfigError if it is several: its likelihood would not compare."""
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise ConfigError(f"an answer that is not one token cannot be compared with others: {letter}")
    return ids[0]


def _judge(
    task: Task, items: list[int], asked: list[Conversation], replies: list[list[int]], tokenizer: Tokenizer
) -> list[Prediction]:
    end, ends = tokenizer.special("assistant_end"), {tokenizer.special("assistant_end"), tokenizer.bos_id}
    stopped = [bool(ids) and ids[-1] == end for ids in replies]
    bodies = [ids[:-1] if full else ids for ids, full in zip(replies, stopped, strict=True)]
    texts = [tokenizer.decode(body) for body in bodies]
    # A reply that was cut is wrong whatever it says, so its grade is not asked for.
    grades = iter(task.grade_all([pair for pair, full in zip(zip(asked, texts), stopped) if full]))
    found = []
    for item, conversation, ids, body, text, full in zip(items, asked, replies, bodies, texts, stopped, strict=True):
        *question, reference = conversation.to_json()["messages"]
        found.append(
            Prediction(
                item=item,
                family=task.family(item),
                prompt=question,
                reference=plain_text(reference["content"]),
                reply=text,
                correct=full and next(grades),
                well_formed=full and not any(map(tokenizer.is_special, tools.without_calls(tokenizer, body))),
                label=task.label(item),
                shortcut=task.shortcut(item),
                too_long=not ids,
                cut=bool(ids) and ids[-1] not in ends,
            )
        )
    return found


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


def summarise(task: Task, predictions: Sequence[Prediction], *, by_letters: bool = False) -> dict[str, Any]:
    """What is stored for one task: the whole and every family. `by_letters`: how `predict` had choices answered."""
    return {
        "task": task.name,
        "split": task.split,
        "graded_by": "letters" if by_letters and task.kind == "choice" else "replies",
        "held_out": task.is_held_out,
        "seed": task.seed,
        "all": score(predictions).to_json(),
        "too_long": sum(p.too_long for p in predictions),
        "cut": sum(p.cut for p in predictions),
        **task.notes(),
        "families": {family: counts.to_json() for family, counts in by_family(predictions).items()},
    }


def to_lines(task: Task, predictions: Iterable[Prediction]) -> str:
    """Every prediction as one line of JSON."""
    head = {"task": task.name, "split": task.split}
    return "".join(json.dumps(head | asdict(p), ensure_ascii=False) + "\n" for p in predictions)
