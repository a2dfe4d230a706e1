"""The start-up measurement as a stage of its own: how fast this machine would train a given model."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core import paths, planning
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Log
from nanochat_cli.core.models.build import build
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import BaseTrainConfig
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import stage


def run(cfg: BaseTrainConfig, run: RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Measure the kernels that base training would choose from and return the best speed in tokens per second."""
    tokenizer = Tokenizer.load(paths.tokenizer_dir(cfg.corpus.tokenizer or ""))
    net = planning.model_shape(cfg, vocab_size=tokenizer.vocab_size, max_seq_len=cfg.model.max_seq_len or 0)
    model = build(net, seed=cfg.compute.seed, device=dist.device)
    batch = stage.settled(cfg.batch, model, cfg.compute, run, dist, log)
    planned = (cfg.horizon.num_iterations or 1) * batch.total
    how = stage.execution(model, cfg.compute, run, dist, log, device_batch_size=batch.device, planned_tokens=planned)
    return {"tokens_per_s": max(how.tokens_per_s.values()), "measured": how.tokens_per_s}
