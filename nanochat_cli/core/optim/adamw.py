"""AdamW over one group, with a state that is a flat set of named tensors.

The kernel is torch's own; its optimizer class is not used, as that imports torch's whole compiler on construction,
which takes seconds per process.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat_cli.core.optim.groups import ParamGroup

BETAS = (0.8, 0.95)
EPS = 1e-10


class AdamW:
    """AdamW (arXiv 1711.05101) with betas 0.8, 0.95, eps 1e-10 and no weight decay."""

    def __init__(self, group: ParamGroup, lr: float) -> None:
        self.lr, self.params = lr, dict(group.params)
        self.state: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, lr_mult: float) -> None:
        """Update every parameter that has a gradient."""
        for name, param in self.params.items():
            if param.grad is None:
                continue
            if name not in self.state:
                zeros = {slot: torch.zeros_like(param) for slot in ("exp_avg", "exp_avg_sq")}
                self.state[name] = {"step": torch.zeros((), device=param.device), **zeros}
            _update(param, param.grad, self.state[name], self.lr * lr_mult)

    def state_dict(self) -> dict[str, Tensor]:
        """Return step count and both moments of each parameter; empty before the first step."""
        return {f"{name}.{slot}": value for name, slots in self.state.items() for slot, value in slots.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, param in self.params.items():
            if f"{name}.step" in state:
                moments = {slot: state[f"{name}.{slot}"].to(param, copy=True) for slot in ("exp_avg", "exp_avg_sq")}
                self.state[name] = {"step": state[f"{name}.step"].to(param.device, copy=True), **moments}


def _update(param: Tensor, grad: Tensor, state: dict[str, Tensor], lr: float) -> None:
    """Move one parameter by lr * m / (sqrt(v) + eps), both moments corrected for their start at zero, in one pass."""
    state["step"] += 1
    torch.ops.aten._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
        [param],
        [grad],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        lr=lr,
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=0.0,
        eps=EPS,
        amsgrad=False,
        maximize=False,
    )
