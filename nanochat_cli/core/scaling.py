"""The one dial: from the size of a model to its batch, its weight decay and its rates. Needs no torch.

All rules are relative to the same recipe at depth 12, where they were tuned. They are upstream's of March 2026, found
by sweeps up to depth 26; the batch exponent is that of arXiv 2505.13738 (B grows with D^0.383).
"""

from __future__ import annotations

import dataclasses
import math

from nanochat_cli.core.models import shape
from nanochat_cli.core.models.shape import ModelConfig

REFERENCE_BATCH = 2**19
"""Tokens per step that the learning rates are given for; also the best batch at depth 12."""
LARGEST_BATCH = 2**20
"""No rule goes beyond: at depth 34 twice as many needed six times the tokens of a depth 24 for the same loss."""
MAX_EPOCHS = 3
"""Up to about four passes, text that is read again teaches nearly as much as new text (arXiv 2305.16264)."""
_REFERENCE_DEPTH = 12
_BATCH_EXPONENT = 0.383
_REFERENCE_DECAY = 0.28
_REFERENCE_WIDTH = 768


def reference(config: ModelConfig) -> ModelConfig:
    """Return the same recipe at depth 12: same heads, vocabulary, context and parts."""
    parts = {f.name: getattr(config, f.name) for f in dataclasses.fields(ModelConfig)}
    for name in ("n_layer", "n_head", "n_kv_head", "n_embd"):
        del parts[name]
    head_dim = config.head_dim if shape.CHANNELS_PER_LAYER * _REFERENCE_DEPTH % config.head_dim == 0 else None
    return shape.from_depth(_REFERENCE_DEPTH, head_dim=head_dim, **parts)


def _horizon_ratio(config: ModelConfig) -> float:
    """Tokens of this model's horizon over those of depth 12, at any number of tokens per parameter."""
    return shape.count_params(config).scaling / shape.count_params(reference(config)).scaling


def total_batch_size(config: ModelConfig, cap: int = LARGEST_BATCH) -> int:
    """Return the tokens per step: 2^19 at depth 12, the power of two nearest to growing with (horizon)^0.383."""
    best = REFERENCE_BATCH * _horizon_ratio(config) ** _BATCH_EXPONENT
    return min(cap, 2 ** round(math.log2(best)))


def weight_decay(config: ModelConfig, total_batch_size: int, *, scaled_rates: bool = True) -> float:
    """Return Muon's weight decay, such that what decays in one horizon stays the same (arXiv 2405.13698).

    Each step decays by rate times this; where rates do not follow the batch, this makes up for it.
    """
    scale = rate_scale(total_batch_size)
    return _REFERENCE_DECAY * scale * (1.0 if scaled_rates else scale) / _horizon_ratio(config)


def table_rate_scale(n_embd: int) -> float:
    """Return the factor on AdamW's rates for tables: they are given for width 768 and fall with its square root."""
    return (n_embd / _REFERENCE_WIDTH) ** -0.5


def rate_scale(total_batch_size: int) -> float:
    """Return the factor on learning rates for a batch: the square root of its size over the reference."""
    return math.sqrt(total_batch_size / REFERENCE_BATCH)
