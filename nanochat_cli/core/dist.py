"""Rank, world and the few collectives that training needs; with one process each of them is a no-op."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as td
from torch import Tensor

from nanochat_cli.core.errors import EnvironmentLacks


@dataclass(frozen=True, kw_only=True)
class Dist:
    """This process among its peers. Every method must be called by all of them, in the same order."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process saves, reports and evaluates for all."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Add the tensor up over all processes, in place; return it."""
        if self.world > 1:
            td.all_reduce(tensor)
        return tensor

    def sum_gradients(self, params: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over all processes. Parameters without one are left out by every process."""
        if self.world == 1:
            return
        grads = [p.grad for p in params if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        td.all_reduce(flat)
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrite the tensor with the main process's; return it."""
        if self.world > 1:
            td.broadcast(tensor, src=0)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether any process raised the flag."""
        return bool(self.all_reduce_sum(torch.tensor(float(flag), device=self.device)).item())

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.any(False)  # a collective on our own device: nccl's barrier would guess one

    def close(self) -> None:
        """Leave the group, all at the same time: who goes first would close connections that others still use."""
        if self.world > 1 and td.is_initialized():
            self.barrier()
            td.destroy_process_group()


def init(gpus: int | None = None) -> Dist:
    """Return this process's place, from RANK, LOCAL_RANK and WORLD_SIZE as torchrun sets them.

    `gpus`: 0 means CPU, None a GPU if there is one. Raises EnvironmentLacks when a GPU is asked for and none is there.
    """
    rank, local = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    use_gpu = torch.cuda.is_available() if gpus is None else gpus > 0
    if use_gpu and local >= torch.cuda.device_count():
        raise EnvironmentLacks(f"no GPU for process {local}: {torch.cuda.device_count()} found", hint="add --gpus 0")
    device = torch.device("cuda", local) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if world > 1:
        td.init_process_group("nccl" if use_gpu else "gloo", rank=rank, world_size=world)
    return Dist(rank=rank, world=world, device=device)
