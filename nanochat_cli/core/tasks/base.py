"""What every task offers: numbered conversations, a grader, and the baselines a score is read against."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import nanochat_cli.core.tasks as package
from nanochat_cli.core import registry
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.tokenizer.conversation import Conversation


class Task(ABC):
    """A list of questions. Item *i* is a pure function of (split, seed, i), so any subset can be drawn by any process.

    A file `core/tasks/<name>.py` holds one subclass and ends with `TASK = <the class>`.
    """

    kind: ClassVar[Literal["generative", "choice"]] = "generative"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    held_out: ClassVar[tuple[str, ...]] = ("test",)
    """Splits worth measuring: none of their keys appears in training."""
    max_reply_tokens: ClassVar[int] = 64
    """Longest reply worth waiting for; a longer one counts as not stopped."""

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

    def reward(self, conversation: Conversation, reply: str) -> float:
        """What reinforcement learning pays for `reply`. Not more than 1; the grade, unless a task says otherwise."""
        return float(self.grade(conversation, reply))

    def family(self, i: int) -> str:
        """Skill that item `i` tests. `a/b` is kind `b` of family `a`: both are reported."""
        return self.name

    def label(self, i: int) -> str | None:
        """The short answer to item `i` (`85`, `park`), which the majority baseline counts. None: there is none."""
        return None

    def shortcut(self, i: int) -> str | None:
        """What a cheap trick answers to item `i` without understanding it, in the form of `label`. None: no trick."""
        return None


def majority_correct(labels: Iterable[str | None]) -> int | None:
    """How many items the single most frequent label gets right; None if any item has no label."""
    counts = Counter(labels)
    if not counts or None in counts:
        return None
    return max(counts.values())


def names() -> list[str]:
    """Names of all tasks, sorted."""
    return registry.names(package)


def open_task(name: str, *, split: str | None = None, size: int | None = None, seed: int = 0) -> Task:
    """The task `name`, ready to use; without a split, its first held-out one.

    Raises ConfigError if there is no such task or split.
    """
    cls: type[Task] = registry.load(package, name, "task").TASK
    return cls(split=split or cls.held_out[0], size=size, seed=seed)
