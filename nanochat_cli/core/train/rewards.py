"""Rewards that can be trained on: numbers from -1 to 1 that tell better answers from worse ones.

A reward that is the same for everything trains nothing and looks like success, so it is looked for before the start.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.events import Log
from nanochat_cli.core.tasks.base import Task
from nanochat_cli.core.tokenizer.conversation import Conversation

CUT_ONE_IN = 10
_NONSENSE = ("", "zqx", "I do not know what you mean by that, but let me say something long all the same. " * 3)


def of(task: Task, conversation: Conversation, reply: str) -> float:
    """Return the reward of a reply. Raises ConfigError if it cannot be computed, or is no number from -1 to 1."""
    try:
        found = task.reward(conversation, reply)
    except Exception as problem:
        raise ConfigError(
            f"the reward of {task.name} failed: {type(problem).__name__}: {problem}",
            hint=f"it was asked about the reply {_brief(reply)}",
        ) from problem
    if not isinstance(found, numbers.Real) or math.isnan(found):
        raise ConfigError(
            f"the reward of {task.name} is not a number: {_brief(found)}",
            hint=f"it was asked about the reply {_brief(reply)}",
        )
    value = float(found)
    if not -1 <= value <= 1:
        raise ConfigError(
            f"the reward of {task.name} is not between -1 and 1: {value:g}",
            hint=f"scale it; it was asked about the reply {_brief(reply)}",
        )
    return value


def paid(reward: float, well_formed: bool) -> float:
    """Return what a reply earns: one that does not end well earns nothing, and keeps a penalty for what it says."""
    return reward if well_formed else min(0.0, reward)


def check(
    task: Task,
    asked: Sequence[tuple[Conversation, Sequence[str]]],
    log: Log,
    *,
    ended_well: Sequence[bool] | None = None,
) -> None:
    """Look whether a reward tells answers apart, by the replies that a model sampled to some questions.

    Also tried are nonsense, and the reference where there is one. `ended_well` is for all replies in order, None if
    each did. Raises ConfigError if the reward cannot be used, or is constant though it should not be; warns if only the
    sampled answers are paid alike.
    """
    sampled = [of(task, conversation, reply) for conversation, replies in asked for reply in replies]
    earned = list(map(paid, sampled, ended_well or [True] * len(sampled)))
    references = [
        of(task, conversation, conversation.messages[-1].text)
        for conversation, _ in asked
        if conversation.messages[-1].role == "assistant"
    ]
    nonsense = [of(task, conversation, reply) for conversation, _ in asked for reply in _NONSENSE]
    if not sampled:
        return
    if len({*sampled, *references, *nonsense}) > 1:
        if len(set(earned)) == 1:
            log.warning(
                f"all {len(earned)} answers sampled to start with earn {earned[0]:g}: as long as they do, nothing is "
                "learned (easier questions, or more fine-tuning first, may help)"
            )
    elif sampled[0] == 0 and not references:
        log.warning(f"{len(sampled)} sampled answers, and nonsense, all earn 0: is the reward of {task.name} right?")
    else:
        also = ", the reference answers too" if references else ""
        raise ConfigError(
            f"the reward of {task.name} is the same for every answer, nonsense included{also}: {sampled[0]:g}",
            hint="it must tell better answers from worse ones; look at what it is given and what it returns",
        )


def warn_of_cut(num_cut: int, num: int, longest: int, log: Log) -> None:
    """Say how many of the answers sampled to start with were cut at `longest` tokens, if it is more than a few."""
    if num_cut * CUT_ONE_IN >= num > 0:
        log.warning(
            f"{num_cut} of {num} answers sampled to start with ({num_cut / num:.0%}) were cut, and a cut one earns "
            f"nothing: --max-new-tokens is {longest}"
        )


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
