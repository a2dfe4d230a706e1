"""Which parameters get which update. A model describes its groups; the optimizer obeys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Role = Literal["matrix", "embedding", "unembedding", "value_embedding", "residual", "skip", "gate"]

SCALARS: tuple[Role, ...] = ("residual", "skip", "gate")
"""A few numbers per layer that steer the whole residual stream."""


@dataclass(frozen=True, kw_only=True)
class ParamGroup:
    """Parameters that share an update rule and a learning rate.

    `role` names the setting that gives the rate; `lr_scale` multiplies it, and so does the scale of the batch unless
    `batch_scaled` is off. `betas` and `decay` are AdamW's; Muon's are set for the whole run. `splits` cuts a parameter,
    by rows, into matrices that the update treats as separate ones.
    """

    kind: Literal["muon", "adamw"]
    role: Role
    params: Mapping[str, Tensor]
    lr_scale: float = 1.0
    batch_scaled: bool = True
    betas: tuple[float, float] = (0.8, 0.95)
    decay: float = 0.0
    splits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        role: Role,
        params: Mapping[str, Tensor],
        lr_scale: float = 1.0,
        *,
        betas: tuple[float, float] = (0.8, 0.95),
        decay: float = 0.0,
        batch_scaled: bool = True,
    ) -> ParamGroup:
        """Return a group that AdamW updates."""
        return cls(
            kind="adamw",
            role=role,
            params=params,
            lr_scale=lr_scale,
            betas=betas,
            decay=decay,
            batch_scaled=batch_scaled,
        )

    @classmethod
    def matrices(cls, params: Mapping[str, Tensor], splits: Mapping[str, tuple[int, ...]] | None = None) -> ParamGroup:
        """Return the group of the blocks' matrices.

        Raises ValueError for a parameter that is not a matrix, or for splits that do not add up to its rows.
        """
        for name, param in params.items():
            if param.dim() != 2:
                raise ValueError(f"muon needs matrices: {name} has shape {tuple(param.shape)}")
        for name, rows in (splits or {}).items():
            if sum(rows) != params[name].size(0):
                raise ValueError(f"the parts of {name} do not add up to its {params[name].size(0)} rows: {rows}")
        return cls(kind="muon", role="matrix", params=params, splits=splits or {})
