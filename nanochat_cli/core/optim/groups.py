"""Which parameters get which update. A model describes its groups; the optimizer obeys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ParamGroup:
    """Parameters that share an update rule and a learning rate.

    `role` names the setting that gives the rate; `lr_scale` multiplies it. `splits` cuts a parameter, by rows, into
    matrices that the update treats as separate ones.
    """

    kind: Literal["muon", "adamw"]
    role: Literal["matrix", "embedding", "unembedding"]
    params: Mapping[str, Tensor]
    lr_scale: float = 1.0
    splits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

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
