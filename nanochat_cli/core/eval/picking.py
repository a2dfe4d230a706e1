"""Which questions of a task are asked, and a fingerprint of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from nanochat_cli.core import files
from nanochat_cli.core.data.tinyworld.rng import hash64
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.tasks.base import Task

DEFAULT_LIMIT = 200


def how_many(limit: int | Literal["all"] | None) -> int | None:
    """The limit that an option means; None: no limit."""
    return DEFAULT_LIMIT if limit is None else None if limit == "all" else limit


def pick(task: Task, limit: int | None) -> list[int]:
    """At most `limit` items, in order. Raises ConfigError for a task without items.

    Of made questions, which alternate between families, the first of each family; of a data set, whose order may mean
    something, a subset drawn by seed from the whole, so that the mix stays as it is. A smaller limit draws a part of
    what a larger one does.
    """
    if not len(task):
        raise ConfigError(f"task has no questions: {task.name}")
    everything = list(range(len(task)))
    if limit is None or limit >= len(everything):
        return everything
    if task.endless:
        return _first_of_each(task, limit)
    drawn = sorted(everything, key=lambda i: hash64(f"{task.name}/{task.split}/{task.seed}/{i}"))
    return sorted(drawn[:limit])


def _first_of_each(task: Task, limit: int) -> list[int]:
    taken: dict[str, int] = {}
    items = []
    for i in range(len(task)):
        family = task.family(i)
        if taken.get(family, 0) < limit:
            taken[family] = taken.get(family, 0) + 1
            items.append(i)
    return items


def fingerprint(task: Task, items: Sequence[int]) -> str:
    """A hash of the questions and the right answers: answers kept of others must not be taken over."""
    return files.sha256_json([(i, task.example(i).to_json(), task.label(i)) for i in items])
