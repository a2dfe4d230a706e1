"""Batches that the model writes itself: answers are sampled, graded, and weighted against the usual ones.

REINFORCE with the mean reward of a question's answers as baseline (no division by their deviation, no ratio, no
penalty), normalised over all sampled tokens of the step. What the model sampled is what is trained, the stop token
included: a model that is not paid for stopping unlearns it. Everything is a function of (seed, step) and the weights.

Tensor suffixes: B rows, T positions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat_cli.core.data.loader import IGNORE, Batches, count_targets
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.engine import tools
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.tasks.base import Task
from nanochat_cli.core.tokenizer.conversation import Conversation, render_prompt
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import rewards
from nanochat_cli.core.train.loop import Micro

Sampler = Callable[[list[list[int]], list[int]], list[list[int]]]
"""Prompts and one seed for each in; sampled tokens out, with the stop token if one was produced."""
OpenTask = Callable[[int], Task]
"""The training questions in the order of a pass; every pass may draw others."""
_MASK = 2**64 - 1


def counter_seed(*counters: int) -> int:
    """Return 63 random bits that are a function of the counters alone (SplitMix64, applied to each in turn)."""
    state = 0
    for counter in counters:
        z = (state ^ (counter & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        state = z ^ z >> 31
    return state >> 1


ALL = "all"


def of_families(task: Task, families: Sequence[str]) -> list[int]:
    """Return the items of the families asked for; `a` includes `a/b`. Raises ConfigError for others.

    None at all means those that the task itself names for practice; "all" means all.
    """
    known = [task.family(i) for i in range(len(task))]
    wanted = set() if ALL in families else set(families or task.practice)
    found = [i for i, family in enumerate(known) if not wanted or {family, family.partition("/")[0]} & wanted]
    if missing := wanted - {name for family in known for name in (family, family.partition("/")[0])}:
        raise ConfigError(
            f"task {task.name} has no such family: {', '.join(sorted(missing))}",
            hint=f"choose from: {', '.join(dict.fromkeys(known))}",
        )
    return found


class Questions:
    """An endless list of training questions: each pass through the task may bring new ones.

    Those for which `is_held_out` is true are left out. Raises ConfigError if nothing is left.
    """

    def __init__(
        self,
        open_task: OpenTask,
        families: Sequence[str],
        is_held_out: Callable[[Conversation], bool] = lambda conversation: False,
    ) -> None:
        self._open, self._families, self._is_held_out = open_task, families, is_held_out
        self._turn = -1
        self._task, self._items = self._of_turn(0)
        self._per_pass = len(self._items)

    def __getitem__(self, number: int) -> tuple[Task, Conversation]:
        """The question of this number, with the task that grades it."""
        turn, place = divmod(number, self._per_pass)
        self._task, self._items = self._of_turn(turn)
        return self._task, self._task.example(self._items[place % len(self._items)])

    def _of_turn(self, turn: int) -> tuple[Task, list[int]]:
        if turn == self._turn:
            return self._task, self._items
        self._turn = turn
        task = self._open(turn)
        items = [i for i in of_families(task, self._families) if not self._is_held_out(task.example(i))]
        if not items:
            raise ConfigError(f"task {task.name} has no question to practise on", hint="it needs more questions")
        return task, items


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One sampled answer."""

    prompt: list[int]
    reply: list[int]
    question: str
    text: str
    reward: float
    forced: tuple[bool, ...] = ()
    """Which tokens of the reply are a tool's; empty if none is."""

    @property
    def num_sampled(self) -> int:
        """Tokens of the reply that the model has written itself."""
        return len(self.reply) - sum(self.forced)


Record = Callable[[int, Sequence[Sequence[Rollout]]], None]
"""Told of each step, counted from 1, and of its graded answers, a group for each question."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is sampled per step. `replay` is the weight of the supervised rows mixed in."""

    prompts_per_step: int
    num_samples: int
    seed: int
    replay: float = 0.0


class Rollouts:
    """Training batches made of sampled answers, and of supervised rows that keep other skills."""

    made_by_the_model = True  # with its present weights: never made in advance, and making them is no waiting for data

    def __init__(
        self,
        plan: Plan,
        questions: Questions,
        sampler: Sampler,
        tokenizer: Tokenizer,
        dist: Dist,
        replay: Batches | None,
        record: Record = lambda step, groups: None,
    ) -> None:
        self.record = record
        self.plan, self.questions, self.sampler, self.tokenizer, self.dist = plan, questions, sampler, tokenizer, dist
        self.replay = replay if plan.replay else None
        self.latest: list[Rollout] = []
        self._told: dict[str, float] = {}

    def step(
        self, step: int, rank: int = 0, world: int = 1, device_batch_size: int | None = None
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return this rank's micro-batches: (x_BT, y_BT, w_BT) with y -1 off the sampled tokens and w as said below.

        The loop divides by the number of targets D of all ranks. A sampled token weighs (reward - group mean) * D / N,
        N being all sampled tokens; a replayed one weighs replay * D / R, R being all replayed targets.
        """
        began = time.perf_counter()
        first = step * self.plan.prompts_per_step
        mine = range(first + rank, first + self.plan.prompts_per_step, world)
        groups = self.sample(step, mine)
        self.latest = [rollout for group in groups for rollout in group]
        self.record(step + 1, groups)
        seconds = time.perf_counter() - began
        rows = [pair for group in groups for pair in advantages(group)]
        supervised = self.replay.step(step, rank, world, device_batch_size) if self.replay else []
        sampled, active, replayed = self._count(groups, rows, supervised, seconds)
        total = active + replayed
        size = device_batch_size or max(1, len(rows))
        micros = [
            pad([(r, a * total / max(1, sampled)) for r, a in rows[at : at + size]], self.tokenizer.bos_id)
            for at in range(0, len(rows), size)
        ]
        scale = self.plan.replay * total / max(1, replayed)
        return micros + [(x, y, torch.full(y.shape, scale)) for x, y in supervised]

    def extras(self) -> dict[str, float]:
        """Return what the latest step adds to its event."""
        return self._told

    def sample(self, step: int, numbers: Iterable[int]) -> list[list[Rollout]]:
        """Return the graded answers to these questions, one group each."""
        asked = [self.questions[number] for number in numbers]
        prompts = [render_prompt(self.tokenizer, conversation) for _, conversation in asked]
        n = self.plan.num_samples
        seeds = [counter_seed(self.plan.seed, step, number, k) for number in numbers for k in range(n)]
        replies = self.sampler([prompt for prompt in prompts for _ in range(n)], seeds)
        return [
            [self._judge(task, c, prompt, reply) for reply in replies[i * n : (i + 1) * n]]
            for i, ((task, c), prompt) in enumerate(zip(asked, prompts, strict=True))
        ]

    def _judge(self, task: Task, conversation: Conversation, prompt: list[int], reply: list[int]) -> Rollout:
        text, well_formed = read_reply(self.tokenizer, reply)
        question = next(m.text for m in reversed(conversation.messages) if m.role == "user")
        reward = rewards.paid(rewards.of(task, conversation, text), well_formed)
        forced = tuple(tools.forced(self.tokenizer, reply))
        forced = forced if any(forced) else ()
        return Rollout(prompt=prompt, reply=reply, question=question, text=text, reward=reward, forced=forced)

    def _count(
        self,
        groups: list[list[Rollout]],
        rows: list[tuple[Rollout, float]],
        supervised: Sequence[Micro],
        seconds: float,
    ) -> tuple[int, int, int]:
        """Sampled tokens, those with an advantage, and replayed targets, over all ranks; fills `extras`."""
        every = [rollout for group in groups for rollout in group]
        sums = [
            sum(r.num_sampled for r in every),
            sum(r.num_sampled for r, _ in rows),
            sum(map(count_targets, supervised)),
            len(every),
            sum(r.reward for r in every),
            sum(not advantages(group) for group in groups),
            len(groups),
        ]
        total = self.dist.all_reduce_sum(torch.tensor(sums, dtype=torch.float64, device=self.dist.device)).tolist()
        sampled, active, replayed, count, reward, flat, asked = total
        self._told = {
            "reward": reward / max(1, count),
            "reply_tokens": sampled / max(1, count),
            "groups": int(asked),
            "groups_without_contrast": int(flat),
            "rollouts": int(count),
            "rollout_tokens_per_s": sampled / seconds,
        }
        return int(sampled), int(active), int(replayed)


def read_reply(tokenizer: Tokenizer, reply: Sequence[int]) -> tuple[str, bool]:
    """Return a reply's text, and whether it ended by itself and holds no other special token."""
    stopped = bool(reply) and reply[-1] == tokenizer.special("assistant_end")
    body = list(reply[:-1] if stopped else reply)
    return tokenizer.decode(body), stopped and not any(map(tokenizer.is_special, tools.without_calls(tokenizer, body)))


def advantages(group: Sequence[Rollout]) -> list[tuple[Rollout, float]]:
    """Return each answer with its reward minus the group's mean; nothing if all were paid alike."""
    mean = sum(r.reward for r in group) / len(group)
    if all(r.reward == group[0].reward for r in group):
        return []
    return [(r, r.reward - mean) for r in group]


def pad(rows: Sequence[tuple[Rollout, float]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x_BT, y_BT, w_BT) of some answers: the targets are the sampled tokens, each with its answer's weight.

    What a tool said was not sampled.
    """
    longest = max(len(r.prompt) + len(r.reply) for r, _ in rows) - 1
    x_BT = torch.full((len(rows), longest), pad_id)
    y_BT = torch.full((len(rows), longest), IGNORE)
    w_BT = torch.zeros(len(rows), longest)
    for b, (rollout, weight) in enumerate(rows):
        ids = torch.tensor(rollout.prompt + rollout.reply)
        start, end = len(rollout.prompt) - 1, len(ids) - 1
        x_BT[b, :end] = ids[:-1]
        y_BT[b, start:end] = ids[start + 1 :]
        if rollout.forced:
            y_BT[b, start:end].masked_fill_(torch.tensor(rollout.forced), IGNORE)
        w_BT[b, start:end] = weight
    return x_BT, y_BT, w_BT


def as_event(rollout: Rollout) -> dict[str, Any]:
    """Return a rollout as the fields of a `sample` event."""
    return {"prompt": rollout.question, "text": rollout.text, "reward": rollout.reward}
