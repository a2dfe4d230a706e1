"""What a training promises about repeating itself, and what has to be asked of torch for that.

L1: on a CPU, with the same machine, threads and processes, a resumed training ends with the very same weights.
L2: the same on a GPU with `--deterministic`, which is slower.
L3: on a GPU without it: the same rows in the same order; sums may be added up in another order.
L4: after a change of processes, threads, torch or processor: the same rows in each step; sums in another order.

Where training went back after bad batches, where to is decided by what had been saved: by the clock, unless
`--save-every` counts steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nanochat_cli.core import machine
from nanochat_cli.core.dist import Dist


@dataclass(frozen=True)
class Level:
    """A promise: its short name, and what it says."""

    name: str
    says: str


L1 = Level("L1", "a resume on this machine, with as many threads and processes, ends with the same bits")
L2 = Level("L2", "deterministic kernels: a resume on this kind of GPU, with as many of them, ends with the same bits")
L3 = Level("L3", "the same rows in the same order; the last bits may differ, as sums on a GPU have no fixed order")
L4 = Level("L4", "the same rows in every step; the last bits differ: processes, threads, torch or processor changed")


def ask(device: torch.device, deterministic: bool) -> None:
    """Ask torch for the same bits in every run: always on a CPU, if wanted on a GPU. Call it before compiling anything.

    Compiled code otherwise adds up the embedding's gradient in the order in which its threads arrive. The kernels that
    replace it cost nothing measurable on a CPU; on a GPU they do. New tensors are not filled first, which is the other
    half of that setting and would cost. What libraries read from the environment is set by `core.launch`.
    """
    if device.type != "cpu" and not deterministic:
        return
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


REPEATABLE = ("fused", "matmul")
"""Attention kernels whose backward pass adds up in a fixed order once torch was asked for that."""


def here(dist: Dist) -> dict[str, Any]:
    """Return what the bits of a training depend on besides its config, for its checkpoints."""
    on_gpu = dist.device.type == "cuda"
    processor = torch.cuda.get_device_name(dist.device) if on_gpu else machine.describe().get("cpu")
    return {
        "world": dist.world,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": processor,
    }


def level(dist: Dist, deterministic: bool, before: Mapping[str, Any] | None = None) -> Level:
    """Return what this training promises; `before` is the config of the checkpoint that it goes on from."""
    if before is not None and any(before.get(key, value) != value for key, value in here(dist).items()):
        return L4
    if dist.device.type == "cpu":
        return L1
    return L2 if deterministic else L3
