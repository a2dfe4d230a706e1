"""Pretraining: raw text in, a model that guesses each next token out."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core import pace, paths, planning, scaling
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Log
from nanochat_cli.core.models.build import build
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import BaseTrainConfig
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import data, hooks, stage, windows
from nanochat_cli.core.units import many


def run(cfg: BaseTrainConfig, run: RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Train a new model on a corpus and return the result in numbers. Every automatic size of `cfg` is settled."""
    corpus = Corpus.open(cfg.corpus.data or "")
    tokenizer = Tokenizer.load(paths.tokenizer_dir(cfg.corpus.tokenizer or corpus.name))
    net = planning.model_shape(cfg, vocab_size=tokenizer.vocab_size, max_seq_len=cfg.model.max_seq_len or 0)
    net = windows.settled(net, cfg.compute, run, dist, log)
    model = build(net, seed=cfg.compute.seed, device=dist.device)
    batch = stage.settled(cfg.batch, model, cfg.compute, run, dist, log)
    rows = data.text_rows(corpus, tokenizer, net.max_seq_len, dist, log, packing_by=cfg.corpus.packing)
    batches = Batches(rows.train, rows_per_step=batch.total // net.max_seq_len, seed=cfg.compute.seed)
    num_steps = planning.num_iterations(cfg, net)
    planned = num_steps * batch.total
    epochs = batches.epochs(num_steps)
    log.note(
        f"{model.num_params():,} parameters, {many(num_steps, 'step')} of {batch.total:,} tokens, "
        f"{many(epochs, 'pass', 'passes', '.2g')} over the corpus"
    )
    if epochs > scaling.MAX_EPOCHS:
        log.warning(
            f"{epochs:.1f} passes over the corpus: beyond {scaling.MAX_EPOCHS}, more text teaches more than another"
        )
    how = stage.execution(model, cfg.compute, run, dist, log, device_batch_size=batch.device, planned_tokens=planned)
    measured = how.tokens_per_s.get(how.name)
    if measured and (text := pace.of_steps(batch.total, num_steps, measured * dist.world)):
        log.note(text)
    return stage.train(
        cfg,
        run,
        dist,
        log,
        model=model,
        tokenizer=tokenizer,
        batches=batches,
        num_steps=num_steps,
        tokens_per_step=batch.total,
        device_batch_size=batch.device,
        how=how,
        hooks=hooks.for_text(cfg.eval, model, tokenizer, rows, dist, batch.device),
        facts={"data": rows.facts, "parent": None},
        prefetch=True,
    )
