"""How many rows one forward and backward pass takes: estimated, tried on the device, halved until they fit.

The rows of a step are fixed by the total batch; this decides only into how many pieces they are cut. The answer is the
same on all processes, is remembered per device and shape, and goes into the run's own files, so that a resumed run cuts
alike. Rows that stop fitting later are halved once more by the loop, which then repeats the step.

Tensor suffixes: B rows, T positions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nanochat_cli.core import cachefile, files, machine
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import EnvironmentLacks, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.units import many

_MOST_TOKENS = {"cpu": 8_192}
_MOST_TOKENS_GPU = 65_536
"""Tokens of one pass beyond which nothing is gained: the device is busy as it is."""
# The first guess shall be too large rather than too small: it is halved when it fails, but never doubled.
_VALUES_PER_CHANNEL = 14  # kept for the backward pass, per token, layer and channel, in the arithmetic's dtype
_BYTES_PER_LOGIT = 8  # beside the logit itself: the loss works in fp32, on one copy at a time
_BYTES_PER_WEIGHT = 12  # gradient and two numbers of the optimizer, all fp32
_BUSY = 0.95  # share of the free memory that allocators can really use


class DoesNotFit(NanochatError):
    """A pass ran out of memory, here or on another process; nothing has changed, and fewer rows may do."""


class ComputeOptions(Protocol):
    """The part of `settings.ComputeSection` that is used here."""

    @property
    def precision(self) -> str: ...
    @property
    def attention(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What is cut: so many rows per process and step, computed in this way."""

    rows: int
    dtype: str
    attention: str
    trained: int | None = None
    """How many weights, if not all."""

    @classmethod
    def likely(
        cls, rows: int, compute: ComputeOptions, device: torch.device, model: LanguageModel | None = None
    ) -> Pass:
        """Return how the rows will be computed, as far as can be told before the kernels are timed."""
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        dtype = ("bf16" if bf16 else "fp32") if compute.precision == "auto" else compute.precision
        form = "fused" if compute.attention == "auto" else compute.attention
        part = None if model is None or model.num_trained() == model.num_params() else model.num_trained()
        return cls(rows=rows, dtype=dtype, attention=form, trained=part)


def choose(model: LanguageModel, work: Pass, dist: Dist, *, cache_path: Path, log: Log = NULL) -> int:
    """Return the rows per pass: remembered, or the most that a real pass of this model got through. Divides `rows`.

    The weights stay as they are. Raises EnvironmentLacks if not even one row fits. Called by every process.
    """
    known = cachefile.read(cache_path).get(key(model.config, work, dist)) if dist.is_main else None
    size = int(dist.broadcast(torch.tensor([known if isinstance(known, int) else 0], device=dist.device)).item())
    if size > 0:
        return at_most(work.rows, size)
    guess = estimate(model.config, model.num_trained(), work.dtype, free_memory(dist.device), dist.device)
    size = at_most(work.rows, dist.minimum(guess))
    while dist.any(not fits(model, work, size)):
        if size == 1:
            raise too_large(model.config, dist.device)
        log.note(f"too much for the memory of {dist.device}: {many(size, 'row')} at a time")
        size = at_most(work.rows, size // 2)
    if dist.is_main:
        remember(cache_path, model.config, work, dist, size)
    log.note(f"the memory of {dist.device} holds {size} of {many(work.rows, 'row')} at a time")
    return size


def at_most(rows: int, limit: int) -> int:
    """Return the largest divisor of `rows` up to `limit` (at least 1): all passes of a step are equally large."""
    return next(n for n in range(max(1, min(rows, limit)), 0, -1) if rows % n == 0)


def estimate(config: ModelConfig, num_params: int, dtype: str, free: int, device: torch.device) -> int:
    """Return the rows that may fit into `free` bytes beside gradients and optimizer, at least 1. 0 bytes = unknown."""
    most = max(1, _MOST_TOKENS.get(device.type, _MOST_TOKENS_GPU) // config.max_seq_len)
    if free <= 0:
        return most
    width = 4 if dtype == "fp32" else 2
    per_token = config.n_layer * config.n_embd * _VALUES_PER_CHANNEL * width
    per_token += config.vocab_size * (_BYTES_PER_LOGIT + width)
    room = _BUSY * free - _BYTES_PER_WEIGHT * num_params
    return max(1, min(most, int(room / (per_token * config.max_seq_len))))


def fits(model: LanguageModel, work: Pass, size: int) -> bool:
    """Return whether a forward and backward pass over `size` rows gets through, with room for the optimizer's state.

    Uncompiled, which needs the most. Weights and buffers are as before, gradients are dropped.
    """
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.set_precision(work.dtype)
    model.set_attention(work.attention)
    try:
        _pass(model, size)
        return True
    except Exception as problem:
        if not is_oom(problem):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in kept and kept[name].shape == buffer.shape:
                    buffer.copy_(kept[name])
        release(model.device)


def _pass(model: LanguageModel, size: int) -> None:
    device, config = model.device, model.config
    # Gradients appear by themselves; the rest of what training keeps per weight is held free.
    _held = torch.empty((_BYTES_PER_WEIGHT - 4) * model.num_trained(), dtype=torch.uint8, device=device)
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(config.vocab_size, (size, config.max_seq_len + 1), generator=generator).to(device)
    loss = model.losses(ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous()).sum()
    (loss / ids_BT.numel()).backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- out of memory ---------------------------------------------------------------------------------------------------

_SAYINGS = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")


def is_oom(problem: BaseException) -> bool:
    """Return whether an exception says that memory ran out, in one of the ways in which torch says so."""
    if isinstance(problem, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(problem, RuntimeError) and any(saying in str(problem) for saying in _SAYINGS)


def release(device: torch.device) -> None:
    """Give back what nobody uses any more, cycles and the allocator's own stock included."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def recut(micros: Sequence[Sequence[Tensor]], size: int) -> list[tuple[Tensor, ...]]:
    """Return the same rows, in the same order, in micro-batches of at most `size`."""
    return [
        tuple(part[at : at + size] for part in micro) for micro in micros for at in range(0, micro[0].size(0), size)
    ]


class Fitting:
    """A model whose losses are computed on fewer rows at a time where all of them do not fit; for evaluation."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def losses(self, idx_BT: Tensor, target_BT: Tensor) -> Tensor:
        """Return the loss of each target. Raises what the model raises if one row does not fit."""
        try:
            return self._model.losses(idx_BT, target_BT)
        except Exception as problem:
            if not is_oom(problem) or idx_BT.size(0) == 1:
                raise
        release(idx_BT.device)  # after the handler: until its end, the failed pass is still held
        halves = zip(idx_BT.tensor_split(2), target_BT.tensor_split(2), strict=True)
        return torch.cat([self.losses(x_BT, y_BT) for x_BT, y_BT in halves])


def too_large(config: ModelConfig, device: torch.device, rows: int = 1) -> EnvironmentLacks:
    """Return the error for a model that does not train with so many rows at a time."""
    total, free = total_memory(device) / machine.GIB, free_memory(device) / machine.GIB
    what = "not even one row at a time fits" if rows == 1 else f"training with {rows} rows at a time does not fit"
    fewer = "" if rows == 1 else f"give a --device-batch-size below {rows}, "
    return EnvironmentLacks(
        f"{what} into the memory of {device} ({total:.1f} GiB, {free:.1f} free): "
        f"depth {config.n_layer}, width {config.n_embd}, context {config.max_seq_len:,}",
        hint=f"{fewer}train a smaller --depth or with a shorter --max-seq-len, or end what else uses this memory",
    )


@contextlib.contextmanager
def explained(config: ModelConfig, device: torch.device, rows: int) -> Iterator[None]:
    """Turn running out of memory where rows cannot be cut smaller into an error that says what to change."""
    try:
        yield
    except Exception as problem:
        if not is_oom(problem):
            raise
        raise too_large(config, device, rows) from problem


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process can still have on a device; 0 where unknown."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    return machine.free_memory() if device.type == "cpu" else 0


def total_memory(device: torch.device) -> int:
    """Return the bytes of memory that a device has; 0 where unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return machine.total_memory() if device.type == "cpu" else 0


# ---- memory of earlier answers ---------------------------------------------------------------------------------------


def key(config: ModelConfig, work: Pass, dist: Dist) -> str:
    """Return what an answer holds for: device, shape, precision, kernels, and number of processes."""
    device = dist.device
    what = {
        "shape": dataclasses.asdict(config),
        "work": {name: value for name, value in dataclasses.asdict(work).items() if value is not None},
        "world": dist.world,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "memory": total_memory(device),
    }
    return files.sha256_json(what)[:16]


def remember(cache_path: Path, config: ModelConfig, work: Pass, dist: Dist, size: int) -> None:
    """Keep an answer for the next run. A cache that cannot be written is no reason to fail."""
    cachefile.merge(cache_path, {key(config, work, dist): size})
