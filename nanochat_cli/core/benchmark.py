"""A benchmark of training, ready to start: every automatic size settled as base training would settle it."""

from __future__ import annotations

import dataclasses
import shlex
import sys

from nanochat_cli.core import launch, paths, planning, sizing
from nanochat_cli.core.errors import MissingArtifact
from nanochat_cli.core.settings import BaseTrainConfig, BenchTrainConfig


def make(cfg: BenchTrainConfig, *, command: str | None = None) -> launch.Plan:
    """Return the plan of the stage `bench`. It works in the cache and leaves no run behind.

    Raises ConfigError for sizes that do not fit together, and MissingArtifact for a corpus that is not there or has no
    tokenizer.
    """
    cfg = _with_vocabulary(cfg)
    base = BaseTrainConfig(model=cfg.model, batch=cfg.batch, optim=cfg.optim, compute=cfg.compute)
    sized, _ = sizing.sized(base, sizing.target(base), cfg.bench.vocab or 0)
    settled = dataclasses.replace(cfg, model=sized.model, batch=sized.batch, compute=sized.compute)
    words = command or shlex.join(["nanochat", *sys.argv[1:]])
    folder = paths.cache_dir() / "bench" / "train"
    return launch.Plan(stage="bench", run="bench-train", dir=folder, config=settled, resume=False, command=words)


def _with_vocabulary(cfg: BenchTrainConfig) -> BenchTrainConfig:
    """The config with the vocabulary of the corpus's tokenizer, or one for random tokens."""
    if cfg.bench.data is None:
        return planning.with_values(cfg, "bench", vocab=cfg.bench.vocab or sizing.DEFAULT_VOCAB)
    planning.check_corpus(cfg.bench.data)
    name = sizing.tokenizer_at_hand(cfg.bench.tokenizer, cfg.bench.data)
    if name is None:
        raise MissingArtifact("no tokenizer yet", hint=f"nanochat tok train --input {cfg.bench.data}")
    return planning.with_values(cfg, "bench", tokenizer=name, vocab=int(planning.tokenizer_facts(name)["vocab_size"]))
