"""Rank, world and the few collectives that training needs; with one process each of them is a no-op."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as td
from torch import Tensor

from nanochat_cli.core.errors import EnvironmentLacks

_PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: the main one may compile, for ten minutes at most, before training."""


class Coming:
    """A tensor that a collective is working on, beside whatever is computed meanwhile."""

    def __init__(self, tensor: Tensor, work: td.Work | None = None, *, own: slice | None = None) -> None:
        self._tensor, self._work, self._own = tensor, work, own

    def get(self) -> Tensor:
        """Wait for the tensor and return it. On a GPU only its stream waits."""
        if self._work is not None:
            self._work.wait()
            self._work = None
            if self._own is not None:  # of a sum that is there as a whole: let go of the rest
                self._tensor, self._own = self._tensor[self._own].clone(), None
        return self._tensor


@dataclass(frozen=True, kw_only=True)
class Dist:
    """This process among its peers. Every method must be called by all of them, in the same order."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process saves, reports and evaluates for all."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether this process does what each machine needs once, such as files on a disk that is not shared."""
        return self.local_rank == 0

    def start_sum(self, tensor: Tensor) -> Coming:
        """Begin to add the tensor up over all processes, in place."""
        return Coming(tensor, td.all_reduce(tensor, async_op=True) if self.world > 1 else None)

    def start_sum_and_share(self, stacked: Tensor) -> Coming:
        """Begin to add the tensor up; what comes is this process's share of its first dimension, which must divide.

        The tensor belongs to the collective from now on, and may be overwritten.
        """
        if self.world == 1:
            return Coming(stacked)
        share = stacked.size(0) // self.world
        if self.device.type == "cuda":
            mine = torch.empty_like(stacked[:share])
            return Coming(mine, td.reduce_scatter_tensor(mine, stacked.contiguous(), async_op=True))
        own = slice(self.rank * share, (self.rank + 1) * share)
        return Coming(stacked, td.all_reduce(stacked, async_op=True), own=own)  # gloo has nothing cheaper

    def start_gather(self, mine: Tensor) -> Coming:
        """Begin to collect the shares of all processes, one after another along the first dimension."""
        if self.world == 1:
            return Coming(mine)
        whole = mine.new_empty((self.world * mine.size(0), *mine.shape[1:]))
        return Coming(whole, td.all_gather_into_tensor(whole, mine.contiguous(), async_op=True))

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Add the tensor up over all processes, in place; return it."""
        return self.start_sum(tensor).get()

    def gather_shares(self, mine: Tensor) -> Tensor:
        """Return the shares of all processes, one after another along the first dimension."""
        return self.start_gather(mine).get()

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrite the tensor with the main process's; return it."""
        if self.world > 1:
            td.broadcast(tensor, src=0)
        return tensor

    def main_text(self, text: str) -> str:
        """Return the main process's text."""
        if self.world == 1:
            return text
        data = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        size = self.broadcast(torch.tensor([data.numel()], device=self.device))
        if not self.is_main:
            data = torch.empty(int(size.item()), dtype=torch.uint8, device=self.device)
        return bytes(self.broadcast(data).tolist()).decode()

    def minimum(self, value: int) -> int:
        """Return the smallest of all processes' values."""
        if self.world == 1:
            return value
        found = torch.tensor(value, dtype=torch.int64, device=self.device)
        td.all_reduce(found, op=td.ReduceOp.MIN)
        return int(found.item())

    def any(self, flag: bool) -> bool:
        """Return whether any process raised the flag."""
        if self.world == 1:
            return flag  # asking a GPU would wait for all that it has to do
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
    found = torch.cuda.device_count() if use_gpu else 0
    index = 0 if found == 1 and "SLURM_LOCALID" in os.environ else local  # srun may show each process only its own GPU
    if use_gpu and index >= found:
        raise EnvironmentLacks(f"no GPU for process {local}: {found} found", hint="add --gpus 0")
    device = torch.device("cuda", index) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if world > 1:
        td.init_process_group("nccl" if use_gpu else "gloo", rank=rank, world_size=world, timeout=_PATIENCE)
    return Dist(rank=rank, world=world, local_rank=local, device=device)
