"""AdamW over one group: torch's own, with a state that is a flat set of named tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat_cli.core.optim.groups import ParamGroup

BETAS = (0.8, 0.95)
EPS = 1e-10
_SLOTS = ("step", "exp_avg", "exp_avg_sq")


class AdamW:
    """AdamW (arXiv 1711.05101) with betas 0.8, 0.95, eps 1e-10 and no weight decay."""

    def __init__(self, group: ParamGroup, lr: float) -> None:
        self.lr, self.params = lr, dict(group.params)
        self.torch = torch.optim.AdamW(list(self.params.values()), lr=lr, betas=BETAS, eps=EPS, weight_decay=0.0, fused=True)

    def step(self, lr_mult: float) -> None:
        """Update every parameter that has a gradient."""
        self.torch.param_groups[0]["lr"] = self.lr * lr_mult
        self.torch.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Return step count and both moments of each parameter; empty before the first step."""
        return {f"{n}.{slot}": v for n, p in self.params.items() for slot, v in self.torch.state[p].items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, param in self.params.items():
            if f"{name}.step" in state:
                self.torch.state[param] = {slot: state[f"{name}.{slot}"].clone() for slot in _SLOTS}
