"""How good a model in practice is: its answers to questions that are neither practised on nor reported.

Once greedily, and once sampled as in practice, several times each, which gives pass@k without bias and the mean reward
by which steps are selected. No test is touched: that is what `nanochat eval` asks, once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import torch

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.eval import chat, passk
from nanochat_cli.core.eval.intervals import wilson
from nanochat_cli.core.events import Log
from nanochat_cli.core.tokenizer.conversation import render_prompt
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import rewards, rollouts
from nanochat_cli.core.train.rollouts import counter_seed
from nanochat_cli.core.train.selection import Held

REWARD = "held_out_reward"
_SEED = 77
_SAMPLED_SHARE = 4
"""One in so many questions is asked with sampling, which takes many answers each."""


class Player(Protocol):
    """A model that answers prompts; `tokenizer` is its own."""

    tokenizer: Tokenizer

    def sample(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]: ...
    def answer(self, prompts: list[list[int]], longest: int) -> list[list[int]]: ...


class Exam:
    """Asks the held-out questions at the start, every so many steps, and at the end."""

    name = "held-out questions"

    def __init__(self, player: Player, questions: Sequence[Held], dist: Dist, *, every: int, num_samples: int) -> None:
        self.every = every if questions else None
        self.at_start = bool(questions)
        self._player, self._questions, self._dist, self._n = player, list(questions), dist, num_samples

    def run(self, step: int, log: Log) -> dict[str, float]:
        when = "before" if step == 0 else "after"
        task = self._questions[0].task
        head = {"step": step, "task": task.name, "split": "train, held out" if task.split == "train" else task.split}
        correct, total = self._greedy()
        low, high = wilson(correct, total)
        value = correct / total
        log.emit("eval", **head, metric="accuracy", value=value, correct=correct, total=total, low=low, high=high)
        found = {"accuracy": value, "accuracy_low": low, "accuracy_high": high}
        asked, passed, reward = self._sampled()
        for k, share in passed.items():
            log.emit("eval", **head, metric=f"pass@{k}", value=share, total=asked, samples=self._n)
            found[f"pass@{k}"] = share
        log.emit("eval", **head, metric=REWARD, value=reward, total=asked, samples=self._n)
        return {f"{name}_{when}": value for name, value in found.items()} | {
            REWARD: reward,
            "questions": len(self._questions),
        }

    def _mine(self, questions: Sequence[Held]) -> list[Held]:
        return list(questions[self._dist.rank :: self._dist.world])

    def _summed(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, so that all of them know, and select, the same."""
        mine = torch.tensor(values, dtype=torch.float64, device=self._dist.device)
        return self._dist.all_reduce_sum(mine).tolist()

    def _greedy(self) -> tuple[int, int]:
        correct = 0
        for _, group in groupby(self._mine(self._questions), key=lambda held: id(held.task)):
            same = list(group)
            items = [held.item for held in same]
            graded = chat.predict(same[0].task, items, self._player.tokenizer, self._player.answer)
            correct += sum(prediction.correct for prediction in graded)
        return int(self._summed([correct])[0]), len(self._questions)

    def _sampled(self) -> tuple[int, dict[int, float], float]:
        """Questions asked, pass@k by k, and the mean reward."""
        part = self._questions[::_SAMPLED_SHARE] if len(self._questions) > _SAMPLED_SHARE else self._questions
        numbered = list(enumerate(part))[self._dist.rank :: self._dist.world]
        tokenizer, n = self._player.tokenizer, self._n
        prompts = [render_prompt(tokenizer, held.conversation) for _, held in numbered for _ in range(n)]
        seeds = [counter_seed(_SEED, number, k) for number, _ in numbered for k in range(n)]
        replies = self._player.sample(prompts, seeds) if prompts else []
        ks, reward = passk.told(n), 0.0
        passed = dict.fromkeys(ks, 0.0)
        for place, (_, held) in enumerate(numbered):
            right = 0
            for reply in replies[place * n : (place + 1) * n]:
                text, well_formed = rollouts.read_reply(tokenizer, reply)
                right += well_formed and held.task.grade(held.conversation, text)
                reward += rewards.paid(rewards.of(held.task, held.conversation, text), well_formed)
            for k in ks:
                passed[k] += passk.pass_at_k(n, right, k)
        *sums, total = self._summed([*passed.values(), reward])
        return len(part), {k: s / len(part) for k, s in zip(ks, sums, strict=True)}, total / (len(part) * n)
