"""One optimizer for the whole model: each group gets the update its kind asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.optim.adamw import AdamW
from nanochat_cli.core.optim.groups import ParamGroup
from nanochat_cli.core.optim.muon import Muon


class OptimSettings(Protocol):
    """The learning rates that `build` reads, one per role; planning leaves none of them open."""

    @property
    def matrix_lr(self) -> float | None: ...
    @property
    def embedding_lr(self) -> float | None: ...
    @property
    def unembedding_lr(self) -> float | None: ...


class MuonAdamW:
    """Muon and AdamW behind one step. Gradients are expected to be reduced over processes already."""

    def __init__(self, groups: Sequence[ParamGroup], settings: OptimSettings, dtype: torch.dtype) -> None:
        rates = {
            "matrix": _settled(settings.matrix_lr),
            "embedding": _settled(settings.embedding_lr),
            "unembedding": _settled(settings.unembedding_lr),
        }
        self.muons = [Muon(g, rates[g.role] * g.lr_scale, dtype) for g in groups if g.kind == "muon"]
        self.adamws = [AdamW(g, rates[g.role] * g.lr_scale) for g in groups if g.kind == "adamw"]
        self.params = [p for g in groups for p in g.params.values()]

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale all gradients so that their global norm is at most `max_norm`; return the norm before that."""
        grads = [p.grad for p in self.params if p.grad is not None]
        total = torch.nn.utils.get_total_norm(grads)
        if max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.params, max_norm, total)
        return total

    def step(self, lr_mult: float = 1.0, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        """Update all parameters. The decay is Muon's; AdamW's groups have none."""
        for muon in self.muons:
            muon.step(lr_mult, momentum, weight_decay)
        for adamw in self.adamws:
            adamw.step(lr_mult)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for param in self.params:
            param.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the whole state as named tensors, ready for safetensors."""
        return {name: tensor for part in (*self.muons, *self.adamws) for name, tensor in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned; training continues bit for bit. Raises KeyError for a missing entry."""
        for part in (*self.muons, *self.adamws):
            part.load_state_dict(state)


def build(
    groups: Sequence[ParamGroup], settings: OptimSettings, dist: Dist | None = None, *, precision: str = "bf16"
) -> MuonAdamW:
    """Return the optimizer of a model's groups. `precision` is that of Muon's matrix products ("bf16" or "fp32").

    Every process of `dist` holds the whole state and makes the same step from the same reduced gradients.
    """
    return MuonAdamW(groups, settings, {"bf16": torch.bfloat16, "fp32": torch.float32}[precision])


def _settled(rate: float | None) -> float:
    if rate is None:
        raise ConfigError("a learning rate is not settled", hint="start training through `nanochat train`")
    return rate
