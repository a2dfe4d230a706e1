"""Causal self-attention with shared key-value heads, and the cache it decodes with.

Tensor suffixes: B batch, T time (queries), S positions (keys), E embedding, H heads, K key-value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nanochat_cli.core.models import kernels
from nanochat_cli.core.models.base import DecodeState, Linear, norm, rotate
from nanochat_cli.core.models.kernel_parts import Call, Sizes
from nanochat_cli.core.models.products import LOG2_E
from nanochat_cli.core.models.shape import VALUE_GATE_CHANNELS, ModelConfig

_GRAIN = 16
"""Keys are read in multiples of this: every new length costs a CPU a new kernel, which it then keeps in memory."""


class KVState:
    """Keys and values of every layer, one row per sequence; rows stand at their own lengths."""

    def __init__(
        self, config: ModelConfig, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.n_layer, batch_size, config.n_kv_head, max_len, config.head_dim)
        self.k_LBKSD = torch.zeros(shape, device=device, dtype=dtype)
        self.v_LBKSD = torch.zeros(shape, device=device, dtype=dtype)
        self.tokens_BS = torch.zeros(batch_size, max_len, dtype=torch.int64, device=device) if config.smear else None
        self.length_B = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.extent = 0  # no row is longer; a plain number, so that decoding on a GPU never waits for it

    @property
    def max_len(self) -> int:
        """Positions there is room for, per row."""
        return self.k_LBKSD.size(3)

    def set_lengths(self, length_B: Tensor) -> None:
        """Declare how many positions of each row are valid."""
        self.length_B = length_B
        self.extent = int(length_B.max()) if length_B.numel() else 0

    def advance(self, num_tokens: int) -> None:
        """Count tokens that every layer has appended."""
        self.length_B = self.length_B + num_tokens
        self.extent += num_tokens

    def select(self, rows: Tensor) -> KVState:
        """Return a state with the given rows, in that order; rows may be dropped or repeated."""
        chosen = object.__new__(KVState)
        chosen.k_LBKSD, chosen.v_LBKSD = self.k_LBKSD[:, rows], self.v_LBKSD[:, rows]
        chosen.tokens_BS = None if self.tokens_BS is None else self.tokens_BS[rows]
        chosen.length_B, chosen.extent = self.length_B[rows], self.extent
        return chosen

    def reach(self, num_tokens: int) -> int:
        """Return how many positions are read when a chunk is appended; those that no row has yet are masked."""
        return min(self.max_len, -(-(self.extent + num_tokens) // _GRAIN) * _GRAIN)

    def append(self, layer: int, k_BTKD: Tensor, v_BTKD: Tensor) -> tuple[Tensor, Tensor]:
        """Store a chunk at each row's end; return that layer's keys and values up to `reach`, as BKSD.

        Raises ValueError when the chunk does not fit in.
        """
        batch_B1, position_BT = self._places(k_BTKD.size(1))
        self.k_LBKSD[layer].transpose(1, 2)[batch_B1, position_BT] = k_BTKD
        self.v_LBKSD[layer].transpose(1, 2)[batch_B1, position_BT] = v_BTKD
        seen = self.reach(k_BTKD.size(1))
        return self.k_LBKSD[layer, :, :, :seen], self.v_LBKSD[layer, :, :, :seen]

    def _places(self, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Return row numbers B1 and positions BT of the next tokens. Raises ValueError when they do not fit in."""
        end = self.extent + num_tokens
        if end > self.max_len:
            raise ValueError(f"decode state is full: {end} of {self.max_len} positions")
        device = self.length_B.device
        batch_B1 = torch.arange(self.length_B.size(0), device=device)[:, None]
        return batch_B1, self.length_B[:, None] + torch.arange(num_tokens, device=device)

    def last_tokens(self, idx_BT: Tensor) -> Tensor:
        """Return each row's last token before these, B1 int64, -1 for a row that begins; and remember these."""
        assert self.tokens_BS is not None, "a state of a model without smear keeps no tokens"
        batch_B1, position_BT = self._places(idx_BT.size(1))
        last_B1 = self.tokens_BS[batch_B1, (position_BT[:, :1] - 1).clamp(min=0)]
        self.tokens_BS[batch_B1, position_BT] = idx_BT
        return torch.where(position_BT[:, :1] > 0, last_B1, -1)

    def visible(self, num_tokens: int, window: int | None = None) -> Tensor:
        """Return the mask B1TS (bool): query t of row b stands at length_B[b] + t and sees what is not behind it,

        and no more than `window` positions before it.
        """
        key_S = torch.arange(self.reach(num_tokens), device=self.length_B.device)
        position_BT = self.length_B[:, None] + torch.arange(num_tokens, device=self.length_B.device)
        position_B1T1 = position_BT[:, None, :, None]
        seen = key_S <= position_B1T1
        return seen if window is None else seen & (key_S >= position_B1T1 - window)


class Attention(nn.Module):
    """Rotary angles first, then query-key norm, then causal attention with scale 1/sqrt(D).

    A layer with a window sees only so many tokens back; one with a value embedding adds a gated share of it to its
    values.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.eps = layer, config.norm_eps
        self.window, self.qk_scale = config.window(layer), config.qk_scale
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.form = "fused"
        self.kernel: Call = kernels.fused
        self.qkv = Linear(config.n_embd, sum(self.qkv_rows))
        self.out = Linear(config.n_head * config.head_dim, config.n_embd)
        self.gate_channels = min(VALUE_GATE_CHANNELS, config.n_embd)
        gated = config.has_value_embed(layer)
        self.value_gate = Linear(self.gate_channels, config.n_kv_head) if gated else None

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of the query, key and value matrices inside the fused weight."""
        return self.n_head * self.head_dim, self.n_kv_head * self.head_dim, self.n_kv_head * self.head_dim

    def forward(
        self, x_BTE: Tensor, cos: Tensor, sin: Tensor, state: DecodeState | None, value_BTE: Tensor | None = None
    ) -> Tensor:
        """Return the attention output, before it is added to the residual stream.

        `value_BTE` holds the value embedding of each token, K * D wide.
        """
        heads = self.qkv(x_BTE).unflatten(-1, (-1, self.head_dim))
        qk, v_BTKD = heads.split((self.n_head + self.n_kv_head, self.n_kv_head), dim=2)
        qk = norm(rotate(qk, cos, sin), self.eps)
        q_BTHD, k_BTKD = (qk * self.qk_scale if self.qk_scale != 1 else qk).split((self.n_head, self.n_kv_head), dim=2)
        if self.value_gate is not None and value_BTE is not None:
            gate_BTK1 = 3 * torch.sigmoid(self.value_gate(x_BTE[..., : self.gate_channels])).unsqueeze(-1)
            v_BTKD = v_BTKD + gate_BTK1 * value_BTE.unflatten(-1, (self.n_kv_head, self.head_dim))
        if state is None:
            y_BTHD = self.mix(q_BTHD, k_BTKD, v_BTKD)
        else:
            y_BTHD = self.decode(q_BTHD.transpose(1, 2), k_BTKD, v_BTKD, state).transpose(1, 2)
        return self.out(y_BTHD.flatten(2))

    def mix(self, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        """Return causal attention over a whole sequence, BTHD, by the kernel that `choose_kernel` has set."""
        # A window that reaches the first token is none: kernels are faster without.
        window = self.window if self.window is not None and self.window < q_BTHD.size(1) - 1 else None
        return self.kernel(q_BTHD, k_BTKD, v_BTKD, window)

    def decode(self, q_BHTD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, state: DecodeState) -> Tensor:
        """Append this chunk to the cache and attend over all of it, reading the cache where it lies."""
        assert isinstance(state, KVState)
        k_BKSD, v_BKSD = state.append(self.layer, k_BTKD, v_BTKD)
        dtype = v_BKSD.dtype
        if dtype == torch.float16:  # a power of two of a bounded score may exceed its range
            q_BHTD, k_BKSD, v_BKSD = q_BHTD.float(), k_BKSD.float(), v_BKSD.float()
        share, num_tokens = self.n_head // self.n_kv_head, q_BHTD.size(2)
        q = (q_BHTD * (self.head_dim**-0.5 * LOG2_E)).unflatten(1, (self.n_kv_head, share)).flatten(2, 3)
        score_BKGTS = torch.exp2((q @ k_BKSD.mT).unflatten(2, (share, num_tokens)))
        weight = (score_BKGTS * state.visible(num_tokens, self.window).unsqueeze(2)).flatten(2, 3)
        y = (weight @ v_BKSD) / weight.sum(-1, keepdim=True, dtype=torch.float32)
        return y.to(dtype).view(q_BHTD.shape)


def choose_kernel(layers: Iterable[Attention], form: str, config: ModelConfig, device: torch.device) -> None:
    """Let these layers of a model compute full sequences by a kernel, by its name (`kernels.FORMS`).

    Raises EnvironmentLacks if it cannot be used on the device.
    """
    kernel = kernels.resolve(form, Sizes.of(config), device)
    for layer in layers:
        layer.form, layer.kernel = form, kernel.call
