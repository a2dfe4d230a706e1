"""Sizes of a model: from a depth to every width, parameter count and cost. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nanochat_cli.core.errors import ConfigError

CHANNELS_PER_LAYER = 64
CHANNELS_PER_HEAD = 128
MLP_RATIO = 4
MAX_SOFTCAP = 60.0
"""Up to this cap the sum of exp(logit) over any vocabulary fits fp32, so the loss need not look for a maximum first."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that fixes the network's function, apart from its weights. Saved whole with every checkpoint."""

    arch: str = "portable"
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    vocab_size: int
    max_seq_len: int
    rope_base: float = 10000.0
    softcap: float = 15.0
    norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of one attention head, in channels."""
        return self.n_embd // self.n_head

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Rebuild a saved config. Raises ConfigError for a key that this version does not know."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown model config key: {unknown[0]}", hint="written by a newer version of nanochat?")
        if missing := sorted({"n_layer", "n_head", "n_kv_head", "n_embd", "vocab_size", "max_seq_len"} - set(values)):
            raise ConfigError(f"model config key is missing: {missing[0]}")
        config = cls(**values)
        check(config)
        return config


def from_depth(
    depth: int,
    vocab_size: int,
    max_seq_len: int,
    n_embd: int | None = None,
    n_head: int | None = None,
    n_kv_head: int | None = None,
    **rest: Any,
) -> ModelConfig:
    """Return the config of a depth: 64 channels per layer, about 128 per head; what is given overrides.

    Raises ConfigError that names the values which do not fit together.
    """
    if depth < 1:
        raise ConfigError(f"depth must be at least 1: {depth}")
    width = CHANNELS_PER_LAYER * depth if n_embd is None else n_embd
    heads = default_heads(width) if n_head is None else n_head
    config = ModelConfig(
        n_layer=depth,
        n_embd=width,
        n_head=heads,
        n_kv_head=heads if n_kv_head is None else n_kv_head,
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
        **rest,
    )
    check(config)
    return config


def fitting_heads(n_embd: int) -> list[int]:
    """Return the head counts that cut a width into equal heads of even width (rotary angles need pairs)."""
    return [n for n in range(1, n_embd // 2 + 1) if n_embd % n == 0 and (n_embd // n) % 2 == 0]


def default_heads(n_embd: int) -> int:
    """Return the smallest fitting head count with at most 128 channels per head. Raises ConfigError for odd widths."""
    if n_embd < 2 or n_embd % 2:
        raise ConfigError(f"n_embd must be even and positive: {n_embd}")
    least = -(-n_embd // CHANNELS_PER_HEAD)
    return next(n for n in fitting_heads(n_embd) if n >= least)


def check(config: ModelConfig) -> None:
    """Raise ConfigError, naming both values and a remedy, when sizes do not fit together."""
    for name in ("n_layer", "n_head", "n_kv_head", "n_embd", "vocab_size", "max_seq_len"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1: {getattr(config, name)}")
    good = fitting_heads(config.n_embd)
    if config.n_head not in good:
        raise ConfigError(
            f"n_embd {config.n_embd} does not split into heads of even width: n_head {config.n_head}",
            hint=f"n_head can be {_some(good)}" if good else "choose an even n_embd",
        )
    if config.n_head % config.n_kv_head:
        shares = [n for n in range(1, config.n_head + 1) if config.n_head % n == 0]
        raise ConfigError(
            f"n_head {config.n_head} is not a multiple of n_kv_head: {config.n_kv_head}",
            hint=f"n_kv_head can be {_some(shares)}",
        )
    for name in ("rope_base", "softcap", "norm_eps"):
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} must be positive: {getattr(config, name)}")
    if config.softcap > MAX_SOFTCAP:
        raise ConfigError(f"softcap must be at most {MAX_SOFTCAP:g}: {config.softcap}")


def _some(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, ..." if len(values) > 8 else shown


def matrix_params(config: ModelConfig) -> int:
    """Return the number of weights in the blocks' matrices."""
    c, d = config.n_embd, config.head_dim
    attention = c * (config.n_head + 2 * config.n_kv_head) * d + config.n_head * d * c
    return config.n_layer * (attention + 2 * MLP_RATIO * c * c)


def num_params(config: ModelConfig) -> int:
    """Return the number of weights: blocks, embedding and untied head."""
    return matrix_params(config) + 2 * config.vocab_size * config.n_embd


def flops_per_token(config: ModelConfig) -> int:
    """Return the floating-point operations of one training token, forward and backward.

    Six per weight (the embedding is a look-up) and 12 per layer, channel and position for attention over
    `max_seq_len`. Source: the usual 6N estimate with the attention term of PaLM (arXiv 2204.02311, appendix B).
    """
    weights = num_params(config) - config.vocab_size * config.n_embd
    attention = 12 * config.n_layer * config.n_head * config.head_dim * config.max_seq_len
    return 6 * weights + attention
