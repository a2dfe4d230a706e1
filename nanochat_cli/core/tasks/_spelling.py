"""What the two spelling tasks share: made-up questions about words that no other split has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nanochat_cli.core.tasks import _words
from nanochat_cli.core.tasks.base import Task


class SpellingTask(Task):
    """Questions made from (split, seed, number). A word of one split is in no question of another, of either task."""

    splits: ClassVar[tuple[str, ...]] = _words.SPLITS
    selection: ClassVar[str | None] = "val"
    endless: ClassVar[bool] = True
    num_train: ClassVar[int]
    num_held: ClassVar[int] = 1000

    def __init__(self, *, split: str = "test", size: int | None = None, seed: int = 0) -> None:
        super().__init__(split=split, size=size, seed=seed)
        self.words = _words.of_split(split)

    @classmethod
    def suits(cls, source: Mapping[str, Any]) -> bool:
        return not source.get("generator")

    def __len__(self) -> int:
        return self.size or (self.num_train if self.split == "train" else self.num_held)

    def check(self, i: int) -> None:
        """Raise IndexError for an item that the split does not have."""
        if not 0 <= i < len(self):
            raise IndexError(i)
