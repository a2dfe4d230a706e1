"""Training on conversations, which mid-training and fine-tuning share: they differ in which tokens are targets."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Log
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import MidTrainConfig, SftConfig
from nanochat_cli.core.train import data, hooks, schedule, stage, tuning
from nanochat_cli.core.units import many


def train(cfg: MidTrainConfig, run: RunContext, dist: Dist, log: Log, *, all_tokens: bool) -> dict[str, Any]:
    """Train a model on chats, with a fresh optimizer, and return the result. Automatic sizes of `cfg` are settled."""
    model, tokenizer, origin = stage.source_model(cfg.source, run.stage, dist, log)
    if isinstance(cfg, SftConfig):
        tuning.prepare(model, cfg.tune, seed=cfg.compute.seed, log=log)
    seq_len, batch = model.config.max_seq_len, stage.settled(cfg.batch, model, cfg.compute, run, dist, log)
    chats, seed = cfg.chats, cfg.compute.seed
    rows = data.chat_rows(chats.data, tokenizer, seq_len, log, tasks=chats.task, seed=seed, all_tokens=all_tokens)
    batches = Batches(rows.train, rows_per_step=batch.total // seq_len, seed=seed)
    horizon = schedule.epoch_horizon(
        num_iterations=cfg.horizon.num_iterations,
        num_epochs=cfg.horizon.num_epochs,
        num_rows=rows.train.num_rows,
        rows_per_step=batches.rows_per_step,
    )
    log.note(
        f"{many(rows.facts['conversations'], 'conversation')} in {many(rows.train.num_rows, 'row')} "
        f"({rows.train.padding_fraction:.1%} padding), {many(horizon.num_steps, 'step')} of {batch.total:,} tokens, "
        f"{many(batches.epochs(horizon.num_steps), 'pass', 'passes', '.2g')}"
    )
    how = stage.execution(
        model,
        cfg.compute,
        run,
        dist,
        log,
        device_batch_size=batch.device,
        planned_tokens=horizon.num_steps * batch.total,
    )
    return stage.train(
        cfg,
        run,
        dist,
        log,
        model=model,
        tokenizer=tokenizer,
        batches=batches,
        num_steps=horizon.num_steps,
        tokens_per_step=batch.total,
        device_batch_size=batch.device,
        how=how,
        hooks=hooks.for_chat(cfg.eval, model, tokenizer, rows, dist, batch.device),
        facts={"data": rows.facts, "horizon": horizon.reason, "parent": origin.as_parent()},
        prefetch=True,
    )
