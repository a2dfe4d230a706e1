"""Sizes of a model: from a depth to every width, parameter count and cost. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nanochat_cli.core.errors import ConfigError

CHANNELS_PER_LAYER = 64
CHANNELS_PER_HEAD = 128
MLP_RATIO = 4
VALUE_GATE_CHANNELS = 12
"""Channels of a block's input that decide how much of a value embedding is added."""
SMEAR_CHANNELS = 24
"""Channels of a token's embedding that decide how much of the embedding before it is added."""
MAX_QK_SCALE = 2.0
"""Up to this scale the exponential of a score fits fp32 for any head width in use, so attention needs no maximum."""
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
    window_pattern: str = "L"
    """Reach of attention by layer, repeated: S short_window, L the whole context. The last layer is always L."""
    short_window: int = 0
    """Tokens before its own that a query of an S layer sees."""
    qk_scale: float = 1.0
    """Factor on queries and on keys, after their norm."""
    value_embeds_every: int = 0
    """Every so many layers, counted from the last, values get an embedding of their token added (0: none)."""
    smear: bool = False
    """Whether each token's embedding gets a gated share of the one before."""
    residual_scalars: bool = False
    """Whether each block reads a learned mix of the residual stream and the embedding."""
    backout: bool = False
    """Whether a learned share of the stream in the middle of the network is taken out at its end."""
    vocab_multiple: int = 1
    """Embedding and head have rows for a multiple of this many tokens; those beyond the vocabulary are not used."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head, in channels."""
        return self.n_embd // self.n_head

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and of the head."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    def window(self, layer: int) -> int | None:
        """How many tokens before its own a query of this layer sees; None means all."""
        short = self.window_pattern[layer % len(self.window_pattern)] == "S" and layer < self.n_layer - 1
        return self.short_window if short else None

    def has_value_embed(self, layer: int) -> bool:
        """Whether this layer has a value embedding."""
        return self.value_embeds_every > 0 and (self.n_layer - 1 - layer) % self.value_embeds_every == 0

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


WHAT_AN_ARCH_ADDS: dict[str, dict[str, Any]] = {
    "nanochat": {
        "rope_base": 100_000.0,
        "window_pattern": "SSSL",
        "qk_scale": 1.2,
        "value_embeds_every": 2,
        "smear": True,
        "residual_scalars": True,
        "backout": True,
        "vocab_multiple": 64,
    }
}
"""Values of `ModelConfig` that differ from its defaults unless given. They stand here as planning knows no torch."""


def from_depth(
    depth: int,
    vocab_size: int,
    max_seq_len: int,
    n_embd: int | None = None,
    n_head: int | None = None,
    n_kv_head: int | None = None,
    head_dim: int | None = None,
    arch: str = "portable",
    **rest: Any,
) -> ModelConfig:
    """Return the config of a depth: 64 channels per layer, about 128 per head; what is given overrides.

    With `head_dim` the width is rounded up to whole heads, as it is for an architecture of its own head width. None in
    `rest` stands for what the architecture brings. Raises ConfigError that names the values which do not fit together.
    """
    if depth < 1:
        raise ConfigError(f"depth must be at least 1: {depth}")
    if head_dim is not None and (head_dim < 2 or head_dim % 2):
        raise ConfigError(f"head_dim must be even: {head_dim}", hint="64 and 128 are usual; GPUs want a multiple of 8")
    added = WHAT_AN_ARCH_ADDS.get(arch, {})
    per_head = head_dim or (CHANNELS_PER_HEAD if added else 1)
    width = -(-CHANNELS_PER_LAYER * depth // per_head) * per_head if n_embd is None else n_embd
    if n_head is None and head_dim is not None:
        if width % head_dim:
            near = [heads * head_dim for heads in (width // head_dim, width // head_dim + 1) if heads]
            raise ConfigError(
                f"n_embd {width} is not a multiple of head_dim: {head_dim}",
                hint=f"n_embd can be {' or '.join(map(str, near))}",
            )
        n_head = width // head_dim
    heads = default_heads(width) if n_head is None else n_head
    given = {**added, **{key: value for key, value in rest.items() if value is not None}}
    if "S" in given.get("window_pattern", ""):
        given.setdefault("short_window", quarter_window(max_seq_len))
    config = ModelConfig(
        arch=arch,
        n_layer=depth,
        n_embd=width,
        n_head=heads,
        n_kv_head=heads if n_kv_head is None else n_kv_head,
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
        **given,
    )
    if head_dim is not None and config.head_dim != head_dim:
        raise ConfigError(
            f"n_embd {width} with n_head {heads} makes heads of {config.head_dim} channels, not head_dim: {head_dim}"
        )
    check(config)
    return config


def quarter_window(max_seq_len: int) -> int:
    """Return a quarter of the context, rounded up to a multiple of 128 (the tile of GPU kernels), at most all of it."""
    return min(max_seq_len, -(-max_seq_len // (4 * 128)) * 128)


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
    if not config.window_pattern or set(config.window_pattern) - set("SL"):
        raise ConfigError(f"window_pattern must be made of S and L: {config.window_pattern!r}", hint="for example SSSL")
    if "S" in config.window_pattern and not 1 <= config.short_window <= config.max_seq_len:
        raise ConfigError(
            f"short_window must be between 1 and the context of {config.max_seq_len}: {config.short_window}",
            hint=f"about a quarter of the context is usual: {quarter_window(config.max_seq_len)}",
        )
    for name in ("value_embeds_every", "vocab_multiple"):
        if getattr(config, name) < (name == "vocab_multiple"):
            raise ConfigError(f"{name} must not be negative or zero: {getattr(config, name)}")
    for name in ("rope_base", "softcap", "norm_eps", "qk_scale"):
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} must be positive: {getattr(config, name)}")
    if config.qk_scale > MAX_QK_SCALE:
        raise ConfigError(f"qk_scale must be at most {MAX_QK_SCALE:g}: {config.qk_scale}")
    if config.softcap > MAX_SOFTCAP:
        raise ConfigError(f"softcap must be at most {MAX_SOFTCAP:g}: {config.softcap}")


def _some(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, ..." if len(values) > 8 else shown


def matrix_params(config: ModelConfig) -> int:
    """Return the number of weights in the blocks' matrices, value gates included."""
    c, d = config.n_embd, config.head_dim
    attention = c * (config.n_head + 2 * config.n_kv_head) * d + config.n_head * d * c
    gates = sum(map(config.has_value_embed, range(config.n_layer))) * config.n_kv_head * min(VALUE_GATE_CHANNELS, c)
    return config.n_layer * (attention + 2 * MLP_RATIO * c * c) + gates


@dataclass(frozen=True)
class ParamCounts:
    """Weights by group."""

    matrices: int
    head: int
    embedding: int
    value_embeds: int
    scalars: int

    @property
    def total(self) -> int:
        """All weights."""
        return self.matrices + self.head + self.embedding + self.value_embeds + self.scalars

    @property
    def scaling(self) -> int:
        """Weights that scaling laws count: block matrices and head, each of which multiplies every token."""
        return self.matrices + self.head


def count_params(config: ModelConfig) -> ParamCounts:
    """Return the number of weights by group."""
    table = config.padded_vocab_size * config.n_embd
    value_layers = sum(map(config.has_value_embed, range(config.n_layer)))
    smear = (min(SMEAR_CHANNELS, config.n_embd) + 1) * config.smear
    return ParamCounts(
        matrices=matrix_params(config),
        head=table,
        embedding=table,
        value_embeds=value_layers * config.padded_vocab_size * config.n_kv_head * config.head_dim,
        scalars=smear + 2 * config.n_layer * config.residual_scalars + config.backout,
    )


def num_params(config: ModelConfig) -> int:
    """Return the number of weights."""
    return count_params(config).total


def flops_per_token(config: ModelConfig) -> int:
    """Return the floating-point operations of one training token, forward and backward.

    Six per weight that multiplies (embeddings are look-ups) and 12 per layer, channel and position that attention
    reaches, at most `max_seq_len`. Source: the usual 6N estimate with the attention term of PaLM (arXiv 2204.02311,
    appendix B).
    """
    counts = count_params(config)
    weights = counts.scaling + min(SMEAR_CHANNELS, config.n_embd) * config.smear
    windows = [config.window(layer) for layer in range(config.n_layer)]
    reach = sum(config.max_seq_len if w is None else min(w, config.max_seq_len) for w in windows)
    return 6 * weights + 12 * config.n_head * config.head_dim * reach
