"""One optimizer for the whole model: each group gets the update its kind asks for.

Over several processes no gradient is added up before the step: every process then receives the sum of its own share of
the weights, keeps the state of that share alone (ZeRO stage 2, arXiv 1910.02054), and hands its new weights round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.optim.adamw import AdamW
from nanochat_cli.core.optim.fused import Fused
from nanochat_cli.core.optim.groups import SCALARS, ParamGroup, Role
from nanochat_cli.core.optim.muon import NEWTON_SCHULZ, POLAR_EXPRESS, Muon, Variant
from nanochat_cli.core.slices import Slice, whole

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.bfloat16, "fp32": torch.float32}


class OptimSettings(Protocol):
    """What `build` reads; planning leaves none of the rates open that a model has a group for."""

    @property
    def matrix_lr(self) -> float | None: ...
    @property
    def embedding_lr(self) -> float | None: ...
    @property
    def unembedding_lr(self) -> float | None: ...
    @property
    def value_embedding_lr(self) -> float | None: ...
    @property
    def residual_lr(self) -> float | None: ...
    @property
    def skip_lr(self) -> float | None: ...
    @property
    def gate_lr(self) -> float | None: ...
    @property
    def muon_eq(self) -> bool | None: ...
    @property
    def muon_plus(self) -> bool | None: ...
    @property
    def normuon(self) -> bool | None: ...
    @property
    def normuon_beta2(self) -> float | None: ...
    @property
    def polar(self) -> str | None: ...
    @property
    def cautious_decay(self) -> bool | None: ...


class MuonAdamW:
    """Muon and AdamW behind one step: `collect` the gradients, look at them or `clip` them, then `step`."""

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        settings: OptimSettings,
        dist: Dist,
        dtype: torch.dtype,
        batch_scale: float = 1.0,
        fused: bool = False,
        scalar_scale: float | None = None,
        carried: Mapping[str, Tensor] | None = None,
    ) -> None:
        variant = _variant(settings, dtype)
        update = Fused(variant) if fused else None

        def scale(group: ParamGroup) -> float:
            if scalar_scale is not None and group.role in SCALARS:
                return scalar_scale
            return batch_scale if group.batch_scaled else 1.0

        rates = {id(g): _rate(settings, g.role) * g.lr_scale * scale(g) for g in groups}
        self.dist = dist
        self.muons = [Muon(g, rates[id(g)], variant, dist, update) for g in groups if g.kind == "muon"]
        self.adamws = [AdamW(g, rates[id(g)], dist) for g in groups if g.kind == "adamw"]
        self.params = [p for g in groups for p in g.params.values()]
        self.carried = dict(carried or {})
        self._grads: list[Tensor] | None = None

    def collect(self) -> list[Tensor]:
        """Add the gradients up over all processes; return this one's share of the sums. Called once per step."""
        if self._grads is None:
            parts = (*self.muons, *self.adamws)
            for part in parts:  # all at once: while one is summed, the next is put together
                part.start()
            self._grads = [grad for part in parts for grad in part.collect()]
        return self._grads

    def clip(self, max_norm: float | None, scale: float = 1.0) -> Tensor:
        """Divide all gradients by `scale`, then make their global norm at most `max_norm`; return it as it was between.

        A norm that is no finite number means that the step must be left out.
        """
        grads = self.collect()
        sums = [grad.float().square().sum() for grad in grads]
        total = self.dist.all_reduce_sum(torch.stack(sums).sum() if sums else torch.zeros(())).sqrt()
        total = total / scale
        if max_norm is not None or scale != 1.0:
            shrink = 1.0 if max_norm is None else (max_norm / (total + 1e-6)).clamp(max=1.0)
            for grad in self._every_grad():
                grad.mul_(shrink / scale)
        return total

    def _every_grad(self) -> list[Tensor]:
        """The sums that this process will use: its share, and what all processes update alike."""
        entries = [entry for adamw in self.adamws for entry in adamw.entries.values()]
        found = [stack.grad for muon in self.muons for stack in muon.stacks]
        return found + [entry.grad for entry in entries if entry.grad is not None]

    def step(self, lr_mult: float = 1.0, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        """Update all parameters. The decay is Muon's; AdamW's groups have their own."""
        self.collect()
        for adamw in self.adamws:  # first: their weights travel while Muon computes
            adamw.update(lr_mult)
        for muon in self.muons:
            muon.update(lr_mult, momentum, weight_decay)
        for part in (*self.adamws, *self.muons):
            part.finish()
        self._grads = None

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._grads = None
        for param in self.params:
            param.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the whole state as named tensors, ready for safetensors. Every process must call it."""
        state = {name: tensor for part in (*self.muons, *self.adamws) for name, tensor in part.state_dict().items()}
        return {**state, **{name: tensor.detach() for name, tensor in self.carried.items()}}

    def slices(self) -> list[Slice]:
        """Return the parts of that state which this process holds: all processes' together are the whole."""
        carried = {name: tensor.detach() for name, tensor in self.carried.items()} if self.dist.is_main else {}
        return [
            *(part for muon in self.muons for part in muon.slices()),
            *(part for adamw in self.adamws for part in adamw.slices()),
            *whole(carried),
        ]

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned; training continues bit for bit. Raises KeyError for a missing entry."""
        for part in (*self.muons, *self.adamws):
            part.load_state_dict(state)
        with torch.no_grad():
            for name, tensor in self.carried.items():
                tensor.copy_(state[name])


def build(
    groups: Sequence[ParamGroup],
    settings: OptimSettings,
    dist: Dist | None = None,
    *,
    precision: str = "bf16",
    batch_scale: float = 1.0,
    fused: bool = False,
    scalar_scale: float | None = None,
    carried: Mapping[str, Tensor] | None = None,
) -> MuonAdamW:
    """Return the optimizer of a model's groups. `precision` is that of Muon's matrix products ("bf16" or "fp32").

    `batch_scale` multiplies the rates of all groups that depend on the batch size, `scalar_scale`, if given, those of
    the residual stream's scalars instead; `fused` compiles Muon's update. `carried` are trained numbers that no model's
    weights hold: they are saved and restored with the state.
    """
    dtype = _PRECISIONS[precision]
    return MuonAdamW(groups, settings, dist or Dist(), dtype, batch_scale, fused, scalar_scale, carried)


def _variant(settings: OptimSettings, dtype: torch.dtype) -> Variant:
    return Variant(
        eq=bool(settings.muon_eq),
        plus=bool(settings.muon_plus),
        beta2=settings.normuon_beta2 if settings.normuon else None,
        cautious=bool(settings.cautious_decay),
        coefficients=NEWTON_SCHULZ if settings.polar == "newton-schulz" else POLAR_EXPRESS,
        dtype=dtype,
    )


def _rate(settings: OptimSettings, role: Role) -> float:
    rates = {
        "matrix": settings.matrix_lr,
        "embedding": settings.embedding_lr,
        "unembedding": settings.unembedding_lr,
        "value_embedding": settings.value_embedding_lr,
        "residual": settings.residual_lr,
        "skip": settings.skip_lr,
        "gate": settings.gate_lr,
    }
    rate = rates[role]
    if rate is None:
        raise ConfigError(f"a learning rate is not settled: {role}", hint="start training through `nanochat train`")
    return rate
