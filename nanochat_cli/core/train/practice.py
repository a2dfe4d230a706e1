"""What reinforcement learning practises on and is judged by: where its questions come from, how long replies may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.mixtures import USUAL, split_weight
from nanochat_cli.core.settings import RlConfig
from nanochat_cli.core.tasks import _user as user
from nanochat_cli.core.tasks.base import Task, is_file, open_task, task_class
from nanochat_cli.core.tokenizer.conversation import Conversation, Message
from nanochat_cli.core.train.rollouts import OpenTask, of_families

OF_A_FUNCTION = 256
"""Longest reply in tokens where only a reward function is known, which cannot say."""


def openers(cfg: RlConfig) -> tuple[OpenTask, OpenTask | None]:
    """Return how the questions of a pass are opened: those to practise on, and those of a split to choose by.

    None for the second if there is no such split: a user's function has none, a user's Task class may have one.
    """
    name, seed = cfg.rl.task, cfg.compute.seed
    if not user.is_user_task(name):
        split = "val" if is_file(name) else task_class(name).selection
        return _of(lambda split, seed: open_task(name, split=split, seed=seed), split, seed)
    found = user.load(name)
    if isinstance(found, type):
        return _of(lambda split, seed: found(split=split, seed=seed), found.selection, seed)
    only = user.FunctionTask(name.rpartition("/")[2], found, _questions(cfg))
    return lambda turn: only, None


def _of(opened: Callable[[str, int], Task], selection: str | None, seed: int) -> tuple[OpenTask, OpenTask | None]:
    return (
        lambda turn: opened("train", seed + turn),
        None if selection in (None, "train") else lambda turn: opened(selection, seed + turn),
    )


def _questions(cfg: RlConfig) -> list[Conversation]:
    """What a reward function is asked about: the file of --questions, else the chats of --data."""
    given = cfg.rl.questions
    if given is not None and given.endswith(".txt"):
        lines = Path(given).read_text(encoding="utf-8", errors="replace").splitlines()
        return [Conversation((Message("user", line.strip()),)) for line in lines if line.strip()]
    names = [given] if given else [split_weight(text)[0] for text in cfg.chats.data]
    return [conversation for name in names for conversation in read_chats(name)]


def items(task: Task, families: Sequence[str]) -> list[int]:
    """Return the items of these families; all where a split has its own families, as MMLU's by subject."""
    try:
        return of_families(task, families)
    except ConfigError:
        return list(range(len(task)))


def longest_reply(given: int | None, task: Task, context: int) -> int:
    """Return how many tokens a sampled reply may have: as given, else as the task says and as fits."""
    own = OF_A_FUNCTION if isinstance(task, user.FunctionTask) else task.max_reply_tokens
    return given or max(1, min(own, context - 1))


def not_replayed(cfg: RlConfig) -> str | None:
    """Return what to tell about conversations that would usually be mixed in and are not here; None if all are."""
    chats = cfg.chats
    if not chats.data and not chats.task:
        return "no conversations are mixed in: none are here (name some with --data FILE, or nanochat data download)"
    absent = [task for task in USUAL["sft"] if task not in chats.task]
    if chats.data or not absent or not set(chats.task) < set(USUAL["sft"]):
        return None
    return f"of the usual conversations to mix in, these were not downloaded, and are left out: {', '.join(absent)}"
