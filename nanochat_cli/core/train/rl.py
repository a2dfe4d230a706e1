"""Reinforcement learning: the model answers questions whose answers can be checked, and keeps what was right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from nanochat_cli.core import files
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.engine.generate import generate
from nanochat_cli.core.events import Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.runs import RunContext, checkpoint_steps
from nanochat_cli.core.settings import RlConfig, RlSection
from nanochat_cli.core.tasks import _user as user
from nanochat_cli.core.tasks.base import is_file
from nanochat_cli.core.tokenizer.conversation import render_prompt
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import data, device_batch, practice, rewards, selection, stage, tuning
from nanochat_cli.core.train.exam import Exam
from nanochat_cli.core.train.rollout_log import RolloutLog
from nanochat_cli.core.train.rollouts import (
    Plan,
    Questions,
    Rollout,
    Rollouts,
    as_event,
    counter_seed,
    read_reply,
)
from nanochat_cli.core.train.selection import Held
from nanochat_cli.core.units import many

_ROWS_PER_PASS = 32
_REPLIES_AT_A_TIME = 256
_SHOWN = 2
_CHECKED_QUESTIONS, _CHECKED_SAMPLES = 4, 8


def run(cfg: RlConfig, run: RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Practise on a task and return the result, with the score on held-out questions before and after."""
    model, tokenizer, origin = stage.source_model(cfg.source, "rl", dist, log)
    rl, seed = cfg.rl, cfg.compute.seed
    tuning.prepare(model, cfg.tune, seed=seed, log=log)
    opener, choosing = practice.openers(cfg)
    questions = Questions(opener, rl.families)  # that a family is unknown is told first
    out = selection.hold_out(opener, choosing, lambda task: practice.items(task, rl.families), rl.eval_examples)
    held = out.questions
    if out.by_hash:
        questions = Questions(opener, rl.families, out.is_out)
    longest = practice.longest_reply(rl.max_new_tokens, opener(0), model.config.max_seq_len)
    player = Player(model, tokenizer, rl, longest)
    replay, facts = _replay(cfg, model, tokenizer, log, without=out.asked)
    plan = Plan(prompts_per_step=rl.prompts_per_step, num_samples=rl.num_samples, seed=seed, replay=rl.replay)
    record = RolloutLog(run.dir, rl.log_rollouts, log, resumed_at=_resumed_at(run)).add if dist.is_main else _no_record
    rollouts = Rollouts(plan, questions, player.sample, tokenizer, dist, replay, record)
    exam = Exam(player, held, dist, every=_exam_every(cfg), num_samples=rl.num_samples)
    # Rows of many widths and no long run: compiling would cost more than it brings.
    compute = dataclasses.replace(cfg.compute, compile="off")
    tokens = rl.prompts_per_step * rl.num_samples * longest
    how = stage.execution(
        model, compute, run, dist, log, device_batch_size=_ROWS_PER_PASS, planned_tokens=tokens * rl.num_iterations
    )
    log.note(
        f"{many(rl.num_iterations, 'step')} of {many(rl.prompts_per_step, 'question')} "
        f"with {rl.num_samples} answers each, "
        f"on {rl.task}: {', '.join(rl.families or opener(0).practice) or 'all families'}"
    )
    if rl.eval_examples and not held:
        log.warning("too few questions to hold some out: nothing is measured on the way")
    model.set_precision(how.dtype)
    model.set_attention(how.attention)
    if dist.is_main and not run.resume:
        _check_reward(questions, player, rl.num_samples, log)
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
        facts={"data": facts, "parent": origin.as_parent(), "task": _task_facts(rl, held)},
    )


def _check_reward(questions: Questions, player: Player, num_samples: int, log: Log) -> None:
    """Sample a few answers before the start and look whether the reward can be trained on."""
    asked = [questions[number] for number in range(_CHECKED_QUESTIONS)]
    n, tokenizer = min(num_samples, _CHECKED_SAMPLES), player.tokenizer
    prompts = [render_prompt(tokenizer, conversation) for _, conversation in asked for _ in range(n)]
    replies = player.sample(prompts, [counter_seed(78, k) for k in range(len(prompts))])
    texts, ended_well = zip(*(read_reply(tokenizer, reply) for reply in replies), strict=True)
    pairs = [(conversation, texts[i * n : (i + 1) * n]) for i, (_, conversation) in enumerate(asked)]
    cut = sum(not reply or reply[-1] not in player.stop_ids for reply in replies)
    rewards.warn_of_cut(cut, len(replies), player.longest, log)
    rewards.check(asked[0][0], pairs, log, ended_well=ended_well)


def _task_facts(rl: RlSection, held: Sequence[Held]) -> dict[str, Any]:
    """What a checkpoint records about the task: files of a user's with their hashes."""
    path = Path(rl.task.rpartition(":")[0] if user.is_user_task(rl.task) else rl.task)
    facts: dict[str, Any] = {"name": rl.task}
    if path.is_file() and (user.is_user_task(rl.task) or is_file(rl.task)):
        facts["sha256"] = files.sha256_file(path)
    if rl.questions is not None:
        facts["questions_sha256"] = files.sha256_file(Path(rl.questions))
    split = held[0].task.split if held else None
    return {**facts, "held_out_questions": len(held), "held_out_split": split}


def _resumed_at(run: RunContext) -> int | None:
    """The step that a resumed run goes on from; None for a fresh start."""
    if not run.resume:
        return None
    steps = checkpoint_steps(run.dir)
    return run.resume_step if run.resume_step is not None else steps[-1] if steps else 0


def _exam_every(cfg: RlConfig) -> int:
    """As asked for; where the best step is to be kept, five times; else at the start and the end only."""
    every = cfg.eval.eval_every or (cfg.rl.num_iterations // 5 if cfg.save.keep_best else cfg.rl.num_iterations)
    return max(1, every)


def _no_record(step: int, groups: Sequence[Sequence[Rollout]]) -> None:
    """The main process writes, of its own share."""


def _replay(
    cfg: RlConfig, model: LanguageModel, tokenizer: Tokenizer, log: Log, *, without: Set[str]
) -> tuple[Batches | None, dict[str, Any]]:
    """Supervised batches to mix in, about as many tokens as are sampled, and what to record about them.

    They answer no question `without`: the run is judged by those.
    """
    if cfg.rl.replay and (left_out := practice.not_replayed(cfg)):
        log.note(left_out)
    if not cfg.rl.replay or not (cfg.chats.data or cfg.chats.task):
        return None, {}
    seq_len, seed = model.config.max_seq_len, cfg.compute.seed
    rows = data.chat_rows(cfg.chats.data, tokenizer, seq_len, log, tasks=cfg.chats.task, seed=seed, without=without)
    per_step = max(1, cfg.rl.prompts_per_step * cfg.rl.num_samples // 8)
    return Batches(rows.train, rows_per_step=per_step, seed=seed), rows.facts


def _sample_every(cfg: RlConfig) -> int | None:
    """Runs are short: show answers at least five times."""
    every = cfg.eval.sample_every
    return None if every is None else min(every, max(1, cfg.rl.num_iterations // 5))


class Player:
    """The model as one that answers prompts, sampled or greedily."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, rl: RlSection, longest: int) -> None:
        self.model, self.tokenizer, self.rl, self.longest = model, tokenizer, rl, longest
        self.stop_ids = {tokenizer.special("assistant_end"), tokenizer.bos_id}
        self.at_a_time = _REPLIES_AT_A_TIME

    def sample(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """Return one sampled reply to each prompt."""
        rl = self.rl
        return self._fitting(prompts, seeds, max_new_tokens=self.longest, temperature=rl.temperature, top_k=rl.top_k)

    def answer(self, prompts: list[list[int]], longest: int) -> list[list[int]]:
        """Return the likeliest reply to each prompt."""
        return self._fitting(prompts, None, max_new_tokens=min(longest, self.longest))

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
                    self.model,
                    prompts,
                    seeds=seeds,
                    stop_ids=self.stop_ids,
                    batch_size=self.at_a_time,
                    tools=self.tokenizer,
                    **options,
                )
            except Exception as problem:
                if not device_batch.is_oom(problem) or self.at_a_time == 1:
                    raise
            self.at_a_time //= 2
            device_batch.release(self.model.device)


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
