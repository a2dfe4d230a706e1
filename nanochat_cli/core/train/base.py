"""Pretraining: raw text in, a model that guesses each next token out."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core import paths
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Log
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.build import build
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import BaseTrainConfig
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import data, hooks, schedule, stage


def run(cfg: BaseTrainConfig, run: RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Train a new model on a corpus and return the result in numbers. Every automatic size of `cfg` is settled."""
    corpus = Corpus.open(cfg.corpus.data or "")
    tokenizer = Tokenizer.load(paths.tokenizer_dir(cfg.corpus.tokenizer or corpus.name))
    m, batch = cfg.model, stage.settled(cfg.batch)
    net = shape.from_depth(
        m.depth,
        tokenizer.vocab_size,
        m.max_seq_len or 0,
        n_embd=m.n_embd,
        n_head=m.n_head,
        n_kv_head=m.n_kv_head,
        arch=m.arch,
        rope_base=m.rope_base,
        softcap=m.softcap,
    )
    model = build(net, seed=cfg.compute.seed, device=dist.device)
    rows = data.text_rows(corpus, tokenizer, net.max_seq_len, dist, log)
    batches = Batches(rows.train, rows_per_step=batch.total // net.max_seq_len, seed=cfg.compute.seed)
    horizon = schedule.base_horizon(
        num_iterations=cfg.horizon.num_iterations,
        target_flops=cfg.horizon.target_flops,
        target_param_data_ratio=cfg.horizon.target_param_data_ratio,
        num_params=shape.num_params(net),
        flops_per_token=shape.flops_per_token(net),
        tokens_per_step=batch.total,
    )
    planned = horizon.num_steps * batch.total
    log.note(
        f"{model.num_params():,} parameters, {horizon.num_steps:,} steps of {batch.total:,} tokens, "
        f"{batches.epochs(horizon.num_steps):.2g} passes over the corpus"
    )
    how = stage.execution(model, cfg.compute, run, dist, log, device_batch_size=batch.device, planned_tokens=planned)
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
        hooks=hooks.for_text(cfg.eval, model, tokenizer, rows, dist, batch.device),
        facts={"data": rows.facts, "horizon": horizon.reason, "parent": None},
    )
