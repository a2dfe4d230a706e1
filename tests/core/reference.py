"""The modern recipe once more, as plain as it can be written: what the model and the optimizer are compared with.

Everything here follows the published formulas one sequence, head, query and matrix at a time, in fp64, and shares no
code with what it checks. Weights are given by the names of the model's own state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nanochat_cli.core.models.shape import ModelConfig

Weights = Mapping[str, Tensor]

# ---- the network -----------------------------------------------------------------------------------------------------


def unit(x: Tensor, eps: float) -> Tensor:
    """The last dimension at a root mean square of 1."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def turned(x_TD: Tensor, base: float) -> Tensor:
    """One head's vectors, one per position: pair (i, i + D/2) turned by -position * base^(-2i/D)."""
    half = x_TD.size(1) // 2
    theta = torch.tensor([[-t * base ** (-i / half) for i in range(half)] for t in range(len(x_TD))], dtype=x_TD.dtype)
    a, b = x_TD[:, :half], x_TD[:, half:]
    return torch.cat((a * theta.cos() - b * theta.sin(), a * theta.sin() + b * theta.cos()), -1)


def attention(config: ModelConfig, w: Weights, layer: int, u_TE: Tensor, ids: Sequence[int]) -> Tensor:
    """One layer's attention over one sequence; `u` is the normed input of its block."""
    d, at, num_tokens = config.head_dim, f"blocks.{layer}.attn", len(ids)
    q_rows, kv_rows = config.n_head * d, config.n_kv_head * d
    q_TE, k_TE, v_TE = (u_TE @ w[f"{at}.qkv.weight"].T).split((q_rows, kv_rows, kv_rows), -1)
    has_values = config.value_embeds_every and (config.n_layer - 1 - layer) % config.value_embeds_every == 0
    letter = config.window_pattern[layer % len(config.window_pattern)]
    window = config.short_window if letter == "S" and layer != config.n_layer - 1 else num_tokens

    def head(x_TE: Tensor, h: int) -> Tensor:
        return unit(turned(x_TE[:, h * d : (h + 1) * d], config.rope_base), config.norm_eps) * config.qk_scale

    heads = []
    for h in range(config.n_head):
        kv = h // (config.n_head // config.n_kv_head)
        query_TD, key_TD, value_TD = head(q_TE, h), head(k_TE, kv), v_TE[:, kv * d : (kv + 1) * d]
        if has_values:
            gate_T = 3 / (1 + torch.exp(-(u_TE[:, :12] @ w[f"{at}.value_gate.weight"][kv])))
            table = w[f"value_embeds.{layer}.weight"]
            value_TD = value_TD + gate_T[:, None] * table[list(ids), kv * d : (kv + 1) * d]
        rows = []
        for t in range(num_tokens):
            seen = slice(max(0, t - window), t + 1)  # so many before it, and itself
            rows.append((key_TD[seen] @ query_TD[t] / math.sqrt(d)).softmax(0) @ value_TD[seen])
        heads.append(torch.stack(rows))
    return torch.cat(heads, -1) @ w[f"{at}.out.weight"].T


def hidden(config: ModelConfig, w: Weights, ids: Sequence[int]) -> Tensor:
    """What the head reads, TE, for one sequence."""
    eps = config.norm_eps
    plain = unit(w["embed.weight"][list(ids)], eps)
    smeared = [plain[0]]
    for t in range(1, len(ids)):
        if config.smear:
            gate = 1 / (1 + torch.exp(-(w["smear.gate.weight"][0] @ plain[t, :24])))
            smeared.append(plain[t] + w["smear.scale"] * gate * plain[t - 1])  # the one before, not smeared itself
        else:
            smeared.append(plain[t])
    first = x = middle = torch.stack(smeared)
    for layer in range(config.n_layer):
        if config.residual_scalars:
            x = w["residual_scale_L"][layer] * x + w["skip_scale_L"][layer] * first
        x = x + attention(config, w, layer, unit(x, eps), ids)
        up = unit(x, eps) @ w[f"blocks.{layer}.mlp.up.weight"].T
        x = x + torch.where(up > 0, up * up, torch.zeros_like(up)) @ w[f"blocks.{layer}.mlp.down.weight"].T
        if layer == math.floor(config.n_layer / 2):
            middle = x
    if config.backout:
        x = x - w["backout_scale"] * middle
    return unit(x, eps)


def logits(config: ModelConfig, w: Weights, ids: Sequence[int]) -> Tensor:
    """Scores of the vocabulary, TV, for one sequence; rows of the head beyond it stand for nothing."""
    z = (hidden(config, w, ids) @ w["head.weight"].T)[:, : config.vocab_size]
    return config.softcap * torch.tanh(z / config.softcap)


def losses(config: ModelConfig, w: Weights, ids: Sequence[int], targets: Sequence[int]) -> Tensor:
    """-log p of each target of one sequence, in nats, T."""
    scores = logits(config, w, ids)
    return torch.logsumexp(scores, -1) - scores[torch.arange(len(ids)), list(targets)]


# ---- the optimizer ---------------------------------------------------------------------------------------------------

EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
PLAIN = ((3.4445, -4.7750, 2.0315),) * 5


def modern_muon(
    lr: float, momentum: Callable[[int], float], decay: Callable[[int], float], lr_mult: Callable[[int], float]
) -> Callable[[Tensor, Tensor, dict[str, Tensor], int], Tensor]:
    """Return (weight, gradient, own state, step) -> new weight, with all refinements."""

    def update(p: Tensor, grad: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
        rows, columns, mu = *p.shape, momentum(step)
        state["buffer"] = mu * state.get("buffer", torch.zeros_like(p)) + (1 - mu) * grad
        g = (1 - mu) * grad + mu * state["buffer"]
        of_rows = g.norm(dim=1, keepdim=True)
        g = g * (g.norm() / math.sqrt(rows)) / of_rows.clamp(min=1e-6)
        x = g / (1.01 * g.norm() + 1e-6)
        for a, b, c in EXPRESS:
            square = x.T @ x if rows > columns else x @ x.T
            poly = b * square + c * square @ square
            x = a * x + (x @ poly if rows > columns else poly @ x)
        x = x * math.sqrt(min(rows, columns)) / x.norm().clamp(min=1e-6)
        size = x.norm()
        mean = (x * x).mean(1, keepdim=True) if rows >= columns else (x * x).mean(0, keepdim=True)
        state["mean"] = 0.9 * state.get("mean", torch.zeros_like(mean)) + 0.1 * mean
        x = x / torch.sqrt(state["mean"].clamp(min=1e-10))
        x = x * size / x.norm().clamp(min=1e-6)
        eta = lr * lr_mult(step) * math.sqrt(max(1.0, rows / columns))
        return p - eta * (x + decay(step) * p * (x * p >= 0))

    return update


def seed_muon(
    lr: float, momentum: Callable[[int], float], lr_mult: Callable[[int], float]
) -> Callable[[Tensor, Tensor, dict[str, Tensor], int], Tensor]:
    """The same without any refinement, with the polynomial of November 2025."""

    def update(p: Tensor, grad: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
        rows, columns, mu = *p.shape, momentum(step)
        state["buffer"] = mu * state.get("buffer", torch.zeros_like(p)) + (1 - mu) * grad
        x = (1 - mu) * grad + mu * state["buffer"]
        x = x / (1.01 * x.norm() + 1e-6)
        for a, b, c in PLAIN:
            square = x.T @ x if rows > columns else x @ x.T
            poly = b * square + c * square @ square
            x = a * x + (x @ poly if rows > columns else poly @ x)
        return p - lr * lr_mult(step) * math.sqrt(max(1.0, rows / columns)) * x

    return update


def adamw(
    lr: float, betas: tuple[float, float], decay: float, lr_mult: Callable[[int], float]
) -> Callable[[Tensor, Tensor, dict[str, Tensor], int], Tensor]:
    """Return (weight, gradient, own state, step) -> new weight; eps is added after the correction of the bias."""

    def update(p: Tensor, grad: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
        one, two = betas
        state["m"] = one * state.get("m", torch.zeros_like(p)) + (1 - one) * grad
        state["v"] = two * state.get("v", torch.zeros_like(p)) + (1 - two) * grad * grad
        m, v = state["m"] / (1 - one ** (step + 1)), state["v"] / (1 - two ** (step + 1))
        rate = lr * lr_mult(step)
        return p * (1 - rate * decay) - rate * m / (torch.sqrt(v) + 1e-10)

    return update
