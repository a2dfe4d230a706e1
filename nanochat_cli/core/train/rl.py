"""Reinforcement learning: the model answers questions whose answers can be checked, and keeps what was right."""

from __future__ import annotations

import dataclasses
from typing import Any

from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.engine.generate import generate
from nanochat_cli.core.eval import chat
from nanochat_cli.core.eval.intervals import wilson
from nanochat_cli.core.events import Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import RlConfig, RlSection
from nanochat_cli.core.tasks.base import Task, open_task
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import data, device_batch, stage
from nanochat_cli.core.train.rollouts import Plan, Questions, Rollouts, as_event, counter_seed, of_families
from nanochat_cli.core.units import many

_ROWS_PER_PASS = 32
_REPLIES_AT_A_TIME = 256
_SHOWN = 2


def run(cfg: RlConfig, run: RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Practise on a task and return the result, with the score on held-out questions before and after."""
    model, tokenizer, origin = stage.source_model(cfg.source, "rl", dist, log)
    rl, seed = cfg.rl, cfg.compute.seed
    player = Player(model, tokenizer, rl)
    questions = Questions(lambda turn: open_task(rl.task, split="train", seed=seed + turn), rl.families)
    replay, facts = _replay(cfg, model, tokenizer, log)
    plan = Plan(prompts_per_step=rl.prompts_per_step, num_samples=rl.num_samples, seed=seed, replay=rl.replay)
    rollouts = Rollouts(plan, questions, player.sample, tokenizer, dist, replay)
    exam = Exam(player, open_task(rl.task, seed=seed), dist, every=rl.num_iterations)
    # Rows of many widths and no long run: compiling would cost more than it brings.
    compute = dataclasses.replace(cfg.compute, compile="off")
    tokens = rl.prompts_per_step * rl.num_samples * rl.max_new_tokens
    how = stage.execution(
        model, compute, run, dist, log, device_batch_size=_ROWS_PER_PASS, planned_tokens=tokens * rl.num_iterations
    )
    log.note(
        f"{many(rl.num_iterations, 'step')} of {many(rl.prompts_per_step, 'question')} "
        f"with {rl.num_samples} answers each, "
        f"on {rl.task}: {', '.join(rl.families) or 'all families'}"
    )
    return stage.train(
        cfg,
        run,
        dist,
        log,
        model=model,
        tokenizer=tokenizer,
        batches=rollouts,
        num_steps=rl.num_iterations,
        tokens_per_step=tokens,
        device_batch_size=_ROWS_PER_PASS,
        how=how,
        hooks=[exam, Shown(rollouts, dist, every=_sample_every(cfg))],
        facts={"data": facts, "parent": origin.as_parent()},
    )


def _replay(
    cfg: RlConfig, model: LanguageModel, tokenizer: Tokenizer, log: Log
) -> tuple[Batches | None, dict[str, Any]]:
    """Supervised batches to mix in, about as many tokens as are sampled, and what to record about them."""
    if not cfg.rl.replay or not cfg.chats.data:
        return None, {}
    rows = data.chat_rows(cfg.chats.data, tokenizer, model.config.max_seq_len, log)
    per_step = max(1, cfg.rl.prompts_per_step * cfg.rl.num_samples // 8)
    return Batches(rows.train, rows_per_step=per_step, seed=cfg.compute.seed), rows.facts


def _sample_every(cfg: RlConfig) -> int | None:
    """Runs are short: show answers at least five times."""
    every = cfg.eval.sample_every
    return None if every is None else min(every, max(1, cfg.rl.num_iterations // 5))


class Player:
    """The model as one that answers prompts, sampled or greedily."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, rl: RlSection) -> None:
        self.model, self.tokenizer, self.rl = model, tokenizer, rl
        self.stop_ids = {tokenizer.special("assistant_end"), tokenizer.bos_id}
        self.at_a_time = _REPLIES_AT_A_TIME

    def sample(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """Return one sampled reply to each prompt."""
        rl = self.rl
        return self._fitting(
            prompts, seeds, max_new_tokens=rl.max_new_tokens, temperature=rl.temperature, top_k=rl.top_k
        )

    def answer(self, prompts: list[list[int]], longest: int) -> list[list[int]]:
        """Return the likeliest reply to each prompt."""
        return self._fitting(prompts, None, max_new_tokens=min(longest, self.rl.max_new_tokens))

    def _fitting(self, prompts: list[list[int]], seeds: list[int] | None, **options: Any) -> list[list[int]]:
        """Replies within the context: a longer one is cut, and a prompt that leaves no room gets an empty one."""
        context = self.model.config.max_seq_len
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) < context]
        replies: list[list[int]] = [[] for _ in prompts]
        own_seeds = None if seeds is None else [seeds[i] for i in fits]
        written = self._written([prompts[i] for i in fits], own_seeds, **options)
        for i, reply in zip(fits, written, strict=True):
            replies[i] = reply[: context - len(prompts[i])]
        return replies

    def _written(self, prompts: list[list[int]], seeds: list[int] | None, **options: Any) -> list[list[int]]:
        """Replies as the engine writes them, half as many at a time from where memory runs out."""
        while True:
            try:
                return generate(
                    self.model, prompts, seeds=seeds, stop_ids=self.stop_ids, batch_size=self.at_a_time, **options
                )
            except Exception as problem:
                if not device_batch.is_oom(problem) or self.at_a_time == 1:
                    raise
            self.at_a_time //= 2
            device_batch.release(self.model.device)


class Exam:
    """The score on held-out questions of the families that are practised: greedy, and sampled as in practice."""

    name = "held-out questions"
    at_start = True

    def __init__(self, player: Player, task: Task, dist: Dist, *, every: int) -> None:
        rl = player.rl
        self.every = every if rl.eval_examples else None
        self.at_start = self.every is not None
        self._player, self._task, self._dist = player, task, dist
        self._items = of_families(task, rl.families)[: rl.eval_examples]

    def run(self, step: int, log: Log) -> dict[str, float]:
        if not self._dist.is_main:
            return {}
        player = self._player
        ways = {"accuracy": player.answer, "sampled_accuracy": self._sampled}
        found: dict[str, float] = {}
        when = "before" if step == 0 else "after"
        for metric, ways_of in ways.items():
            graded = chat.predict(self._task, self._items, player.tokenizer, ways_of)
            correct, total = sum(p.correct for p in graded), len(graded)
            low, high = wilson(correct, total)
            log.emit(
                "eval",
                step=step,
                metric=metric,
                value=correct / total,
                correct=correct,
                total=total,
                low=low,
                high=high,
                task=self._task.name,
                split=self._task.split,
                families=list(player.rl.families),
            )
            found |= {f"{metric}_{when}": correct / total, f"{metric}_{when}_low": low, f"{metric}_{when}_high": high}
        return {**found, "questions": len(self._items)}

    def _sampled(self, prompts: list[list[int]], longest: int) -> list[list[int]]:
        return self._player.sample(prompts, [counter_seed(77, k) for k in range(len(prompts))])


class Shown:
    """A few of the latest sampled answers, with their rewards."""

    name = "showing answers"
    at_start = False

    def __init__(self, rollouts: Rollouts, dist: Dist, *, every: int | None) -> None:
        self.every = every
        self._rollouts, self._dist = rollouts, dist

    def run(self, step: int, log: Log) -> dict[str, float]:
        latest = self._rollouts.latest
        if self._dist.is_main:
            for rollout in sorted(latest, key=lambda r: r.reward)[:: max(1, len(latest) - 1)][:_SHOWN]:
                log.emit("sample", step=step, **as_event(rollout))
        return {}
