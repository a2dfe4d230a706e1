"""What all stages share: where a model comes from, how it computes, and what its checkpoints record."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nanochat_cli import __version__
from nanochat_cli.core import (
    checkpoint,
    config,
    deadline,
    devices,
    files,
    heartbeat,
    optim,
    paths,
    scaling,
    stepdirs,
    units,
)
from nanochat_cli.core.checkpoint import Loaded, Meta
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.events import Log
from nanochat_cli.core.models import fp8, kernel_check, kernels, lora
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.kernel_parts import Sizes
from nanochat_cli.core.models.shape import flops_per_token
from nanochat_cli.core.runs import RunContext, checkpoint_steps
from nanochat_cli.core.settings import (
    BatchSection,
    ChatOptimSection,
    ComputeSection,
    GuardSection,
    OptimSection,
    SaveSection,
    SourceSection,
)
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import determinism, device_batch, loop, precision, probe, room, schedule, tuning
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
    work = device_batch.Pass.likely(rows, compute, dist.device, model)
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


def _keep(run: RunContext, **values: Any) -> None:
    """Write down what has changed of how this stage computes, such as its rows per pass."""
    saved = run.dir / _EXECUTION
    known = files.read_json(saved, "the stage's kernels") if saved.is_file() else {}
    files.write_json(saved, {**known, **values})


class StageConfig(Protocol):
    """The sections that every training stage has."""

    @property
    def optim(self) -> OptimSection | ChatOptimSection: ...
    @property
    def save(self) -> SaveSection: ...
    @property
    def guard(self) -> GuardSection: ...
    @property
    def compute(self) -> ComputeSection: ...


def source_model(source: SourceSection, before: str, dist: Dist, log: Log) -> tuple[LanguageModel, Tokenizer, Meta]:
    """Return the model that a stage starts from, its own tokenizer, and what it is."""
    path = checkpoint.find(source.run, source.source, source.step, before=before, log=log)
    model, tokenizer, meta = checkpoint.load_model(path, dist.device)
    log.note(f"starting from {meta.run}/{meta.stage}, step {meta.step}, saved {units.ago(meta.created)}")
    return model, tokenizer, meta


def resume_point(run: RunContext, dist: Dist, log: Log) -> Loaded | None:
    """Return the checkpoint to go on from; None on a first start, or if nothing had been saved yet."""
    if not run.resume:
        return None
    known = checkpoint_steps(run.dir)
    if run.resume_step is None and not known:
        stepdirs.refuse_lost(run.dir)
        log.note("nothing was saved yet: starting from the beginning")
        log.emit("resumed", step=0)  # what the lost steps recorded is left out of the history
        return None
    found = checkpoint.load(run.dir, run.resume_step, log=log) if dist.is_main else None
    step = int(dist.main_text(str(found.step if found else "")))
    if found is None:  # the very step that the first process has found to be good
        found = checkpoint.load(run.dir, step)
    return found


def _leave_later_steps(run: RunContext, resumed: Loaded, log: Log) -> None:
    """Set aside what follows the step that was asked for: it is made anew, and must not be taken for the newest."""
    for step in reversed(checkpoint_steps(run.dir)):  # so that a kill half-way leaves none that looks like the newest
        if step > resumed.step:
            log.warning(f"step {step} is set aside: {stepdirs.leave(stepdirs.step_dir(run.dir, step)).name}")


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
    determinism.ask(dist.device, compute.deterministic)
    if compute.deterministic and dist.device.type == "cuda" and compute.attention == "auto":
        compute = dataclasses.replace(compute, attention="fused")  # torch's own, whose backward pass can be repeated
    saved = run.dir / _EXECUTION
    chosen, found = [0, 0, 0, 0], Execution(dtype="fp32", attention="fused", compile=False)
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
        _keep(run, device_batch_size=device_batch_size)
        if dist.world == 1:
            return found
        dtype = precision.DTYPES.index(found.dtype)
        chosen = [dtype, kernels.FORMS.index(found.attention), int(found.compile), int(found.fp8)]
    dtype, form, compiled, narrow = dist.broadcast(torch.tensor(chosen, device=dist.device)).tolist()
    if dist.is_main:  # whose account of it goes into the checkpoints
        return found
    return Execution(
        dtype=precision.DTYPES[dtype],
        attention=kernels.FORMS[form],
        compile=bool(compiled),
        fp8=bool(narrow),
        tokens_per_s={},
    )


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


def adopt(
    model: LanguageModel, how: Execution, log: Log, on_eager: Callable[[str], None] = lambda why: None
) -> loop.Losses:
    """Set the model's precision and attention, and return its loss function for training.

    `on_eager` is told why if compiling fails after all.
    """
    model.set_precision(how.dtype)
    model.set_attention(how.attention)
    if how.fp8:
        fp8.convert(model)
    return probe.TrainingLosses(model, how, log, on_eager)


def optimizer_of(
    model: LanguageModel,
    settings: optim.OptimSettings,
    dist: Dist,
    how: Execution,
    *,
    tokens_per_step: int | None = None,
    scaled: bool = False,
) -> optim.MuonAdamW:
    """Return the optimizer of a model that computes in this way.

    On a GPU its update is compiled if training is; on a CPU it never is, where that gains little.
    Unless rates are `scaled` by the batch, those of the residual stream's scalars still are: they move together, by
    their whole rate at every step, and with small batches turned the stream around before the rest had learnt much.
    """
    scale = scaling.rate_scale(tokens_per_step) if tokens_per_step else 1.0
    return optim.build(
        tuning.groups(model),
        settings,
        dist,
        precision=precision.of_optimizer(how.dtype),
        batch_scale=scale if scaled else 1.0,
        scalar_scale=None if scaled else scale,
        fused=how.compile and dist.device.type == "cuda",
        carried=lora.adapters(model),
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
        "run": run.run,
        "stage": run.stage,
        "command": run.command,
        "model": dataclasses.asdict(model.config),
        "tokenizer": {"hash": tokenizer.hash, "vocab_size": tokenizer.vocab_size},
        "config": config.to_dict(cfg),
        "execution": {**dataclasses.asdict(how), "device_batch_size": device_batch_size},
        "num_steps": num_steps,
        "tokens_per_step": tokens_per_step,
        **determinism.here(dist),
        **facts,
    }
    resumed = resume_point(run, dist, log)
    if resumed is not None:
        check_same(resumed, record)
        if dist.is_main and run.resume_step is not None:
            _leave_later_steps(run, resumed, log)
    promise = determinism.level(
        dist, cfg.compute.deterministic and how.attention in determinism.REPEATABLE, resumed.config if resumed else None
    )
    record["determinism"] = {"level": promise.name, "says": promise.says}
    log.emit("determinism", level=promise.name, says=promise.says)
    if promise is determinism.L4:
        log.note(f"determinism {promise.name}: {promise.says}")
    room.use(model, device_batch_size=device_batch_size, world=dist.world, dtype=how.dtype, compiled=how.compile)
    beat = heartbeat.Beat(run.dir, dist.rank)
    beat(heartbeat.OTHER)
    ahead = Prefetched(batches, device=dist.device, vocab_size=tokenizer.vocab_size) if prefetch else None
    job = loop.Job(
        stage_dir=run.dir,
        model=model,
        losses=adopt(model, how, log, _recorder(run, record, dist)),
        optimizer=optimizer_of(
            model,
            cfg.optim,
            dist,
            how,
            tokens_per_step=tokens_per_step,
            scaled=bool(cfg.optim.batch_scaling),
        ),
        batches=ahead or batches,
        schedule=schedule.plan(num_steps, cfg.optim),
        device_batch_size=device_batch_size,
        tokenizer=tokenizer,
        config=record,
        seed=cfg.compute.seed,
        grad_clip=cfg.optim.grad_clip,
        save_every=cfg.save.steps,
        save_every_s=cfg.save.seconds,
        keep_last=cfg.save.keep_last,
        keep_every=cfg.save.keep_every,
        keep_best=cfg.save.keep_best,
        spike_sigma=cfg.guard.spike_sigma,
        deadline=deadline.find(cfg.save.max_wall_s, run.started, os.environ),
        beat=beat,
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
    rows = tokens_per_step // model.config.max_seq_len // dist.world
    work = device_batch.Pass.likely(rows, compute, dist.device, model)

    def keep(size: int) -> None:
        if dist.is_main:
            _keep(run, device_batch_size=size)
            device_batch.remember(_rows_cache(), model.config, work, dist, size)

    return keep


def _recorder(run: RunContext, record: dict[str, Any], dist: Dist) -> Callable[[str], None]:
    """What to do when compiled code turns out not to run: checkpoints, report and a resume must not claim it."""

    def keep(why: str) -> None:
        changed = {"compile": False, "fp8": False, "eager_because": why}
        record["execution"] = {**record["execution"], **changed}
        if dist.is_main:
            _keep(run, **changed)

    return keep


def check_same(resumed: Loaded, record: Mapping[str, Any]) -> None:
    """Raise an error naming what changed since the checkpoint, if going on would not be the same training."""
    if resumed.config.get("tokenizer", {}).get("hash") != record["tokenizer"]["hash"]:
        raise checkpoint.wrong_tokenizer(record["tokenizer"]["hash"], resumed.config, resumed.path)
    old, new = (
        {
            **facts,
            "data": facts.get("data", {}).get("fingerprint"),
            "parent": (facts.get("parent") or {}).get("weights_sha256"),  # its run may have another name by now
        }
        for facts in (resumed.config, record)
    )
    for key in ("model", "data", "tokens_per_step", "num_steps", "parent"):
        if old.get(key) != new.get(key):
            raise ConfigError(
                f"{key} differs from what this run was started with, so it cannot be resumed: {new.get(key)}",
                hint=f"it was {old.get(key)}; restore that, or train into a new run",
            )
