"""Which questions are never practised on, so that a run can be judged on the way without touching a test.

Where a task has a split to choose by, which no stage trains on, they are of that one. Elsewhere (a user's questions)
they are a tenth of those to train on, by a hash of the question itself: whichever pass or process draws it, it stays
out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nanochat_cli.core.tasks.base import Task, is_set_apart
from nanochat_cli.core.tokenizer.conversation import Conversation
from nanochat_cli.core.train.mixture import asked

_MOST_PASSES = 50
OpenTask = Callable[[int], Task]


@dataclass(frozen=True)
class Held:
    """A question that is held out: item `item` of a task."""

    task: Task
    item: int
    conversation: Conversation


@dataclass(frozen=True)
class HeldOut:
    """The questions that a run is judged by."""

    questions: list[Held]
    by_hash: bool
    """Whether they are a tenth of those to train on."""

    @property
    def asked(self) -> frozenset[str]:
        """The questions as strings: whatever else is trained on must not answer them."""
        return frozenset(asked(held.conversation) for held in self.questions)

    def is_out(self, conversation: Conversation) -> bool:
        """Return whether a training question is not to be practised."""
        return self.by_hash and is_set_apart(conversation)


def hold_out(train: OpenTask, val: OpenTask | None, items_of: Callable[[Task], list[int]], most: int) -> HeldOut:
    """Return up to `most` different questions of `val`; without it, or if that is empty, of those set apart of `train`.

    As many passes are opened as it takes; a task with the same questions in every pass ends it early.
    """
    if val is not None and len(val(0)):
        return HeldOut(_collect(val, items_of, most, lambda conversation: True), by_hash=False)
    return HeldOut(_collect(train, items_of, most, is_set_apart), by_hash=True)


def _collect(
    open_task: OpenTask, items_of: Callable[[Task], list[int]], most: int, fits: Callable[[Conversation], bool]
) -> list[Held]:
    found: dict[str, Held] = {}
    for turn in range(_MOST_PASSES if most else 0):
        task = open_task(turn)
        before = len(found)
        for item in items_of(task):
            conversation = task.example(item)
            if fits(conversation):
                found.setdefault(asked(conversation), Held(task, item, conversation))
        if len(found) >= most or len(found) == before:
            break
    return list(found.values())[:most]
