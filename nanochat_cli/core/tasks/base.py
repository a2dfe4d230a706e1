"""What every task offers: numbered conversations, a grader, and the baselines a score is read against."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import nanochat_cli.core.tasks as package
from nanochat_cli.core import registry
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.tokenizer.conversation import Conversation

SET_APART_ONE_IN = 10


class Task(ABC):
    """A list of questions. Item *i* is a pure function of (split, seed, i), so any subset can be drawn by any process.

    A file `core/tasks/<name>.py` holds one subclass and ends with `TASK = <the class>`.
    """

    kind: ClassVar[Literal["generative", "choice"]] = "generative"
    """`choice`: of the letters that `letters` names, the likeliest counts as the answer."""
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    held_out: ClassVar[tuple[str, ...]] = ("test",)
    """Splits worth measuring: none of their keys appears in training. Empty: the task is for training only."""
    selection: ClassVar[str | None] = None
    """Split to choose by while training, which is neither trained nor reported on. None: a tenth of `train`."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What it reads: names of `nanochat data download`."""
    endless: ClassVar[bool] = False
    """Items are made, not stored: `size` may be any number, and none comes twice because there are too few."""
    practice: ClassVar[tuple[str, ...]] = ()
    """Families that reinforcement learning practises on unless others are asked for; none means all."""
    max_reply_tokens: ClassVar[int] = 64
    """Longest reply worth waiting for; a longer one counts as not stopped."""
    baseline: ClassVar[float] = 0.0
    """Share right by chance, which counts as nothing in a centered score: 0.25 for four choices, 0 for written replies.
    """

    def __init__(self, *, split: str = "test", size: int | None = None, seed: int = 0) -> None:
        """Open `split` with `size` items (None = the task's own number). Raises ConfigError for an unknown split."""
        if split not in self.splits:
            raise ConfigError(f"task has no such split: {split}", hint=f"choose one of: {', '.join(self.splits)}")
        if size is not None and size < 1:
            raise ConfigError(f"a task needs at least one item: {size}")
        self.split, self.size, self.seed = split, size, seed

    @property
    def name(self) -> str:
        """Name of the task: its file name."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def is_held_out(self) -> bool:
        """Whether these questions tell what the model makes of new ones."""
        return self.split in self.held_out

    @classmethod
    def suits(cls, source: Mapping[str, Any]) -> bool:
        """Whether a model whose corpus came from `source` (the corpus manifest's own words) can be asked this."""
        return True

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def example(self, i: int) -> Conversation:
        """Item `i`: the question, ending with the reference reply of the assistant."""

    @abstractmethod
    def grade(self, conversation: Conversation, reply: str) -> bool:
        """True if `reply` answers the last question of `conversation` (whose reference reply may be consulted)."""

    def grade_all(self, asked: Sequence[tuple[Conversation, str]]) -> list[bool]:
        """Grades of many (conversation, reply), in their order; a task that runs programs does so side by side."""
        return [self.grade(conversation, reply) for conversation, reply in asked]

    def reward(self, conversation: Conversation, reply: str) -> float:
        """What reinforcement learning pays for `reply`. Not more than 1; the grade, unless a task says otherwise."""
        return float(self.grade(conversation, reply))

    def notes(self) -> dict[str, Any]:
        """What is stored beside the score: circumstances of the grading that a reader should know."""
        return {}

    def family(self, i: int) -> str:
        """Skill that item `i` tests. `a/b` is kind `b` of family `a`: both are reported."""
        return self.name

    def letters(self, i: int) -> tuple[str, ...]:
        """What may be answered to item `i` of a task of kind `choice`."""
        return ()

    def label(self, i: int) -> str | None:
        """The short answer to item `i` (`85`, `park`), which the majority baseline counts. None: there is none."""
        return None

    def shortcut(self, i: int) -> str | None:
        """What a cheap trick answers to item `i` without understanding it, in the form of `label`. None: no trick."""
        return None


class Subset(Task):
    """Some items of a task, numbered anew."""

    def __init__(self, task: Task, items: Sequence[int]) -> None:
        self.task, self.items = task, items
        self.split, self.size, self.seed = task.split, task.size, task.seed

    @property
    def name(self) -> str:
        return self.task.name

    def __len__(self) -> int:
        return len(self.items)

    def example(self, i: int) -> Conversation:
        return self.task.example(self.items[i])

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return self.task.grade(conversation, reply)

    def reward(self, conversation: Conversation, reply: str) -> float:
        return self.task.reward(conversation, reply)

    def family(self, i: int) -> str:
        return self.task.family(self.items[i])

    def letters(self, i: int) -> tuple[str, ...]:
        return self.task.letters(self.items[i])

    def label(self, i: int) -> str | None:
        return self.task.label(self.items[i])


def majority_correct(labels: Iterable[str | None]) -> int | None:
    """How many items the single most frequent label gets right; None if any item has no label."""
    counts = Counter(labels)
    if not counts or None in counts:
        return None
    return max(counts.values())


def names() -> list[str]:
    """Names of all tasks, sorted."""
    return registry.names(package)


def task_class(name: str) -> type[Task]:
    """The class behind a task's name, before any of its data is read. Raises ConfigError that lists the tasks."""
    return registry.load(package, name, "task").TASK


def open_task(name: str, *, split: str | None = None, size: int | None = None, seed: int = 0) -> Task:
    """The task `name`, or a file of one's own conversations as one; without a split, its first held-out one.

    Raises ConfigError if there is no such task or split, and MissingArtifact naming the command that fetches its data.
    """
    if is_file(name):
        return registry.load(package, "customjson", "task").of_file(name, split=split, size=size, seed=seed)
    cls = task_class(name)
    if split is None and not cls.held_out:
        raise ConfigError(
            f"a task to train on, with nothing to measure: {name}",
            hint=f"choose one of: {', '.join(other for other in names() if task_class(other).held_out)}",
        )
    return cls(split=split or cls.held_out[0], size=size, seed=seed)


def open_for_training(name: str, *, size: int | None = None, seed: int = 0) -> Task:
    """The questions of a task to train on, without those that `open_for_selection` opens."""
    task = open_task(name, split="train", size=size, seed=seed)
    if is_file(name) or task.selection is not None:
        return task
    return Subset(task, [i for i in range(len(task)) if not is_set_apart(task.example(i))])


def open_for_selection(name: str, *, seed: int = 0) -> Task:
    """The questions of a task by which one may choose while training: never those that are reported in the end."""
    if is_file(name):
        return open_task(name, split="val", seed=seed)
    if (split := task_class(name).selection) is not None:
        return open_task(name, split=split, seed=seed)
    task = open_task(name, split="train", seed=seed)
    return Subset(task, [i for i in range(len(task)) if is_set_apart(task.example(i))])


def is_set_apart(conversation: Conversation) -> bool:
    """Whether a question is kept from training, where no split is: one in ten, by a hash; its answer plays no part."""
    asked = "\n".join(f"{m.role} {m.text}" for m in conversation.without_reply().messages)
    digest = hashlib.blake2b(asked.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) % SET_APART_ONE_IN == 0


def is_file(name: str) -> bool:
    """Whether a task is named by a file of conversations."""
    return name not in names() and Path(name).is_file()
