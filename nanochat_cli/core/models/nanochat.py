"""The modern recipe: short windows, value embeddings, smeared input, learned residual scales, backout.

Each part is one field of the config and can be switched off; without any of them this is `portable`. Source: nanochat
at July 2026. Tensor suffixes as in `base`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nanochat_cli.core.models.attention import Attention, KVState, choose_kernel
from nanochat_cli.core.models.base import DecodeState, LanguageModel, Linear, norm
from nanochat_cli.core.models.portable import MLP, attention_splits
from nanochat_cli.core.models.shape import SMEAR_CHANNELS, ModelConfig
from nanochat_cli.core.optim.groups import ParamGroup

_EMBED_STD, _HEAD_STD = 0.8, 0.001
_UP_SHARE = 0.4  # of the bound of the other matrices, for the first one of each MLP
_GATE_BOUND = 0.02


class NanochatBlock(nn.Module):
    """Pre-norm attention, then pre-norm MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self, x_BTE: Tensor, cos: Tensor, sin: Tensor, state: DecodeState | None, value_BTE: Tensor | None = None
    ) -> Tensor:
        x_BTE = x_BTE + self.attn(norm(x_BTE, self.eps), cos, sin, state, value_BTE)
        return x_BTE + self.mlp(norm(x_BTE, self.eps))


class Smear(nn.Module):
    """Adds to each token's embedding a gated share of the embedding before it: e_t += scale * gate(e_t) * e_(t-1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.channels = min(SMEAR_CHANNELS, config.n_embd)
        self.gate = Linear(self.channels, 1)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x_BTE: Tensor, before_B1E: Tensor | None) -> Tensor:
        """Return the new embeddings; `before` is that of the token before the first one, zero for a row that begins."""
        first_B1E = torch.zeros_like(x_BTE[:, :1]) if before_B1E is None else before_B1E
        before_BTE = torch.cat((first_B1E, x_BTE[:, :-1]), dim=1)
        share_BT1 = self.scale * torch.sigmoid(self.gate(x_BTE[..., : self.channels]))
        return x_BTE + share_BT1.to(x_BTE.dtype) * before_BTE


class Nanochat(LanguageModel):
    """Rotary positions, query-key norm, squared-ReLU MLP, untied head with a soft cap, and the parts named above."""

    after_blocks = ("head.", "backout_scale")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.n_kv_head * config.head_dim
        layers = [layer for layer in range(config.n_layer) if config.has_value_embed(layer)]
        self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(config.padded_vocab_size, width) for i in layers})
        self.smear = Smear(config) if config.smear else None
        self.residual_scale_L = nn.Parameter(torch.ones(config.n_layer)) if config.residual_scalars else None
        self.skip_scale_L = nn.Parameter(torch.zeros(config.n_layer)) if config.residual_scalars else None
        self.backout_scale = nn.Parameter(torch.zeros(())) if config.backout else None

    def make_block(self, layer: int) -> nn.Module:
        return NanochatBlock(self.config, layer)

    def layers(self) -> list[NanochatBlock]:
        """Return the blocks with their own type."""
        return [block for block in self.blocks if isinstance(block, NanochatBlock)]

    def new_state(self, batch_size: int, max_len: int) -> KVState:
        self.rotary.grow(max_len)
        return KVState(self.config, batch_size, max_len, self.device, self.precision)

    def set_attention(self, form: str) -> None:
        choose_kernel((block.attn for block in self.layers()), form, self.config, self.device)

    def hidden(self, idx_BT: Tensor, state: DecodeState | None = None) -> Tensor:
        assert state is None or isinstance(state, KVState)
        config = self.config
        cos, sin = self.rotary(idx_BT.size(1), state, self.precision)
        x_BTE = self.embedded(idx_BT)
        if self.smear is not None:
            x_BTE = self.smear(x_BTE, None if state is None else self._before(idx_BT, state))
        first_BTE, middle_BTE = x_BTE, x_BTE
        for layer, block in enumerate(self.blocks):
            if self.residual_scale_L is not None and self.skip_scale_L is not None:
                x_BTE = self.residual_scale_L[layer] * x_BTE + self.skip_scale_L[layer] * first_BTE
            x_BTE = block(x_BTE, cos, sin, state, self._values(layer, idx_BT))
            if layer == config.n_layer // 2:
                middle_BTE = x_BTE
        if state is not None:
            state.advance(idx_BT.size(1))
        if self.backout_scale is not None:
            x_BTE = x_BTE - self.backout_scale * middle_BTE
        return norm(x_BTE, config.norm_eps)

    def _values(self, layer: int, idx_BT: Tensor) -> Tensor | None:
        name = str(layer)
        return (
            self.look_up(self.value_embeds.get_parameter(f"{name}.weight"), idx_BT)
            if name in self.value_embeds
            else None
        )

    def _before(self, idx_BT: Tensor, state: KVState) -> Tensor:
        """Return the embedding of each row's last token before these, B1E, zero for rows that begin; remember these."""
        last_B1 = state.last_tokens(idx_BT)
        return self.embedded(last_B1.clamp(min=0)) * (last_B1 >= 0).unsqueeze(-1)

    # ---- training ----

    def matrix_groups(self) -> list[ParamGroup]:
        params = {f"blocks.{name}": p for name, p in self.blocks.named_parameters()}
        return [ParamGroup.matrices(params, attention_splits(self.layers()))]

    def param_groups(self) -> list[ParamGroup]:
        """Return every trained parameter once; betas and decay of each group as tuned by upstream in March 2026."""
        scale = self.width_scale()
        tables = {f"value_embeds.{name}": p for name, p in self.value_embeds.named_parameters()}
        gates = {f"smear.{name}": p for name, p in self.smear.named_parameters()} if self.smear is not None else {}
        if self.backout_scale is not None:
            gates["backout_scale"] = self.backout_scale
        groups = [
            *self.matrix_groups(),
            ParamGroup.of("embedding", {"embed.weight": self.embed.weight}, scale, betas=(0.8, 0.995), decay=0.001),
            ParamGroup.of("unembedding", {"head.weight": self.head.weight}, scale, betas=(0.8, 0.96), decay=0.01),
            ParamGroup.of("value_embedding", tables, scale, betas=(0.8, 0.995), decay=0.01),
            ParamGroup.of("gate", gates, batch_scaled=False),
        ]
        if self.residual_scale_L is not None and self.skip_scale_L is not None:
            groups.append(ParamGroup.of("residual", {"residual_scale_L": self.residual_scale_L}, decay=0.05))
            groups.append(ParamGroup.of("skip", {"skip_scale_L": self.skip_scale_L}, betas=(0.96, 0.95)))
        return [group for group in groups if group.params]

    def init_weights(self, generator: torch.Generator) -> None:
        """Every output projection starts at zero, so that each block begins as a scaled identity."""
        bound = (3 / self.config.n_embd) ** 0.5  # a uniform weight of this bound has a variance of 1 / width
        self.embed.weight.normal_(0, _EMBED_STD, generator=generator)
        self.head.weight.normal_(0, _HEAD_STD, generator=generator)
        for block in self.layers():
            block.attn.qkv.weight.uniform_(-bound, bound, generator=generator)
            block.mlp.up.weight.uniform_(-_UP_SHARE * bound, _UP_SHARE * bound, generator=generator)
            block.attn.out.weight.zero_()
            block.mlp.down.weight.zero_()
            if block.attn.value_gate is not None:
                block.attn.value_gate.weight.uniform_(0, _GATE_BOUND, generator=generator)
        for table in self.value_embeds.values():
            table.weight.uniform_(-bound, bound, generator=generator)  # type: ignore[operator]
        if self.smear is not None:
            self.smear.gate.weight.uniform_(0, _GATE_BOUND, generator=generator)
            self.smear.scale.zero_()
        if self.residual_scale_L is not None and self.skip_scale_L is not None:
            depth = torch.linspace(0, 1, self.config.n_layer)
            self.residual_scale_L.copy_(1.15 - 0.10 * depth)
            self.skip_scale_L.copy_(0.20 - 0.15 * depth)
        if self.backout_scale is not None:
            self.backout_scale.fill_(0.2)


ARCH = Nanochat
