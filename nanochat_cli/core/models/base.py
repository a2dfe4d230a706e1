"""The skeleton every architecture shares: embedding, blocks, norm, head, loss, optimizer groups.

Tensor suffixes: B batch, T time, E embedding, H heads, D head width, V vocabulary, S cached positions, N = B*T.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_cli.core import scaling
from nanochat_cli.core.models import fp8
from nanochat_cli.core.models.loss import softcapped_cross_entropy
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.optim.groups import ParamGroup


class DecodeState(Protocol):
    """What a model remembers of the tokens it has read, one row per sequence.

    `length_B` (int64) counts the valid positions of each row. A forward pass appends its tokens at `length_B` and adds
    their number; after a prefill of right-padded prompts the caller puts the true lengths back with `set_lengths`.
    """

    length_B: Tensor

    def advance(self, num_tokens: int) -> None:
        """Count tokens that every layer has appended."""

    def set_lengths(self, length_B: Tensor) -> None:
        """Declare how many positions of each row are valid; later ones are overwritten and never attended to."""

    def select(self, rows: Tensor) -> DecodeState:
        """Return a state with the given rows (int64), in that order; rows may be dropped or repeated."""
        ...


TABLE_MARGIN = 8
"""Angles are tabulated for this many contexts: growing a table would make a compiled training step compile again."""


class Rotary(nn.Module):
    """Rotary position angles (arXiv 2104.09864), as tables that grow when a much longer context is asked for."""

    cos_SD: Tensor
    sin_SD: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.base, self.head_dim = config.rope_base, config.head_dim
        self.register_buffer("cos_SD", torch.empty(0, self.head_dim // 2), persistent=False)
        self.register_buffer("sin_SD", torch.empty(0, self.head_dim // 2), persistent=False)
        self.grow(TABLE_MARGIN * config.max_seq_len)

    def grow(self, num_positions: int) -> None:
        """Make the tables cover `num_positions`. Entries are computed in fp64, so growing changes no earlier one."""
        if num_positions <= self.cos_SD.size(0):
            return
        position_S = torch.arange(num_positions, dtype=torch.float64)
        rate_D = self.base ** (-torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim)
        angle_SD = torch.outer(position_S, rate_D)
        self.cos_SD = angle_SD.cos().to(self.cos_SD)
        self.sin_SD = angle_SD.sin().to(self.sin_SD)

    def forward(self, num_tokens: int, state: DecodeState | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return (cos, sin), shaped [T, 1, D/2], or [B, T, 1, D/2] when rows stand at different positions."""
        if state is None:
            cos, sin = self.cos_SD[:num_tokens], self.sin_SD[:num_tokens]
        else:
            position_BT = state.length_B[:, None] + torch.arange(num_tokens, device=state.length_B.device)
            cos, sin = self.cos_SD[position_BT], self.sin_SD[position_BT]
        return cos.unsqueeze(-2).to(dtype), sin.unsqueeze(-2).to(dtype)


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (channel i, channel i + D/2) by its angle: (a, b) -> (a cos + b sin, b cos - a sin)."""
    a, b = x_BTHD.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def norm(x: Tensor, eps: float) -> Tensor:
    """Scale the last dimension to a root mean square of 1, without parameters."""
    return F.rms_norm(x, (x.size(-1),), eps=eps)


class Linear(nn.Linear):
    """A bias-free projection with fp32 weights that computes in the dtype of its input.

    With `fp8` set (`fp8.convert`) it trains in FP8; without gradients it computes as ever. With `lora` set
    (`lora.attach`) that module's output is added.
    """

    fp8: fp8.Kernel | None = None
    lora: nn.Module | None

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out, bias=False)
        self.lora = None

    def forward(self, input: Tensor) -> Tensor:
        if self.fp8 is not None and self.training and torch.is_grad_enabled():
            y = fp8.linear(input, self.weight, self.fp8)
        else:
            y = F.linear(input, self.weight.to(input.dtype))
        return y if self.lora is None else y + self.lora(input)


class Block(nn.Module):
    """One layer of a network: a map of the residual stream, with access to angles and cache."""

    def forward(self, x_BTE: Tensor, cos: Tensor, sin: Tensor, state: DecodeState | None) -> Tensor:
        """Return the new residual stream."""
        raise NotImplementedError


class LanguageModel(nn.Module):
    """Tokens in, next-token scores out. An architecture supplies the blocks and the decode state.

    Weights are fp32; `set_precision` chooses the dtype of the arithmetic. The loss and the returned logits are fp32.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        self.kept_logits_bytes: int | None = None  # that the loss may keep; None: what it keeps where room is short
        self.embed = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(self.make_block(layer) for layer in range(config.n_layer))
        self.head = Linear(config.n_embd, config.padded_vocab_size)
        self.rotary = Rotary(config)

    after_blocks: tuple[str, ...] = ("head.",)
    """Beginnings of the names of parameters that no block comes after."""

    # ---- what an architecture decides ------------------------------------------------------------------------------

    def make_block(self, layer: int) -> nn.Module:
        """Return the block of one layer."""
        raise NotImplementedError

    def new_state(self, batch_size: int, max_len: int) -> DecodeState:
        """Return an empty decode state with room for `max_len` positions per row."""
        raise NotImplementedError

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the starting weights; must use the generator only, so that a seed fixes them."""
        raise NotImplementedError

    def set_attention(self, form: str) -> None:
        """Choose the attention kernel for full sequences by its name, once the model is on its device.

        Raises EnvironmentLacks if that kernel cannot be used there.
        """

    def after_step(self) -> None:
        """Update what is not trained by gradient; called after each optimizer step."""

    def matrix_groups(self) -> list[ParamGroup]:
        """Return the optimizer groups of the blocks."""
        return [ParamGroup.matrices({f"blocks.{n}": p for n, p in self.blocks.named_parameters()})]

    # ---- what all share --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.weight.device

    def set_precision(self, precision: str) -> None:
        """Compute in "bf16", "fp16" or "fp32"; the weights stay fp32."""
        self.precision = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]

    def look_up(self, table_VE: Tensor, idx_BT: Tensor) -> Tensor:
        """Return rows of an embedding table in the precision of the arithmetic, shape BTE."""
        return F.embedding(idx_BT, table_VE).to(self.precision)

    def embedded(self, idx_BT: Tensor) -> Tensor:
        """Return the normed embedding of each token, which the blocks start from."""
        return norm(self.look_up(self.embed.weight, idx_BT), self.config.norm_eps)

    def hidden(self, idx_BT: Tensor, state: DecodeState | None = None) -> Tensor:
        """Return the normed residual stream x_BTE that the head reads; with a state, continue and extend it."""
        num_tokens = idx_BT.size(1)
        cos, sin = self.rotary(num_tokens, state, self.precision)
        x_BTE = self.embedded(idx_BT)
        for block in self.blocks:
            x_BTE = block(x_BTE, cos, sin, state)
        if state is not None:
            state.advance(num_tokens)
        return norm(x_BTE, self.config.norm_eps)

    def logits(self, x: Tensor) -> Tensor:
        """Return fp32 scores of the vocabulary, softly bounded to +-softcap, for any leading shape of `hidden`."""
        logits = self.head(x)[..., : self.config.vocab_size].float()
        return self.config.softcap * torch.tanh(logits / self.config.softcap)

    def forward(self, idx_BT: Tensor, state: DecodeState | None = None) -> Tensor:
        """Return logits_BTV (fp32)."""
        return self.logits(self.hidden(idx_BT, state))

    def losses(self, idx_BT: Tensor, target_BT: Tensor) -> Tensor:
        """Return the cross-entropy of each target in nats, fp32, shape BT; 0 where the target is -1."""
        x_BTE, config = self.hidden(idx_BT), self.config
        return softcapped_cross_entropy(
            x_BTE,
            self.head.weight,
            target_BT,
            config.softcap,
            vocab_size=config.vocab_size,
            kept_bytes=self.kept_logits_bytes,
        )

    def width_scale(self) -> float:
        """Return the factor on AdamW's rates for tables."""
        return scaling.table_rate_scale(self.config.n_embd)

    def param_groups(self) -> list[ParamGroup]:
        """Return every trained parameter once, grouped by the kind of update it gets."""
        scale = self.width_scale()
        return [
            *self.matrix_groups(),
            ParamGroup.of("embedding", {"embed.weight": self.embed.weight}, scale),
            ParamGroup.of("unembedding", {"head.weight": self.head.weight}, scale),
        ]

    def num_params(self) -> int:
        """Return the number of weights, as a checkpoint has them."""
        return sum(p.numel() for name, p in self.named_parameters() if ".lora." not in name)

    def num_trained(self) -> int:
        """Return how many numbers training changes: all weights, unless some are frozen or adapted."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
