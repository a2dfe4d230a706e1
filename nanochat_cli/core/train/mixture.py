"""The conversations of a mixture: files and tasks, each as often as asked for, and how long they are.

Which part of a source is taken is a function of the seed alone. Nothing is rendered here but what is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nanochat_cli.core import files, mixtures
from nanochat_cli.core.data import downloaded, sources
from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.data.holdout import hold_out
from nanochat_cli.core.data.order import permute
from nanochat_cli.core.errors import ConfigError, DataError, MissingArtifact
from nanochat_cli.core.mixtures import Wanted
from nanochat_cli.core.tasks.base import Task, is_file, open_for_selection, open_for_training, task_class
from nanochat_cli.core.tokenizer.conversation import Conversation, render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

MEASURED = 500
"""Conversations of each source that `overview` measures, at most."""


class Talks(Protocol):
    """Conversations by number, made when asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Conversation: ...


class TaskTalks:
    """The questions of a task, with their reference replies."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, i: int, /) -> Conversation:
        return self.task.example(i)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One source. `chosen` numbers its training conversations as an epoch sees them, int64, repeats included."""

    wanted: Wanted
    train: Talks
    val: Talks
    chosen: np.ndarray
    sha256: str | None = None
    """Of the file, if it is one."""


def open_parts(data: Sequence[str], tasks: Sequence[str], seed: int) -> list[Part]:
    """Open the files (`PATH[:weight]`) and then the tasks (`NAME[:weight]`, `NAME=number`) of a mixture.

    Raises ConfigError, MissingArtifact naming what to download, or DataError.
    """
    check(tasks)
    return [_file_part(text, seed) for text in data] + [_task_part(text, seed) for text in tasks]


def check(tasks: Sequence[str]) -> None:
    """Raise for tasks that there are not, or whose data is not here, without reading any."""
    absent: list[str] = []
    for wanted in map(mixtures.parse, tasks):
        if is_file(wanted.name):
            continue
        cls = task_class(wanted.name)
        if "train" not in cls.splits:
            raise ConfigError(f"a task without questions to train on: {wanted.name}")
        absent += [name for name in cls.needs if not downloaded.is_complete(sources.get(name))]
    if absent:
        raise MissingArtifact(
            f"the mixture needs data that was not downloaded: {', '.join(dict.fromkeys(absent))}",
            hint="; ".join(f"nanochat data download {name}" for name in dict.fromkeys(absent)),
        )


def _file_part(text: str, seed: int) -> Part:
    name, weight = mixtures.split_weight(text)
    path = Path(name)
    if not path.is_file():
        raise MissingArtifact(f"no chat file: {path}", hint="name a chat file with --data FILE")
    train, val = hold_out(read_chats(path))
    wanted = Wanted(name, weight)
    return Part(
        wanted=wanted, train=train, val=val, chosen=choose(len(train), wanted, seed), sha256=files.sha256_file(path)
    )


def _task_part(text: str, seed: int) -> Part:
    wanted = mixtures.parse(text)
    endless = not is_file(wanted.name) and task_class(wanted.name).endless
    size = wanted.count if endless else None  # made on demand: none need come twice
    train = TaskTalks(open_for_training(wanted.name, size=size, seed=seed))
    held = open_for_selection(wanted.name, seed=seed)
    if not len(train):
        raise DataError(f"a task without questions to train on: {wanted.name}")
    return Part(wanted=wanted, train=train, val=TaskTalks(held), chosen=choose(len(train), wanted, seed))


def without(part: Part, questions: Set[str]) -> Part:
    """Return a part whose training leaves out every conversation in which one of these questions is answered."""
    if not questions:
        return part
    numbers, places = np.unique(part.chosen, return_inverse=True)
    free = np.array([questions.isdisjoint(answered(part.train[n])) for n in numbers.tolist()], bool)
    return dataclasses.replace(part, chosen=part.chosen[free[places.ravel()]])


def answered(talk: Conversation) -> set[str]:
    """Return what a conversation answers: all that is said before each reply."""
    return {asked(Conversation(talk.messages[:k])) for k, m in enumerate(talk.messages) if m.role == "assistant"}


def asked(talk: Conversation) -> str:
    """Return the question that a conversation ends with, and all that comes before it, as one string."""
    return str(talk.without_reply().to_json())


def choose(num: int, wanted: Wanted, seed: int) -> np.ndarray:
    """Return which of `num` conversations an epoch sees: all as often as whole epochs go, then some picked by `seed`.

    int64, at least one; each number comes as often as any other, or once more.
    """
    if not num:
        return np.zeros(0, np.int64)
    total = max(1, round(num * wanted.weight)) if wanted.count is None else wanted.count
    whole, rest = divmod(total, num)
    picked = np.sort(permute(np.arange(rest), num, seed)) if rest else np.zeros(0, np.int64)
    return np.concatenate([np.repeat(np.arange(num), whole), picked])


def held_of(parts: Sequence[Part], most: int) -> list[Conversation]:
    """Return held-out conversations of all parts, `most` in all, each part's share like that of its training."""
    total = sum(len(part.chosen) for part in parts)
    found: list[Conversation] = []
    for part in parts:
        share = most if len(parts) == 1 else max(1, most * len(part.chosen) // max(1, total))
        found += [part.val[i] for i in range(min(share, len(part.val)))]
    return found


def one_of_each(parts: Sequence[Part], num: int) -> list[Conversation]:
    """Return a few conversations to show samples on, from as many parts as there are, held out where possible."""
    pools = [part.val if len(part.val) else part.train for part in parts]
    order = [(row, place) for row in range(num) for place, pool in enumerate(pools) if row < len(pool)]
    return [pools[place][row] for row, place in order[:num]]


# ---- lengths ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lengths:
    """Tokens of conversations: on average, what 95 % stay within, and the share longer than the context."""

    mean_tokens: float
    p95_tokens: int
    longer_share: float


def lengths_of(counts: np.ndarray, seq_len: int) -> Lengths:
    """Return what `counts`, the tokens of each conversation, amount to in rows of `seq_len` + 1."""
    return Lengths(
        round(float(counts.mean()), 1),
        int(np.quantile(counts, 0.95, method="inverted_cdf")),
        round(float((counts > seq_len + 1).mean()), 4),
    )


@dataclass(frozen=True)
class Overview:
    """A mixture before it is trained on; lengths of the first row of each source's `sources` are of a sample."""

    sources: list[dict[str, Any]]
    conversations: int
    tokens: int
    """Of an epoch, about, without what is beyond the context."""
    max_seq_len: int


def overview(data: Sequence[str], tasks: Sequence[str], tokenizer: Tokenizer, seq_len: int, seed: int) -> Overview:
    """Return what an epoch of a mixture holds, its lengths measured on a sample of each source.

    Raises what `open_parts` raises.
    """
    rows: list[dict[str, Any]] = []
    tokens = 0.0
    for part in open_parts(data, tasks, seed):
        if not len(part.chosen):
            continue
        places = np.linspace(0, len(part.chosen) - 1, min(MEASURED, len(part.chosen))).astype(np.int64)
        counts = np.array([len(render(tokenizer, part.train[int(i)]).ids) for i in part.chosen[places]])
        tokens += float(np.minimum(counts, seq_len + 1).mean()) * len(part.chosen)
        rows.append(
            {
                "source": str(part.wanted),
                "here": len(part.train),
                "per_epoch": len(part.chosen),
                **vars(lengths_of(counts, seq_len)),
                "measured": len(places),
            }
        )
    return Overview(rows, sum(row["per_epoch"] for row in rows), round(tokens), seq_len)
