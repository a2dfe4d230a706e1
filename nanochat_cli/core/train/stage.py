"""What all stages share: where a model comes from, how it computes, and what its checkpoints record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nanochat_cli import __version__
from nanochat_cli.core import checkpoint, config, devices, files, optim, paths, scaling
from nanochat_cli.core.checkpoint import Loaded, Meta
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.events import Log
from nanochat_cli.core.models import fp8, kernel_check, kernels
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.kernel_parts import Sizes
from nanochat_cli.core.models.shape import flops_per_token
from nanochat_cli.core.runs import RunContext, checkpoint_steps
from nanochat_cli.core.settings import (
    BatchSection,
    ChatOptimSection,
    ComputeSection,
    OptimSection,
    SaveSection,
    SourceSection,
)
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import device_batch, loop, precision, probe, room, schedule
from nanochat_cli.core.train.hooks import Hook
from nanochat_cli.core.train.prefetch import Prefetched
from nanochat_cli.core.train.probe import Execution

_EXECUTION = "execution.json"


@dataclass(frozen=True)
class BatchSize:
    """Tokens per optimizer step over all processes, and rows per forward pass."""

    total: int
    device: int


def settled(
    batch: BatchSection, model: LanguageModel, compute: ComputeSection, run: RunContext, dist: Dist, log: Log
) -> BatchSize:
    """Return the total batch as planned, and rows per pass: as before a resume, else as planned, else as they fit.

    Raises ConfigError without a total batch size, and EnvironmentLacks if not one row fits.
    """
    if batch.total_batch_size is None:
        raise ConfigError("the batch size is not settled", hint="start training through `nanochat train`")
    rows = max(1, batch.total_batch_size // model.config.max_seq_len // dist.world)
    before = _rows_before(run) if dist.is_main else 0
    before = int(dist.broadcast(torch.tensor([before], device=dist.device)).item())
    if before:
        return BatchSize(batch.total_batch_size, device_batch.at_most(rows, before))
    if batch.device_batch_size is not None:
        return BatchSize(batch.total_batch_size, batch.device_batch_size)
    work = device_batch.Pass.likely(rows, compute, dist.device)
    return BatchSize(batch.total_batch_size, device_batch.choose(model, work, dist, cache_path=_rows_cache(), log=log))


def _rows_cache() -> Path:
    return paths.cache_dir() / "device-batch.json"


def _rows_before(run: RunContext) -> int:
    """The rows per pass of a run that is resumed; 0 if it is not, or did not get that far."""
    saved = run.dir / _EXECUTION
    if not run.resume or not saved.is_file():
        return 0
    found = files.read_json(saved, "the stage's kernels").get("device_batch_size")
    return found if isinstance(found, int) and found > 0 else 0


def _keep_rows(run: RunContext, size: int) -> None:
    """Write down the rows per pass, beside what else decides how this stage computes."""
    saved = run.dir / _EXECUTION
    known = files.read_json(saved, "the stage's kernels") if saved.is_file() else {}
    files.write_json(saved, {**known, "device_batch_size": size})


class StageConfig(Protocol):
    """The sections that every training stage has."""

    @property
    def optim(self) -> OptimSection | ChatOptimSection: ...
    @property
    def save(self) -> SaveSection: ...
    @property
    def compute(self) -> ComputeSection: ...


def source_model(source: SourceSection, before: str, dist: Dist, log: Log) -> tuple[LanguageModel, Tokenizer, Meta]:
    """Return the model that a stage starts from, its own tokenizer, and what it is."""
    path = checkpoint.find(source.run, source.source, source.step, before=before, log=log)
    model, tokenizer, meta = checkpoint.load_model(path, dist.device)
    log.note(f"starting from {meta.run}/{meta.stage}, step {meta.step}")
    return model, tokenizer, meta


def resume_point(run: RunContext, log: Log) -> Loaded | None:
    """Return the checkpoint to go on from; None on a first start, or if nothing had been saved yet."""
    if not run.resume:
        return None
    if not checkpoint_steps(run.dir):
        log.note("nothing was saved yet: starting from the beginning")
        log.emit("resumed", step=0)  # what the lost steps recorded is left out of the history
        return None
    return checkpoint.load(run.dir, log=log)


def execution(
    model: LanguageModel,
    compute: ComputeSection,
    run: RunContext,
    dist: Dist,
    log: Log,
    *,
    device_batch_size: int,
    planned_tokens: int,
) -> Execution:
    """Return how this stage computes: as asked for, else as it did before a resume, else as measured by process 0."""
    _repeatable(dist.device)
    saved = run.dir / _EXECUTION
    chosen = [0, 0, 0, 0]
    if dist.is_main:
        before: dict[str, Any] = {}
        if run.resume and saved.is_file():
            before = files.read_json(saved, "the stage's kernels")
            compute = _as_before(compute, _with_kernels_of_here(before, compute, model, dist.device, log))
        with device_batch.explained(model.config, dist.device, device_batch_size):
            found = probe.choose(
                model.config,
                device_batch_size=device_batch_size,
                threads=torch.get_num_threads(),
                requested=compute,
                cache_path=paths.cache_dir() / "probe.json",
                log=log,
                planned_tokens=planned_tokens,
                device=dist.device,
            )
        if before.get("kernel", found.kernel) != found.kernel:
            log.warning(f"attention kernel {found.kernel} instead of {before['kernel']}, which this run began with")
        files.write_json(saved, dataclasses.asdict(found))
        _keep_rows(run, device_batch_size)
        if dist.world == 1:
            return found
        dtype = precision.DTYPES.index(found.dtype)
        chosen = [dtype, kernels.FORMS.index(found.attention), int(found.compile), int(found.fp8)]
    dtype, form, compiled, narrow = dist.broadcast(torch.tensor(chosen, device=dist.device)).tolist()
    return Execution(
        dtype=precision.DTYPES[dtype],
        attention=kernels.FORMS[form],
        compile=bool(compiled),
        fp8=bool(narrow),
        tokens_per_s={},
    )


def _repeatable(device: torch.device) -> None:
    """Ask for the same bits in every run on a CPU; must come before anything is compiled.

    Compiled code otherwise adds up the embedding's gradient in the order in which its threads arrive. The kernels that
    replace it cost nothing measurable on a CPU; on a GPU they do, so there the order of sums is left open. New tensors
    are not filled first, which is the other half of that setting and would cost.
    """
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _as_before(compute: ComputeSection, saved: Mapping[str, Any]) -> ComputeSection:
    """The automatic choices replaced by those made at the first start, so that a resumed run computes the same."""
    dtype = saved["dtype"] if compute.precision == "auto" else compute.precision
    attention = saved["attention"] if compute.attention == "auto" else compute.attention
    switch = ("on" if saved["compile"] else "off") if compute.compile == "auto" else compute.compile
    # Runs older than FP8 do not know the word.
    narrow = ("on" if saved.get("fp8") else "off") if compute.fp8 == "auto" else compute.fp8
    return dataclasses.replace(compute, precision=dtype, attention=attention, compile=switch, fp8=narrow)


def _with_kernels_of_here(
    saved: Mapping[str, Any], compute: ComputeSection, model: LanguageModel, device: torch.device, log: Log
) -> dict[str, Any]:
    """The saved choices; an attention kernel that does not work here is left open: any of them goes on as well."""
    form, sizes = saved["attention"], Sizes.of(model.config)
    if compute.attention != "auto" or form not in kernels.WINDOWED:
        return dict(saved)
    narrow = precision.TORCH[saved["dtype"] if compute.precision == "auto" else compute.precision]
    reason = kernels.lacking(form, device, dtype=narrow, head_dim=sizes.head_dim)
    if (reason := reason or kernel_check.fault(form, sizes, device, narrow)) is None:
        return dict(saved)
    log.warning(f"attention kernel {form}, which this run began with, is passed over: {reason}")
    return {**saved, "attention": "auto"}


def adopt(model: LanguageModel, how: Execution, log: Log) -> loop.Losses:
    """Set the model's precision and attention, and return its loss function for training."""
    model.set_precision(how.dtype)
    model.set_attention(how.attention)
    if how.fp8:
        fp8.convert(model)
    return probe.TrainingLosses(model, how, log)


def optimizer_of(
    model: LanguageModel, settings: optim.OptimSettings, dist: Dist, how: Execution, *, batch_scale: float = 1.0
) -> optim.MuonAdamW:
    """Return the optimizer of a model that computes in this way.

    On a GPU its update is compiled if training is; on a CPU it never is, where that gains little.
    """
    return optim.build(
        model.param_groups(),
        settings,
        dist,
        precision=precision.of_optimizer(how.dtype),
        batch_scale=batch_scale,
        fused=how.compile and dist.device.type == "cuda",
    )


def train(
    cfg: StageConfig,
    run: RunContext,
    dist: Dist,
    log: Log,
    *,
    model: LanguageModel,
    tokenizer: Tokenizer,
    batches: loop.Batches,
    num_steps: int,
    tokens_per_step: int,
    device_batch_size: int,
    how: Execution,
    hooks: Sequence[Hook],
    facts: Mapping[str, Any],
    prefetch: bool = False,
) -> dict[str, Any]:
    """Run the loop on a model and return the result. `facts` (data, parent, horizon) go into every checkpoint.

    `prefetch` makes the batches one step ahead, which they must not depend on the model's weights for.
    """
    record = {
        "format": 1,
        "version": __version__,
        "torch": torch.__version__,
        "run": run.run,
        "stage": run.stage,
        "command": run.command,
        "model": dataclasses.asdict(model.config),
        "tokenizer": {"hash": tokenizer.hash, "vocab_size": tokenizer.vocab_size},
        "config": config.to_dict(cfg),
        "execution": {**dataclasses.asdict(how), "device_batch_size": device_batch_size},
        "num_steps": num_steps,
        "tokens_per_step": tokens_per_step,
        "world": dist.world,
        **facts,
    }
    resumed = resume_point(run, log)
    if resumed is not None:
        check_same(resumed, record)
    room.use(model, device_batch_size=device_batch_size, world=dist.world, dtype=how.dtype, compiled=how.compile)
    ahead = Prefetched(batches, device=dist.device, vocab_size=tokenizer.vocab_size) if prefetch else None
    job = loop.Job(
        stage_dir=run.dir,
        model=model,
        losses=adopt(model, how, log),
        optimizer=optimizer_of(
            model,
            cfg.optim,
            dist,
            how,
            batch_scale=scaling.rate_scale(tokens_per_step) if cfg.optim.batch_scaling else 1.0,
        ),
        batches=ahead or batches,
        schedule=schedule.plan(num_steps, cfg.optim),
        device_batch_size=device_batch_size,
        tokenizer=tokenizer,
        config=record,
        seed=cfg.compute.seed,
        grad_clip=cfg.optim.grad_clip,
        save_every=cfg.save.save_every,
        keep_last=cfg.save.keep_last,
        hooks=hooks,
        flops_per_token=flops_per_token(model.config),
        gpu=gpu_of(dist.device),
        on_fewer_rows=_rememberer(run, model, tokens_per_step, cfg.compute, dist),
    )
    try:
        with device_batch.explained(model.config, dist.device, device_batch_size):
            outcome = loop.train(job, dist, log, resumed)
    finally:
        if ahead is not None:
            ahead.close()
    return outcome if "stopped" in outcome else {**outcome, "num_params": model.num_params()}


def gpu_of(device: torch.device) -> devices.Device | None:
    """Return the accelerator that a torch device is; None for a CPU and for one that our table lacks."""
    return devices.find(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def _rememberer(
    run: RunContext, model: LanguageModel, tokens_per_step: int, compute: ComputeSection, dist: Dist
) -> Callable[[int], None]:
    """What to do when rows ceased to fit: a resume of this run, and the next one like it, start with what does."""
    work = device_batch.Pass.likely(tokens_per_step // model.config.max_seq_len // dist.world, compute, dist.device)

    def keep(size: int) -> None:
        if dist.is_main:
            _keep_rows(run, size)
            device_batch.remember(_rows_cache(), model.config, work, dist, size)

    return keep


def check_same(resumed: Loaded, record: Mapping[str, Any]) -> None:
    """Raise an error naming what changed since the checkpoint, if going on would not be the same training."""
    if resumed.config.get("tokenizer", {}).get("hash") != record["tokenizer"]["hash"]:
        raise checkpoint.wrong_tokenizer(record["tokenizer"]["hash"], resumed.config, resumed.path)
    old = {**resumed.config, "data": resumed.config.get("data", {}).get("fingerprint")}
    new = {**record, "data": record.get("data", {}).get("fingerprint")}
    for key in ("model", "data", "tokens_per_step", "num_steps", "parent"):
        if old.get(key) != new.get(key):
            raise ConfigError(
                f"{key} differs from what this run was started with, so it cannot be resumed: {new.get(key)}",
                hint=f"it was {old.get(key)}; restore that, or train into a new run",
            )
