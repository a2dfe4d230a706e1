"""The plain GPT of November 2025, which other inference software runs unchanged: full windows, no extras."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.models.attention import Attention, KVState, choose_kernel
from nanochat_cli.core.models.base import Block, DecodeState, LanguageModel, Linear, norm
from nanochat_cli.core.models.shape import MLP_RATIO, ModelConfig
from nanochat_cli.core.optim.groups import ParamGroup

_PLAIN = {
    "window_pattern": "L",
    "qk_scale": 1.0,
    "value_embeds_every": 0,
    "smear": False,
    "residual_scalars": False,
    "backout": False,
    "vocab_multiple": 1,
}
"""What every config of this architecture says: other software that runs it knows nothing else."""


class MLP(nn.Module):
    """Two projections with a squared ReLU between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.n_embd, MLP_RATIO * config.n_embd)
        self.down = Linear(MLP_RATIO * config.n_embd, config.n_embd)

    def forward(self, x_BTE: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x_BTE)).square())


class PortableBlock(Block):
    """Pre-norm attention, then pre-norm MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x_BTE: Tensor, cos: Tensor, sin: Tensor, state: DecodeState | None) -> Tensor:
        x_BTE = x_BTE + self.attn(norm(x_BTE, self.eps), cos, sin, state)
        return x_BTE + self.mlp(norm(x_BTE, self.eps))


def attention_splits(layers: Iterable[Any]) -> dict[str, tuple[int, ...]]:
    """Return where fused weights are cut: query, key and value share one for speed, Muon treats them as three."""
    return {f"blocks.{i}.attn.qkv.weight": block.attn.qkv_rows for i, block in enumerate(layers)}


class Portable(LanguageModel):
    """Rotary positions, query-key norm, squared-ReLU MLP, untied head with a soft cap."""

    def __init__(self, config: ModelConfig) -> None:
        extras = {name: value for name, value in asdict(config).items() if name in _PLAIN and value != _PLAIN[name]}
        if extras:
            name, value = next(iter(extras.items()))
            raise ConfigError(f"the portable architecture has no {name}: {value}", hint="use --arch nanochat")
        super().__init__(config)

    def make_block(self, layer: int) -> Block:
        return PortableBlock(self.config, layer)

    def layers(self) -> list[PortableBlock]:
        """Return the blocks with their own type."""
        return [block for block in self.blocks if isinstance(block, PortableBlock)]

    def new_state(self, batch_size: int, max_len: int) -> KVState:
        self.rotary.grow(max_len)
        return KVState(self.config, batch_size, max_len, self.device, self.precision)

    def set_attention(self, form: str) -> None:
        choose_kernel((block.attn for block in self.layers()), form, self.config, self.device)

    def matrix_groups(self) -> list[ParamGroup]:
        params = {f"blocks.{name}": p for name, p in self.blocks.named_parameters()}
        return [ParamGroup.matrices(params, attention_splits(self.layers()))]

    def init_weights(self, generator: torch.Generator) -> None:
        """Every output projection and the head start at zero: each block is the identity, each token equally likely."""
        self.embed.weight.normal_(generator=generator)
        nn.init.zeros_(self.head.weight)
        for block in self.layers():
            for part in block.attn.qkv.weight.split(block.attn.qkv_rows):
                _draw(part, generator)
            _draw(block.mlp.up.weight, generator)
            nn.init.zeros_(block.attn.out.weight)
            nn.init.zeros_(block.mlp.down.weight)


def _draw(weight: Tensor, generator: torch.Generator) -> None:
    """Normal with std min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in) (spectral condition, arXiv 2310.17813)."""
    fan_out, fan_in = weight.shape
    weight.normal_(0.0, min(1.0, (fan_out / fan_in) ** 0.5) / fan_in**0.5, generator=generator)


ARCH = Portable
