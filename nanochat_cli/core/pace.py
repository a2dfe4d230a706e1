"""How long steps take on a CPU whose batch is one for GPUs, as that of some presets is, and what to do about it.

A preset stands for a recipe, so its batch is kept: nothing is changed behind the user's back, but it is said first.
"""

from __future__ import annotations

from nanochat_cli.core import machine, placement, planning
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.settings import BaseTrainConfig
from nanochat_cli.core.units import many, span

LONG_S = 60.0
"""Seconds of a step from which on it is worth a word."""
_CORE_FLOPS = 20e9  # what a core reaches in fp32, roughly: 24e9 measured on a Zen 5 at depth 4; bf16 units reach more


def warning(cfg: BaseTrainConfig, net: ModelConfig, tokens_per_s: float | None = None) -> str | None:
    """Return what to tell before a training on a CPU whose steps take minutes for the size of its batch, else None.

    `cfg` is settled; `tokens_per_s` is of all processes together, guessed from the cores if not known.
    """
    tokens, world = cfg.batch.total_batch_size or 0, placement.world(cfg)
    unit = net.max_seq_len * world
    fewer = max(unit, planning.CPU_BATCH // unit * unit)
    if placement.num_gpus(cfg.compute) or fewer >= tokens:
        return None
    nodes = cfg.cluster.nnodes or 1
    guessed = machine.physical_cores() * nodes * _CORE_FLOPS / shape.flops_per_token(net)
    seconds = tokens / (tokens_per_s or guessed)
    if seconds < LONG_S:
        return None
    steps = planning.num_iterations(cfg, net)
    return (
        f"a step of {tokens:,} tokens takes about {span(seconds)} on this CPU, all {many(steps, 'step')} about "
        f"{span(seconds * steps)}; --total-batch-size {fewer} makes a step {tokens / fewer:.0f} times shorter"
    )


def of_steps(tokens: int, steps: int, tokens_per_s: float) -> str | None:
    """Return how long measured steps will take, if that is long; else None."""
    seconds = tokens / tokens_per_s
    if seconds < LONG_S:
        return None
    return f"as measured, a step takes about {span(seconds)}, all {many(steps, 'step')} {span(seconds * steps)}"
