"""Which arithmetic and which kernels are fastest here: measured at the start, on the real shape, and remembered.

bf16 on a CPU is five times faster than fp32 where the processor multiplies it, and many times slower where it does not;
the fused attention call wins on long sequences and loses on short ones; compilation pays for long runs. None of it can
be known beforehand, so each is timed for a few steps. What a kernel computes is checked, too: it must not see ahead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_cli.core import cachefile, files, machine, optim
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import EnvironmentLacks, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models import flash, fp8, kernel_check, kernels
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.kernel_parts import Sizes, first_line
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.settings import ComputeSection, OptimSection
from nanochat_cli.core.train import compile_ahead, device_batch, precision, room

_ROUNDS = 3
_BUDGET_S = 6.0  # no further round of timing starts after this long; every candidate has had its first step by then
_MOST_TOKENS = 16_384  # per timed eager step: which kernel is fastest shows on fewer rows, too
_HOPELESS = 4.0  # a candidate this much slower than the best so far is not run again,
_BEYOND_DOUBT = 2.0  # and if its warm-up is slower by this much more, not even once after it
_LONGEST_MATMUL = 1024  # positions up to which plain products are tried: their memory grows with the square
_COMPILE_PAYS_S = 60.0  # eager seconds ahead, below which compiling costs more than it saves
_COMPILED_BEFORE_PAYS_S = 10.0  # the same when this shape was compiled before: its kernels lie in the cache
_COMPILED_MUST_GAIN = 1.03
_LEAK = 1e-3
# Variables that forbid instruction sets: the same processor is another machine with them.
_ISA_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a stage computes. `tokens_per_s` holds what was measured, by "dtype/attention" and "…/compiled".

    `kernel` is the identity of the attention kernel: which package or torch, and its version. `eager_because` says why
    nothing is compiled, empty if it is.
    """

    dtype: str
    attention: str
    compile: bool
    fp8: bool = False
    kernel: str = ""
    eager_because: str = ""
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

    What `requested` fixes is not varied. Compiling that fails, or takes too long, is left out with a warning.
    """
    device = device or torch.device("cpu")
    memory = _Memory(cache_path, _key(config, device_batch_size, threads, device))
    bench = _Bench(config, device_batch_size, device)
    eager = _candidates(config, requested, device, log)
    if any(how.name not in memory.speeds for how in eager):
        log.note("measuring arithmetic and kernels (once for this machine and shape)")
        memory.keep(bench.race(eager))
    best = _fastest_causal(eager, config, memory, device, log)
    before = replace(best, compile=True).name in memory.speeds and _kernels_are_kept()
    pays_s = _COMPILED_BEFORE_PAYS_S if before else _COMPILE_PAYS_S
    if why := _why_not_compiled(planned_tokens / memory.speeds[best.name] >= pays_s, bench, requested, log):
        best = replace(best, eager_because=why)
    else:
        best = _compiled_if_faster(best, bench, memory, requested, log)
    narrow = _narrow(best, config, requested, device, log)
    words = f"{best.dtype}{' with FP8 products' if narrow else ''}"
    kernel = kernels.resolve(best.attention, Sizes.of(config), device)
    of = f" ({kernel.identity})" if best.attention in kernels.WINDOWED else ""
    log.note(f"computing in {words}, attention {best.attention}{of}, {'compiled' if best.compile else 'eager'}")
    if best.compile and not kernel.whole:
        log.warning(f"compiled code stops at every call of {kernel.identity}: another version of it may be faster")
    return replace(best, fp8=narrow, kernel=kernel.identity, tokens_per_s=dict(memory.speeds))


def _narrow(how: Execution, config: ModelConfig, requested: ComputeSection, device: torch.device, log: Log) -> bool:
    """Whether to compute in FP8."""
    layers = config.n_layer
    return precision.use_fp8(requested.fp8, device, n_layer=layers, dtype=how.dtype, compiled=how.compile, log=log)


def _candidates(
    config: ModelConfig, requested: ComputeSection, device: torch.device, log: Log = NULL
) -> list[Execution]:
    """The allowed combinations. fp32 comes first: it is never hopeless, and bf16 without the instructions is.

    Raises EnvironmentLacks, with the reason, for an attention kernel that was asked for and cannot be used.
    """
    dtypes = precision.candidates(device) if requested.precision == "auto" else (requested.precision,)
    if device.type == "cpu" and requested.precision == "auto" and not _knows_bf16():
        dtypes = ("fp32",)
    if requested.attention != "auto":
        dtypes = _dtypes_of(requested.attention, dtypes, config, device)
        return [Execution(dtype=d, attention=requested.attention, compile=False) for d in dtypes]
    pairs = [(d, form) for d in dtypes for form in _forms(d, config, requested, device, log)]
    return [Execution(dtype=d, attention=form, compile=False) for d, form in pairs]


def _dtypes_of(form: str, dtypes: tuple[str, ...], config: ModelConfig, device: torch.device) -> tuple[str, ...]:
    """Those dtypes that a kernel which was asked for computes in. Raises EnvironmentLacks if there is none."""
    sizes = Sizes.of(config)
    why = {d: kernels.lacking(form, device, dtype=precision.TORCH[d], head_dim=sizes.head_dim) for d in dtypes}
    if fitting := tuple(d for d in dtypes if why[d] is None):
        kernels.resolve(form, sizes, device)  # one that is installed but broken fails here, not within the race
        return fitting
    raise EnvironmentLacks(
        f"attention kernel {form} cannot be used here: {why[dtypes[-1]]}",
        hint="--attention auto takes the best there is",
    )


def _forms(
    dtype: str, config: ModelConfig, requested: ComputeSection, device: torch.device, log: Log
) -> tuple[str, ...]:
    """The attention kernels worth timing in a dtype."""
    products = config.max_seq_len <= _LONGEST_MATMUL
    if device.type == "mps":  # whose fused call was wrong before, so that there has to be another
        return ("fused", "matmul") if products else ("fused",)
    if kernels.capability(device) is None:
        return ("matmul", "fused") if products else ("fused",)
    windowed = usable_windowed(config, dtype, requested, device, log)
    # Once torch's own calls run on FlashAttention 3 or 4, it makes no sense to time them as something else.
    taken = any(kernels.resolve(form, Sizes.of(config), device).replaces for form in windowed)
    return windowed if taken else (*windowed, "fused")


def usable_windowed(
    config: ModelConfig, dtype: str, requested: ComputeSection, device: torch.device, log: Log = NULL
) -> tuple[str, ...]:
    """Return the kernels that skip what lies outside a window and compute rightly here, best first.

    What is installed and does not work is warned about. FlexAttention needs compilation not to be switched off.
    """
    sizes, good = Sizes.of(config), list[str]()
    for form in kernels.WINDOWED:
        narrow = precision.TORCH[dtype]
        if form == "flex" and requested.compile == "off":
            continue
        if kernels.lacking(form, device, dtype=narrow, head_dim=sizes.head_dim) is not None:
            continue
        wrong = kernel_check.fault(form, sizes, device, narrow)
        if wrong is None:
            good.append(form)
            if failed := kernels.resolve(form, sizes, device).passed_over:
                log.warning(f"attention kernel {form}: passed over {failed}")
        else:
            log.warning(f"attention kernel {form} is passed over in {dtype}: {wrong}")
    return tuple(good)


def _fastest_causal(
    eager: list[Execution], config: ModelConfig, memory: _Memory, device: torch.device, log: Log
) -> Execution:
    """The fastest that computes rightly: no token sees later ones or beyond its window, and results are close to those

    of plain attention. Raises EnvironmentLacks if there is none.
    """
    for how in sorted(eager, key=lambda how: -memory.speeds[how.name]):
        wrong = "lets a token see later ones" if sees_ahead(config, how, device) else None
        wrong = wrong or kernel_check.fault(how.attention, Sizes.of(config), device, precision.TORCH[how.dtype])
        if wrong is None:
            return how
        log.warning(f"{how.name} {wrong} on this machine: not used")
    raise EnvironmentLacks("no attention kernel computes correctly here", hint="try another version of torch")


def _knows_bf16() -> bool:
    """Whether timing bf16 makes sense; a processor that is silent about its instructions is asked by the clock."""
    flags = machine.cpu_flags()
    return not flags or bool(flags & {"avx512_bf16", "amx_bf16", "avx512f", "asimd", "bf16"})


def _kernels_are_kept() -> bool:
    """Whether the folder of compiled kernels has something in it; it may be deleted at any time."""
    kept = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", ""))
    return kept.is_dir() and any(kept.iterdir())


def _why_not_compiled(pays: bool, bench: _Bench, requested: ComputeSection, log: Log) -> str:
    """Why compiling is not tried; empty if it can pay or was asked for, and if what it needs is there."""
    if requested.compile == "off":
        return "not asked for"
    if requested.compile == "auto" and not pays:
        return "the run is too short to gain by it"
    if lacks := compile_ahead.missing(bench.device):
        tell = log.warning if requested.compile == "on" else log.note
        tell(f"not compiling, for which this machine lacks {lacks} (it would train faster with it)")
        return f"this machine lacks {lacks}"
    return ""


def _compiled_if_faster(
    best: Execution, bench: _Bench, memory: _Memory, requested: ComputeSection, log: Log
) -> Execution:
    compiled = replace(best, compile=True)
    no_faster = replace(best, eager_because="measured to be no faster")
    if memory.gains.get(compiled.name, 9.0) <= _COMPILED_MUST_GAIN and requested.compile != "on":
        return no_faster
    on_gpu = bench.device.type == "cuda"
    step = replace(compiled, fp8=_narrow(compiled, bench.config, requested, bench.device, NULL))
    problem = compile_ahead.prepare(bench.config, step, bench.rows, bench.device, requested.compile_limit_s)
    if problem is not None and not (on_gpu and "out of memory" in problem):  # beside the real model there is less
        log.warning(f"compiling {problem}: training goes on without it, and slower")
        return replace(best, eager_because=f"compiling {problem}")
    if on_gpu:  # always faster there; and two models of full size would not fit beside the real one
        return compiled
    if compiled.name not in memory.gains:
        began = time.perf_counter()
        try:
            speeds = bench.race([best, compiled])  # both now: the machine may be busier than a minute ago
        except NanochatError:
            raise
        except Exception as problem:  # whatever the compiler stumbles over, training can go on without it
            if device_batch.is_oom(problem):
                log.note("no memory to time compiled code beside uncompiled: compiling without a comparison")
                return compiled
            log.warning(f"compiling failed, training goes on without it: {first_line(problem)}")
            return replace(best, eager_because=f"compiling failed: {first_line(problem)}")
        # The eager speed of this race is not kept: only what ran in one race can be compared, and a busy minute here
        # must not change which kernel counts as the fastest from now on.
        memory.keep({compiled.name: speeds[compiled.name]}, gain=speeds[compiled.name] / speeds[best.name])
        log.note(f"compiled the training step and timed it in {time.perf_counter() - began:.0f} s")
    gained = memory.gains.get(compiled.name, 0.0) > _COMPILED_MUST_GAIN
    return compiled if gained or requested.compile == "on" else no_faster


def remembered(
    config: ModelConfig, *, device_batch_size: int, threads: int, cache_path: Path, device: torch.device | None = None
) -> dict[str, float]:
    """Return the speeds in tokens per second that `choose` measured for this shape and machine; empty if it has not."""
    return _Memory(cache_path, _key(config, device_batch_size, threads, device or torch.device("cpu"))).speeds


class TrainingLosses:
    """The model's loss function as a stage calls it: compiled if chosen, and eager after all if that fails.

    `on_eager` is then told why.
    """

    def __init__(
        self, model: LanguageModel, how: Execution, log: Log, on_eager: Callable[[str], None] = lambda why: None
    ) -> None:
        self._model, self._eager, self._log, self._on_eager = model, model.losses, log, on_eager
        self._call = torch.compile(self._eager, dynamic=False) if how.compile else self._eager
        self._proven: set[torch.Size] = set()  # each shape is compiled anew

    @property
    def compiled(self) -> bool:
        """Whether compiled code runs: False after it failed."""
        return self._call is not self._eager

    def __call__(self, idx_BT: Tensor, target_BT: Tensor) -> Tensor:
        """Return the loss of each target, as `LanguageModel.losses`."""
        if not self.compiled or idx_BT.shape in self._proven:
            return self._call(idx_BT, target_BT)
        try:
            loss_BT = self._call(idx_BT, target_BT)
        except Exception as problem:
            if device_batch.is_oom(problem):
                raise
            self._log.warning(f"compiling failed, training goes on without it: {first_line(problem)}")
            self._call = self._eager
            self._on_eager(f"compiling failed: {first_line(problem)}")
            fp8.convert(self._model, None)  # which is slower than bf16 unless it is compiled
            loss_BT = self._eager(idx_BT, target_BT)
        self._proven.add(idx_BT.shape)
        return loss_BT


def _numbers(found: Any) -> dict[str, float]:
    """What is a table of positive numbers by name; anything else counts as not there."""
    table = found if isinstance(found, dict) else {}
    good = all(isinstance(value, int | float) and value > 0 for value in table.values())
    return {str(name): float(value) for name, value in table.items()} if good else {}


class _Memory:
    """Speeds measured before, in a JSON file that may be deleted at any time."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        known = cachefile.read(path)
        self.speeds: dict[str, float] = _numbers(known.get(key))
        self.gains: dict[str, float] = _numbers(known.get(self._gains))
        """How many times faster compiled code was than the same eager, side by side."""

    @property
    def _gains(self) -> str:
        return f"{self.key}/gains"

    def keep(self, speeds: Mapping[str, float], *, gain: float | None = None) -> None:
        """Remember speeds, and what compiling gained. A cache that cannot be written is no reason to fail."""
        new = {name: round(speed, 1) for name, speed in speeds.items()}
        gains = {} if gain is None else {name: round(gain, 3) for name in speeds}
        self.speeds |= new
        self.gains |= gains
        cachefile.merge(self.path, {self.key: new, self._gains: gains})


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
    if device.type == "cuda":
        what["kernels"] = flash.versions()
    return files.sha256_json(what)[:16]


class _Bench:
    """Times whole training steps of one shape, optimizer included."""

    def __init__(self, config: ModelConfig, rows: int, device: torch.device) -> None:
        self.config, self.rows, self.device = config, rows, device

    def race(self, candidates: list[Execution]) -> dict[str, float]:
        """Return tokens per second by name.

        After a first step of each, which warms up, they take turns, so that a busy moment of the machine hits all; the
        fastest step of each counts. What is hopelessly slow is not run again, nor anything else in its dtype.
        """
        began = time.perf_counter()
        runners: dict[str, _Runner] = {}
        seconds: dict[str, float] = {}
        hopeless: set[str] = set()
        for how in candidates:
            if how.dtype in hopeless:
                continue
            limit = float("inf") if how.compile else _HOPELESS * min(seconds.values(), default=float("inf"))
            runner, first = self._started(how, runners)
            seconds[how.name] = first if first > _BEYOND_DOUBT * limit else runner.seconds()
            if seconds[how.name] > limit:
                hopeless.add(how.dtype)
            else:
                runners[how.name] = runner
        for _ in range(_ROUNDS - 1):
            if time.perf_counter() - began > _BUDGET_S and not any(how.compile for how in candidates):
                break
            for name, runner in runners.items():
                seconds[name] = min(seconds[name], runner.seconds())
        slowest = max(seconds.values())  # what was not run because its dtype is hopeless counts as no better
        return {how.name: self.tokens(how) / seconds.get(how.name, slowest) for how in candidates}

    def _started(self, how: Execution, others: dict[str, _Runner]) -> tuple[_Runner, float]:
        """A candidate and its first step's seconds. Where memory is short, the others give way; their times stay."""
        try:
            runner = _Runner(self, how)
            return runner, runner.seconds()
        except Exception as problem:
            if not device_batch.is_oom(problem) or not others:
                raise
        others.clear()
        device_batch.release(self.device)
        runner = _Runner(self, how)
        return runner, runner.seconds()

    def num_rows(self, how: Execution) -> int:
        """Rows of a timed step. Compiled code is made for its number of rows, so there it must be the real one."""
        few = max(1, _MOST_TOKENS // self.config.max_seq_len)
        return self.rows if how.compile else min(self.rows, few)

    def tokens(self, how: Execution) -> int:
        """Tokens of a timed step."""
        return self.num_rows(how) * self.config.max_seq_len


class _Runner:
    """One candidate, ready to be timed."""

    def __init__(self, bench: _Bench, how: Execution) -> None:
        self.device, self.model = bench.device, prepared(bench.config, how, bench.device)
        groups = self.model.param_groups()
        dtype = precision.of_optimizer(how.dtype)
        self.optimizer = optim.build(groups, OptimSection(), Dist(device=self.device), precision=dtype)
        self.losses = torch.compile(self.model.losses, dynamic=False) if how.compile else self.model.losses
        self.x_BT, self.y_BT = _random_batch(bench.config, bench.num_rows(how), self.device)

    def seconds(self) -> float:
        """Do one step and return how long it took."""
        began = time.perf_counter()
        loss: Tensor = self.losses(self.x_BT, self.y_BT).sum() / self.x_BT.numel()
        loss.backward()
        self.optimizer.clip(1.0)
        self.optimizer.step(1.0, 0.95, 0.0)
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began


def _random_batch(config: ModelConfig, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (rows, config.max_seq_len + 1)
    ids = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    x_BT, y_BT = (part.contiguous().to(device) for part in (ids[:, :-1], ids[:, 1:]))
    return x_BT, y_BT


def compile_once(config: ModelConfig, how: Execution, rows: int, device: torch.device) -> None:
    """Compile a training step and run it forwards and backwards, for what that leaves in the cache of kernels."""
    model = prepared(config, how, device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    room.use(model, device_batch_size=rows, world=world, dtype=how.dtype, compiled=True)  # as the stage will
    losses = torch.compile(model.losses, dynamic=False)
    loss: Tensor = losses(*_random_batch(config, rows, device)).sum()
    loss.backward()


def prepared(config: ModelConfig, how: Execution, device: torch.device) -> LanguageModel:
    """Return a model of this shape that computes in this way, with every weight drawn (a fresh head is all zero)."""
    model = build(config, seed=0, device=device)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            fan_in = weight.size(-1) if weight.dim() else 1
            weight.copy_(torch.randn(weight.shape, generator=generator) * fan_in**-0.5)
    model.set_precision(how.dtype)
    model.set_attention(how.attention)
    if how.fp8:
        fp8.convert(model)
    return model


@torch.no_grad()
def sees_ahead(config: ModelConfig, how: Execution, device: torch.device) -> bool:
    """Return whether changing later tokens changes what the head reads of earlier ones; in a causal model it cannot."""
    model = prepared(config, how, device)
    length = config.max_seq_len if how.attention == "flex" else min(config.max_seq_len, 64)  # flex knows one length
    generator = torch.Generator().manual_seed(2)
    ids_1T = torch.randint(config.vocab_size, (1, length), generator=generator)
    other_1T = ids_1T.clone()
    other_1T[:, length // 2 :] = (other_1T[:, length // 2 :] + 1) % config.vocab_size
    early, early_other = (model.hidden(ids.to(device))[:, : length // 2].float() for ids in (ids_1T, other_1T))
    return not bool((early - early_other).abs().max() <= _LEAK)
