"""Training speed as a stage of its own: steps as base training makes them, timed, and nothing kept of the model.

Tensor suffixes: B rows, T positions.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat_cli.core import devices, estimate, machine, optim, paths, planning
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Log
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import BaseTrainConfig, BenchTrainConfig
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import data, gradient, guards, loop, room, stage, windows
from nanochat_cli.core.train.prefetch import Prefetched

WARM_UP = 2
"""Steps before the clock counts: the first compiles, the second still asks for memory."""
_TOKENS_PER_PARAMETER = 12  # whether compiling pays is decided as for a whole pretraining


class RandomRows:
    """Rows of random tokens, drawn once: training on them costs what training on text costs."""

    def __init__(self, vocab_size: int, seq_len: int, rows_per_step: int, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids_BT = torch.randint(vocab_size, (rows_per_step, seq_len + 1), generator=generator)

    def step(
        self, step: int, rank: int = 0, world: int = 1, device_batch_size: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return this rank's micro-batches (x_BT, y_BT), int64, y one ahead of x; the same at every step."""
        mine = self.ids_BT.tensor_split(world)[rank]
        return [
            (ids[:, :-1].contiguous(), ids[:, 1:].contiguous()) for ids in mine.split(device_batch_size or len(mine))
        ]


@dataclass(frozen=True)
class Timed:
    """One step: its tokens over all processes, and how many of its seconds went into waiting for data."""

    seconds: float
    waiting: float
    tokens: int


class Bench:
    """A model in training, one step at a time."""

    def __init__(
        self, losses: loop.Losses, optimizer: optim.MuonAdamW, model: Any, batches: loop.Batches, rows: int, dist: Dist
    ) -> None:
        self.losses, self.optimizer, self.model = losses, optimizer, model
        self.batches, self.rows, self.dist = batches, rows, dist
        self.params = list(model.parameters())
        self.done = 0

    def step(self) -> Timed:
        """Do one step as the training loop does, and return how long it took."""
        began = time.perf_counter()
        micros = self.batches.step(self.done, self.dist.rank, self.dist.world, self.rows)
        waited = time.perf_counter() - began
        found = gradient.accumulate(self.losses, self.params, micros, self.dist)
        self.optimizer.clip(None)
        self.optimizer.step(1.0, 0.95, 0.0)
        self.model.after_step()
        self.optimizer.zero_grad()
        if self.dist.device.type == "cuda":
            torch.cuda.synchronize(self.dist.device)
        self.done += 1
        return Timed(time.perf_counter() - began, waited, found.tokens)


def run(cfg: BenchTrainConfig, run: RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Time steps of base training and return speed, use of the device, memory, and how it was computed.

    Asked to stop, it returns what was measured so far, or `{"stopped": 0}` if that is nothing.
    """
    base = BaseTrainConfig(model=cfg.model, batch=cfg.batch, optim=cfg.optim, compute=cfg.compute)
    net = planning.model_shape(base, vocab_size=cfg.bench.vocab or 0, max_seq_len=cfg.model.max_seq_len or 0)
    net = windows.settled(net, cfg.compute, run, dist, log)
    began = time.perf_counter()
    model = build(net, seed=cfg.compute.seed, device=dist.device)
    batch = stage.settled(cfg.batch, model, cfg.compute, run, dist, log)
    planned = _TOKENS_PER_PARAMETER * shape.count_params(net).scaling
    how = stage.execution(model, cfg.compute, run, dist, log, device_batch_size=batch.device, planned_tokens=planned)
    losses = stage.adopt(model, how, log)
    room.use(model, device_batch_size=batch.device, world=dist.world, dtype=how.dtype, compiled=how.compile)
    optimizer = stage.optimizer_of(model, cfg.optim, dist, how)
    model.train()
    chosen_s = time.perf_counter() - began
    _reset_peak(dist)
    batches = Prefetched(_batches(cfg, net, batch.total, dist, log), device=dist.device, vocab_size=net.vocab_size)
    try:
        bench = Bench(losses, optimizer, model, batches, batch.device, dist)
        warm, timed = _timed(bench, cfg.bench.steps, run, dist, log)
    finally:
        batches.close()
    if not timed:
        log.emit("stopped", step=0, text="stopped before anything was measured")
        return {"stopped": 0}
    return {
        **_sizes(cfg, net, dist),
        **_speed(net, timed, warm, dist),
        **_memory(net, batch.device, dist, how.dtype, how.compile),
        "choosing_s": round(chosen_s, 2),
        "precision": how.dtype,
        "attention": how.attention,
        "compiled": getattr(losses, "compiled", how.compile),
        "execution": {k: v for k, v in dataclasses.asdict(how).items() if k != "tokens_per_s"},
        "data": cfg.bench.data or "random tokens",
        "torch": torch.__version__,
    }


def _batches(cfg: BenchTrainConfig, net: ModelConfig, tokens: int, dist: Dist, log: Log) -> loop.Batches:
    rows = tokens // net.max_seq_len
    if cfg.bench.data is None:
        return RandomRows(net.vocab_size, net.max_seq_len, rows, seed=cfg.compute.seed)
    tokenizer = Tokenizer.load(paths.tokenizer_dir(cfg.bench.tokenizer or ""))
    found = data.text_rows(Corpus.open(cfg.bench.data), tokenizer, net.max_seq_len, dist, log)
    return Batches(found.train, rows_per_step=rows, seed=cfg.compute.seed)


def _timed(bench: Bench, steps: int, run: RunContext, dist: Dist, log: Log) -> tuple[list[Timed], list[Timed]]:
    """Return the steps that warmed up and those that count; fewer than asked for after a request to stop."""
    every: list[Timed] = []
    while len(every) < WARM_UP + steps and not dist.any(guards.stop_requested(run.dir) is not None):
        every.append(bench.step())
        last = every[-1]
        log.progress("timing", len(every), WARM_UP + steps, "steps", f"{last.tokens / last.seconds:,.0f} tok/s")
    return every[:WARM_UP], every[WARM_UP:]


def _sizes(cfg: BenchTrainConfig, net: ModelConfig, dist: Dist) -> dict[str, Any]:
    on_gpu = dist.device.type == "cuda"
    return {
        "arch": net.arch,
        "depth": net.n_layer,
        "parameters": shape.num_params(net),
        "vocab_size": net.vocab_size,
        "max_seq_len": net.max_seq_len,
        "total_batch_size": cfg.batch.total_batch_size,
        "device_batch_size": cfg.batch.device_batch_size,
        "device": torch.cuda.get_device_name(dist.device) if on_gpu else machine.cpu_name(),
        "gpus": dist.world if on_gpu else 0,
        "processes": dist.world,
        "threads": torch.get_num_threads(),
    }


def _speed(net: ModelConfig, timed: Sequence[Timed], warm: Sequence[Timed], dist: Dist) -> dict[str, Any]:
    """Median and best speed, MFU by both, the share of time without data, and what the first step cost on top."""
    flops = shape.flops_per_token(net)
    gpu = stage.gpu_of(dist.device)
    usual = statistics.median(step.seconds for step in timed)
    median = statistics.median(step.tokens / step.seconds for step in timed)
    best = max(step.tokens / step.seconds for step in timed)
    return {
        "steps": len(timed),
        "tokens_per_s": round(median, 1),
        "best_tokens_per_s": round(best, 1),
        "step_ms": round(1000 * usual, 2),
        "flops_per_token": flops,
        "tflops": round(flops * median / 1e12, 3),
        "peak_tflops": gpu.peak_tflops if gpu else None,
        "mfu": _rounded(devices.mfu(flops, median, gpu, dist.world)),
        "best_mfu": _rounded(devices.mfu(flops, best, gpu, dist.world)),
        "mfu_formula": devices.MFU_FORMULA,
        "data_stall": round(sum(s.waiting for s in timed) / sum(s.seconds for s in timed), 5),
        "compile_s": round(max(0.0, warm[0].seconds - usual), 2),
    }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _reset_peak(dist: Dist) -> None:
    if dist.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(dist.device)
    else:
        machine.reset_peak_memory()


def _memory(net: ModelConfig, rows: int, dist: Dist, dtype: str, compiled: bool) -> dict[str, Any]:
    """The most that the steps took, of a GPU's memory or of this process, and what `nanochat plan` would have said."""
    on_gpu = dist.device.type == "cuda"
    peak = torch.cuda.max_memory_reserved(dist.device) if on_gpu else machine.peak_memory()
    told = estimate.memory(net, device_batch_size=rows, world=dist.world, dtype=dtype, compiled=compiled, on_gpu=on_gpu)
    return {
        "peak_memory_bytes": peak,
        "peak_memory_of": "GPU, as reserved by torch" if on_gpu else "process, whole",
        "estimated_memory_bytes": told.total,
    }
