"""Which arithmetic and which kernels are fastest here: measured at the start, on the real shape, and remembered.

bf16 on a CPU is five times faster than fp32 where the processor multiplies it, and many times slower where it does not;
the fused attention call wins on long sequences and loses on short ones; compilation pays for long runs. None of it can
be known beforehand, so each is timed for a few steps. What a kernel computes is checked, too: it must not see ahead.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_cli.core import files, machine, optim
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import EnvironmentLacks, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.settings import ComputeSection, OptimSection

_STEPS = 3
_HOPELESS = 2.5  # a candidate whose first timed step is this much slower than the best is not timed further
_COMPILE_PAYS_S = 60.0  # eager seconds ahead, below which compiling costs more than it saves
_LEAK = 1e-3
# Variables that forbid instruction sets: the same processor is another machine with them.
_ISA_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a stage computes. `tokens_per_s` holds what was measured, by "dtype/attention" and "…/compiled"."""

    dtype: str
    attention: str
    compile: bool
    tokens_per_s: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The choice in one word, as in `tokens_per_s`."""
        return f"{self.dtype}/{self.attention}" + ("/compiled" if self.compile else "")


def choose(
    config: ModelConfig,
    *,
    device_batch_size: int,
    threads: int,
    requested: ComputeSection,
    cache_path: Path,
    planned_tokens: int,
    device: torch.device | None = None,
    log: Log = NULL,
) -> Execution:
    """Return the fastest allowed way to train this shape, measured now or remembered from an equal measurement.

    What `requested` fixes is not varied; if nothing is left to choose, nothing is measured.
    """
    device = device or torch.device("cpu")
    key = _key(config, device_batch_size, threads, device)
    memory = _Memory(cache_path, key)
    bench = _Bench(config, device_batch_size, device, memory)
    eager = [Execution(dtype=d, attention=a, compile=False) for d, a in _candidates(requested, device)]
    best = eager[0]
    if len(eager) > 1:
        fresh = any(how.name not in memory.speeds for how in eager)
        if fresh:
            log.note("measuring arithmetic and kernels (once for this machine and shape)")
        best = max(eager, key=lambda how: bench.speed(how, log))
        for how in sorted(eager, key=lambda how: -memory.speeds.get(how.name, 0)):
            if not sees_ahead(config, how, device):
                best = how
                break
            log.warning(f"{how.name} lets a token see later ones on this machine: not used")
    if _wants_compile(best, bench, requested, planned_tokens, log):
        best = _compiled_if_faster(best, bench, requested, log)
    log.note(f"computing in {best.dtype}, attention {best.attention}, {'compiled' if best.compile else 'eager'}")
    return Execution(dtype=best.dtype, attention=best.attention, compile=best.compile, tokens_per_s=dict(memory.speeds))


def _candidates(requested: ComputeSection, device: torch.device) -> list[tuple[str, str]]:
    dtypes = ("bf16", "fp32") if requested.precision == "auto" else (requested.precision,)
    forms = ("fused", "matmul") if requested.attention == "auto" else (requested.attention,)
    if device.type == "cpu" and requested.precision == "auto" and not _knows_bf16():
        dtypes = ("fp32",)
    return list(itertools.product(dtypes, forms))


def _knows_bf16() -> bool:
    """Whether timing bf16 makes sense; a processor that is silent about its instructions is asked by the clock."""
    flags = machine.cpu_flags()
    return not flags or bool(flags & {"avx512_bf16", "amx_bf16", "avx512f", "asimd", "bf16"})


def _wants_compile(best: Execution, bench: _Bench, requested: ComputeSection, planned_tokens: int, log: Log) -> bool:
    if requested.compile != "auto":
        return requested.compile == "on"
    if best.name not in bench.memory.speeds:
        bench.speed(best, log)
    if planned_tokens / bench.memory.speeds[best.name] < _COMPILE_PAYS_S:
        return False
    if bench.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        log.note("no C++ compiler found: not compiling (it would train faster with one)")
        return False
    return True


def _compiled_if_faster(best: Execution, bench: _Bench, requested: ComputeSection, log: Log) -> Execution:
    compiled = Execution(dtype=best.dtype, attention=best.attention, compile=True)
    try:
        speed = bench.speed(compiled, log)
    except NanochatError:
        raise
    except Exception as problem:  # whatever the compiler stumbles over, training can go on without it
        reason = str(problem).strip().splitlines()[0][:200] if str(problem).strip() else ""
        if requested.compile == "on":
            raise EnvironmentLacks(
                f"compiling the training step failed: {type(problem).__name__}: {reason}", hint="add --compile off"
            ) from problem
        log.warning(f"compiling failed, training goes on without it: {type(problem).__name__}: {reason}")
        return best
    if requested.compile == "on" or speed > bench.memory.speeds[best.name] * 1.03:
        return compiled
    return best


class _Memory:
    """Speeds measured before, in a JSON file that may be deleted at any time."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.speeds: dict[str, float] = dict(self._all().get(key, {}))

    def _all(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def keep(self, name: str, speed: float) -> None:
        """Remember one speed. A cache that cannot be written is no reason to fail."""
        self.speeds[name] = round(speed, 1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(self.path, self._all() | {self.key: self.speeds})
        except (OSError, NanochatError):
            return


def _key(config: ModelConfig, device_batch_size: int, threads: int, device: torch.device) -> str:
    what = {
        "shape": asdict(config),
        "rows": device_batch_size,
        "threads": threads,
        "torch": torch.__version__,
        "cpu": machine.cpu_name(),
        "flags": sorted(machine.cpu_flags()),
        "limits": {name: os.environ.get(name) for name in _ISA_LIMITS},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    return files.sha256_json(what)[:16]


class _Bench:
    """Times whole training steps of one shape, optimizer included."""

    def __init__(self, config: ModelConfig, rows: int, device: torch.device, memory: _Memory) -> None:
        self.config, self.rows, self.device, self.memory = config, rows, device, memory
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(config.vocab_size, (rows, config.max_seq_len + 1), generator=generator)
        self.x_BT, self.y_BT = ids[:, :-1].contiguous().to(device), ids[:, 1:].contiguous().to(device)

    def speed(self, how: Execution, log: Log) -> float:
        """Return tokens per second, measured unless remembered."""
        if how.name not in self.memory.speeds:
            seconds = self._seconds(how, log)
            self.memory.keep(how.name, self.x_BT.numel() / seconds)
        return self.memory.speeds[how.name]

    def _seconds(self, how: Execution, log: Log) -> float:
        """Seconds per step: the median of a few after one that warms up, or of one if that is hopeless."""
        model = prepared(self.config, how, self.device)
        optimizer = optim.build(model.param_groups(), OptimSection(), Dist(device=self.device), precision=how.dtype)
        losses = torch.compile(model.losses, dynamic=False) if how.compile else model.losses
        began = time.perf_counter()
        self._step(losses, optimizer)
        if how.compile:
            log.note(f"compiled the training step in {time.perf_counter() - began:.0f} s")
            self._step(losses, optimizer)
        best = self.x_BT.numel() / max(self.memory.speeds.values(), default=1e-9)
        taken: list[float] = []
        for _ in range(_STEPS):
            began = time.perf_counter()
            self._step(losses, optimizer)
            taken.append(time.perf_counter() - began)
            if taken[-1] > _HOPELESS * best:
                break
        return statistics.median(taken)

    def _step(self, losses: Any, optimizer: Any) -> None:
        loss: Tensor = losses(self.x_BT, self.y_BT).sum() / self.x_BT.numel()
        loss.backward()
        optimizer.clip(1.0)
        optimizer.step(1.0, 0.95, 0.0)
        optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def prepared(config: ModelConfig, how: Execution, device: torch.device) -> LanguageModel:
    """Return a model of this shape that computes in this way, with every weight drawn (a fresh head is all zero)."""
    model = build(config, seed=0, device=device)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * weight.size(-1) ** -0.5)
    model.set_precision(how.dtype)
    model.set_attention(how.attention)
    return model


@torch.no_grad()
def sees_ahead(config: ModelConfig, how: Execution, device: torch.device) -> bool:
    """Return whether changing later tokens changes the scores of earlier ones, which a causal model must not do."""
    model = prepared(config, how, device)
    length = min(config.max_seq_len, 64)
    generator = torch.Generator().manual_seed(2)
    ids_1T = torch.randint(config.vocab_size, (1, length), generator=generator)
    other_1T = ids_1T.clone()
    other_1T[:, length // 2 :] = (other_1T[:, length // 2 :] + 1) % config.vocab_size
    early, early_other = (model(ids.to(device))[:, : length // 2] for ids in (ids_1T, other_1T))
    return bool((early - early_other).abs().max() > _LEAK)
