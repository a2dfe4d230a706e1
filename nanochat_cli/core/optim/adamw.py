"""AdamW over one group, with a state that is a flat set of named tensors.

The kernel is torch's own; its optimizer class is not used, as that imports torch's whole compiler on construction,
which takes seconds per process.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat_cli.core.dist import Coming, Dist
from nanochat_cli.core.optim.groups import ParamGroup
from nanochat_cli.core.slices import Slice

EPS = 1e-10
SHARED_FROM = 1024
"""Parameters with fewer weights are updated by every process: a share of them is not worth a collective."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Entry:
    """One parameter; over several processes each owns an equal share of its weights, in their flat order."""

    def __init__(self, param: Tensor, dist: Dist) -> None:
        self.param, self.dist = param, dist
        self.shared = dist.world > 1 and param.numel() >= SHARED_FROM
        self.moments: dict[str, Tensor] = {}
        self.count = torch.zeros((), device=param.device)
        self.grad: Tensor | None = None
        self._sum: Coming | None = None
        self._new: Coming | None = None

    def start(self) -> None:
        """Begin to add up the gradient over all processes."""
        grad = self.param.grad
        if grad is not None:
            self._sum = self.dist.start_sum_and_share(self._padded(grad)) if self.shared else self.dist.start_sum(grad)

    def collect(self) -> Tensor | None:
        """Wait for what was started; keep and return this process's share of the sum."""
        self.grad = None if self._sum is None else self._sum.get()
        self._sum = None
        return self.grad

    def update(self, lr: float, betas: tuple[float, float], decay: float) -> None:
        """Scale by 1 - lr * decay, then move by lr * m / (sqrt(v) + eps), both moments corrected for starting at 0.

        Where each process did its share, hand them round; they arrive by `finish`.
        """
        if self.grad is None:
            return
        own = self._own(self.param) if self.shared else self.param
        if not self.moments:
            self.moments = {slot: torch.zeros_like(own) for slot in _MOMENTS}
        self.count += 1
        torch.ops.aten._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
            [own],
            [self.grad],
            [self.moments["exp_avg"]],
            [self.moments["exp_avg_sq"]],
            [],
            [self.count],
            lr=lr,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )
        if self.shared:
            self._new = self.dist.start_gather(own)

    def finish(self) -> None:
        """Take over the weights that the other processes have updated."""
        if self._new is not None:
            self.param.copy_(self._flattened(self._new.get()))
            self._new = None

    def state(self) -> dict[str, Tensor]:
        """Return step count and both moments, whole; empty before the first step. Every process must call it."""
        if not self.moments:
            return {}
        whole = {slot: self._whole(own) if self.shared else own for slot, own in self.moments.items()}
        return {"step": self.count, **whole}

    def slices(self, name: str) -> list[Slice]:
        """Return what `state` returns, of what this process holds; what all hold alike comes from the main one."""
        if not self.moments:
            return []
        parts = [Slice(f"{name}.step", self.count, ())] if self.dist.is_main else []
        for slot, own in self.moments.items():
            if not self.shared:
                parts += [Slice(f"{name}.{slot}", own, tuple(own.shape))] if self.dist.is_main else []
                continue
            first = self.dist.rank * own.numel()
            if (count := min(own.numel(), self.param.numel() - first)) > 0:
                parts.append(Slice(f"{name}.{slot}", own.view(-1)[:count], tuple(self.param.shape), first))
        return parts

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take this process's share of what `state` returned."""
        self.count = state["step"].to(self.param.device, copy=True)
        for slot in _MOMENTS:
            whole = state[slot].to(self.param, copy=True)
            self.moments[slot] = self._own(whole) if self.shared else whole

    def _padded(self, tensor: Tensor) -> Tensor:
        world = self.dist.world
        share = -(-tensor.numel() // world)
        flat = tensor.reshape(-1)
        return torch.nn.functional.pad(flat, (0, share * world - flat.numel())).view(world, share)

    def _own(self, tensor: Tensor) -> Tensor:
        share = -(-tensor.numel() // self.dist.world)
        flat = tensor.reshape(-1)[self.dist.rank * share : (self.dist.rank + 1) * share]
        return torch.nn.functional.pad(flat, (0, share - flat.numel())).view(1, share)

    def _whole(self, own: Tensor) -> Tensor:
        return self._flattened(self.dist.gather_shares(own))

    def _flattened(self, shares: Tensor) -> Tensor:
        return shares.reshape(-1)[: self.param.numel()].view_as(self.param)


class AdamW:
    """AdamW (arXiv 1711.05101) with eps 1e-10 over one group."""

    def __init__(self, group: ParamGroup, lr: float, dist: Dist | None = None) -> None:
        self.lr, self.betas, self.decay = lr, group.betas, group.decay
        self.entries = {name: Entry(param, dist or Dist()) for name, param in group.params.items()}

    @torch.no_grad()
    def start(self) -> None:
        """Begin to add gradients up over all processes."""
        for entry in self.entries.values():
            entry.start()

    @torch.no_grad()
    def collect(self) -> list[Tensor]:
        """Wait for the sums and return this process's part of them, each weight in one process."""
        found = [(entry, entry.collect()) for entry in self.entries.values()]
        return [grad for entry, grad in found if grad is not None and (entry.shared or entry.dist.is_main)]

    @torch.no_grad()
    def update(self, lr_mult: float) -> None:
        """Update every parameter that has a gradient, and begin to hand the new weights round."""
        for entry in self.entries.values():
            entry.update(self.lr * lr_mult, self.betas, self.decay)

    @torch.no_grad()
    def finish(self) -> None:
        """Wait until every process has all new weights."""
        for entry in self.entries.values():
            entry.finish()

    def state_dict(self) -> dict[str, Tensor]:
        """Return step count and both moments of each parameter; empty before the first step."""
        return {f"{name}.{slot}": t for name, entry in self.entries.items() for slot, t in entry.state().items()}

    def slices(self) -> list[Slice]:
        """Return what `state_dict` returns, as the parts that this process holds."""
        return [part for name, entry in self.entries.items() for part in entry.slices(name)]

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned, by any number of processes."""
        for name, entry in self.entries.items():
            if f"{name}.step" in state:
                entry.restore({slot: state[f"{name}.{slot}"] for slot in ("step", *_MOMENTS)})
