"""One case of `gpu_train.py`, in a process of its own: real training steps on random tokens, timed.

The path is that of `nanochat train base`: its sizes, model, chunked loss, compilation, optimizer, prefetching and the
training loop's own `backward`; neither a corpus nor a tokenizer is needed. What was found is written to a file after
every timed step, so that a case that is cut short has said what it knew.

Tensor suffixes: B rows, T positions.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import statistics
import sys
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if importlib.util.find_spec("nanochat_cli._bpe") is None:  # the native module is imported on the way, but never called
    sys.modules["nanochat_cli._bpe"] = types.ModuleType("nanochat_cli._bpe")

import torch
from torch import Tensor

from nanochat_cli.core import devices, machine, scaling, sizing
from nanochat_cli.core.data.loader import Counted
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Listener
from nanochat_cli.core.models import fp8, shape
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.settings import BaseTrainConfig, BatchSection, ComputeSection, ModelSection, OptimSection
from nanochat_cli.core.train import gradient, probe, room, stage
from nanochat_cli.core.train.prefetch import Prefetched
from nanochat_cli.core.train.probe import Execution

_GIB = 1024**3
_WARM_STEPS, _WARM_MICROS = 3, 2
_LEAST_STEPS = 2
_FORMS = ("fa3", "flex", "fused", "matmul")
_NAME = re.compile(r"(tiny|d[1-9]\d?)((?:-(?:bf16|fp32|fp8|fa3|flex|fused|matmul|eager|again|r\d+|b\d+k))*)$")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What to time. None: as training itself would decide on this device."""

    name: str
    depth: int
    precision: str = "bf16"
    fp8: bool = False
    attention: str | None = None
    rows: int | None = None
    total: int | None = None
    """Tokens of an optimizer step."""
    compiled: bool = True
    again: bool = False
    """Whether logits are made again in the backward pass even where they could be kept."""

    @property
    def tiny(self) -> bool:
        """Whether it only tests the benchmark itself."""
        return self.name.startswith("tiny")


def parse(name: str) -> Case:
    """Return the case of a name: `d26-fp8-flex-r16-b512k`, of which only the depth must be there.

    rN: rows per forward pass, bNk: N x 1,024 tokens per step, again: logits are never kept.
    Raises ValueError for anything else.
    """
    found = _NAME.match(name)
    if found is None:
        raise ValueError(f"no such case: {name} (for example d12, d20-flex, d26-fp8-r16-b512k, tiny)")
    tiny = found[1] == "tiny"
    case = Case(name=name, depth=2 if tiny else int(found[1][1:]), precision="fp32" if tiny else "bf16")
    for word in filter(None, found[2].split("-")):
        if word in _FORMS:
            case = replace(case, attention=word)
        elif word in ("bf16", "fp32"):
            case = replace(case, precision=word)
        elif word == "fp8":
            case = replace(case, fp8=True)
        elif word == "eager":
            case = replace(case, compiled=False)
        elif word == "again":
            case = replace(case, again=True)
        elif word[0] == "r":
            case = replace(case, rows=int(word[1:]))
        else:
            case = replace(case, total=1024 * int(word[1:-1]))
    return case


def shape_of(case: Case) -> ModelConfig:
    """Return the network that a case trains."""
    if case.tiny:
        return shape.from_depth(2, 256, 64, n_embd=64, n_head=2, arch="nanochat")
    return shape.from_depth(case.depth, sizing.DEFAULT_VOCAB, 2048, arch="nanochat")


@dataclass(frozen=True)
class Sizes:
    """Tokens of a step, and rows of a forward pass."""

    total: int
    rows: int


def sizes(case: Case, net: ModelConfig, device: torch.device) -> Sizes:
    """Return the batch that training would settle on, with what the case fixes."""
    if case.tiny:
        rows = case.rows or 2
        return Sizes(case.total or 4 * rows * net.max_seq_len, rows)
    total = case.total or scaling.total_batch_size(net)
    here = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    where = sizing.Target(
        name=here.name if here else "cpu",
        on_gpu=here is not None,
        count=1,
        memory_bytes=here.total_memory if here else machine.total_memory(),
        device=stage.gpu_of(device),
    )
    cfg = BaseTrainConfig(
        model=ModelSection(depth=case.depth, max_seq_len=net.max_seq_len),
        batch=BatchSection(total_batch_size=total, device_batch_size=case.rows),
        compute=ComputeSection(gpus=int(here is not None), precision=case.precision, compile="on"),  # type: ignore[arg-type]
    )
    settled = sizing.sized(cfg, where, net.vocab_size)[0].batch
    return Sizes(settled.total_batch_size or total, settled.device_batch_size or 1)


def attention_form(case: Case, net: ModelConfig, device: torch.device) -> str:
    """Return the kernel asked for, else the best-known of those that training would try here."""
    if case.attention is not None:
        return case.attention
    asked = ComputeSection(precision=case.precision, compile="on" if case.compiled else "off")  # type: ignore[arg-type]
    tried = {how.attention for how in probe._candidates(net, asked, device)}
    return next(form for form in _FORMS if form in tried)


def build(net: ModelConfig, device: torch.device) -> LanguageModel:
    """Return a model with weights drawn on the device: for a large one, a processor needs minutes for that.

    None of them is zero: products of zeros take less power, and so run faster than those of training.
    """
    from nanochat_cli.core import models, registry

    with torch.device(device):
        model: LanguageModel = registry.load(models, net.arch, "architecture").ARCH(net)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        model.init_weights(generator)
        for weight in model.parameters():
            if weight.dim() == 2 and not bool(weight.any()):
                weight.normal_(0, 0.5 * weight.size(1) ** -0.5, generator=generator)
    return model.to(device)


class RandomTokens:
    """Rows of random tokens, other ones in each micro-batch of a step; the steps that warm up are short."""

    def __init__(self, net: ModelConfig, size: Sizes) -> None:
        generator = torch.Generator().manual_seed(1)
        self.micros = size.total // (size.rows * net.max_seq_len)
        shape_of_ids = (size.rows * self.micros, net.max_seq_len + 1)
        self.ids_BT = torch.randint(net.vocab_size, shape_of_ids, generator=generator, dtype=torch.int32)

    def step(self, step: int, rank: int = 0, world: int = 1, device_batch_size: int | None = None) -> list[Counted]:
        """Return the micro-batches of a step, each knowing its number of targets."""
        parts = self.ids_BT.split(device_batch_size or len(self.ids_BT))
        few = parts[: min(_WARM_MICROS, self.micros)] if step < _WARM_STEPS else parts
        return [self._micro(ids) for ids in few]

    def _micro(self, ids: Tensor) -> Counted:
        pair = (ids[:, :-1].long().contiguous(), ids[:, 1:].long().contiguous())
        return Counted(pair, pair[1].numel())


@dataclass(frozen=True)
class Timed:
    """One step in seconds: all of it, waiting for its rows, and the optimizer's part (clipping included)."""

    seconds: float
    waiting: float
    optimizer: float
    tokens: int


class Trainer:
    """A model in training, by the loop's own functions, one step at a time."""

    def __init__(self, case: Case, net: ModelConfig, size: Sizes, device: torch.device) -> None:
        self.device, self.size, self.warnings = device, size, list[str]()
        self.dist = Dist(device=device)
        self.model = build(net, device)
        self.how = Execution(
            dtype=case.precision,
            attention=attention_form(case, net, device),
            compile=case.compiled,
            fp8=case.fp8,
        )
        if case.fp8 and (reason := fp8.lacking(device)) is not None:
            raise SystemExit(reason)
        self.losses = stage.adopt(self.model, self.how, Listener(self._note))
        if not case.again:
            room.use(self.model, device_batch_size=size.rows, world=1, dtype=self.how.dtype, compiled=self.how.compile)
        self.optimizer = stage.optimizer_of(self.model, OptimSection(), self.dist, self.how)
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.batches = Prefetched(RandomTokens(net, size), device=device, vocab_size=net.vocab_size)
        self.model.train()
        self.done = 0

    def _note(self, event: Mapping[str, Any]) -> None:
        if event.get("kind") == "warning":
            self.warnings.append(str(event.get("text", "")))

    def step(self) -> Timed:
        """Do what the loop does at one step, and wait for it to be over."""
        began = time.perf_counter()
        micros = self.batches.step(self.done, device_batch_size=self.size.rows)
        waited = time.perf_counter() - began
        pending = gradient.backward(self.losses, self.params, micros, self.dist)
        before = self._mark()
        found, _ = pending.read(self.optimizer.clip(None))
        self.optimizer.step(1.0, 0.95, 0.0)
        self.model.after_step()
        self.optimizer.zero_grad()
        after = self._mark()
        self.wait()
        self.done += 1
        return Timed(time.perf_counter() - began, waited, _seconds_between(before, after), found.tokens)

    def wait(self) -> None:
        """Wait until the device has nothing more to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def profiled(self) -> dict[str, Any]:
        """Return where the time of a step goes, from one micro-batch and one update under torch's profiler."""
        import gpu_profile

        micros = self.batches.step(self.done, device_batch_size=self.size.rows)
        micro = gpu_profile.kernels_of(
            lambda: gradient.backward(self.losses, self.params, micros[:1], self.dist), self.device
        )

        def update() -> None:
            self.optimizer.clip(None)
            self.optimizer.step(1.0, 0.95, 0.0)

        found = gpu_profile.summary(micro, gpu_profile.kernels_of(update, self.device), len(micros))
        self.optimizer.zero_grad()
        return found


def _seconds_between(before: Any, after: Any) -> float:
    if isinstance(before, float):
        return after - before
    after.synchronize()
    return before.elapsed_time(after) / 1000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much to time. `deadline` is a value of `time.monotonic`."""

    steps: int
    seconds: float
    deadline: float
    profile: bool = False


def measure(case: Case, device: torch.device, limits: Limits, tell: Callable[[dict[str, Any]], None]) -> None:
    """Time a case; `tell` gets everything known after each timed step."""
    net = shape_of(case)
    size = sizes(case, net, device)
    tell({"case": case.name, "device_batch": size.rows, "total_batch": size.total})
    began = time.perf_counter()
    trainer = Trainer(case, net, size, device)
    built_s = time.perf_counter() - began
    try:
        warm = [trainer.step() for _ in range(_WARM_STEPS)]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        timed: list[Timed] = []
        facts = _facts(case, net, size, trainer) | {"built_s": round(built_s, 1)}
        result = facts
        while len(timed) < limits.steps:
            timed.append(trainer.step())
            result = facts | _speed(net, timed, warm, device)
            tell(result)
            spent = sum(step.seconds for step in timed)
            late = time.monotonic() + timed[-1].seconds > limits.deadline
            if late or (spent > limits.seconds and len(timed) >= _LEAST_STEPS):
                break
        if limits.profile:
            tell(result | {"profile": trainer.profiled()})
    finally:
        trainer.batches.close()


def _facts(case: Case, net: ModelConfig, size: Sizes, trainer: Trainer) -> dict[str, Any]:
    on_gpu = trainer.device.type == "cuda"
    return {
        "case": case.name,
        "depth": case.depth,
        "precision": "fp8" if trainer.how.fp8 else trainer.how.dtype,
        "attention": trainer.how.attention,
        "compiled": getattr(trainer.losses, "compiled", trainer.how.compile),
        "logits_kept": trainer.model.kept_logits_bytes is not None,
        "device_batch": size.rows,
        "total_batch": size.total,
        "parameters": shape.num_params(net),
        "flops_per_token": shape.flops_per_token(net),
        "device": torch.cuda.get_device_name(trainer.device) if on_gpu else machine.cpu_name(),
        "torch": torch.__version__,
        "warnings": trainer.warnings,
    }


def _speed(net: ModelConfig, timed: list[Timed], warm: list[Timed], device: torch.device) -> dict[str, Any]:
    """Medians over the timed steps; MFU against the dense half-precision peak, in FP8, too."""
    seconds = statistics.median(step.seconds for step in timed)
    speed = statistics.median(step.tokens / step.seconds for step in timed)
    mfu = devices.mfu(shape.flops_per_token(net), speed, stage.gpu_of(device))
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else machine.peak_memory()
    return {
        "steps": len(timed),
        "compile_s": round(max(0.0, warm[0].seconds - warm[-1].seconds), 1),
        "step_ms": round(1000 * seconds, 2),
        "tokens_per_s": round(speed, 1),
        "best_tokens_per_s": round(max(step.tokens / step.seconds for step in timed), 1),
        "mfu": None if mfu is None else round(mfu, 4),
        "peak_gib": round((peak or 0) / _GIB, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved(device) / _GIB, 2) if on_gpu else None,
        "data_stall": round(sum(s.waiting for s in timed) / sum(s.seconds for s in timed), 5),
        "optimizer_share": round(statistics.median(s.optimizer / s.seconds for s in timed), 4),
    }


def main() -> None:
    """Run one case as `gpu_train.py` asks for it: NAME DEVICE FILE and the limits as JSON."""
    name, device, path, limits = sys.argv[1:5]
    file = Path(path)
    asked = json.loads(limits)
    threads = asked.pop("threads", None)
    if threads:
        torch.set_num_threads(threads)
    deadline = time.monotonic() + asked.pop("left_s")

    def tell(result: dict[str, Any]) -> None:
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(result), encoding="utf-8")
        os.replace(beside, file)

    try:
        measure(parse(name), torch.device(device), Limits(deadline=deadline, **asked), tell)
    except torch.OutOfMemoryError as problem:
        sys.exit(f"out of memory: {str(problem).splitlines()[0][:160]}")


if __name__ == "__main__":
    main()
