"""The one training loop: a stage hands it batches of (inputs, targets[, weights]) and gets a trained model back.

One step is one update by the gradient of a whole global batch, wherever its rows were computed. The loss is exact: the
summed loss of all target tokens of that batch, over all micro-batches and ranks, divided by their number. Hence the
same batch gives the same update, however it was cut.

Tensor suffixes: B rows, T positions.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nanochat_cli.core import checkpoint, devices
from nanochat_cli.core.checkpoint import Loaded
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import PeerFailed
from nanochat_cli.core.events import Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.train import blame, device_batch, gradient, guards
from nanochat_cli.core.train.gradient import Gradient, Losses, Micro
from nanochat_cli.core.train.precision import Scaler
from nanochat_cli.core.train.schedule import Schedule
from nanochat_cli.core.train.stall import Stall

_COLLECT_EVERY = 500


class Batches(Protocol):
    """Where rows come from: a pure function of the step (and, for rollouts, of the weights at that step).

    The latter have an attribute `made_by_the_model`. A micro-batch may be a `loader.Counted`, which spares counting.
    """

    def step(self, step: int, rank: int = 0, world: int = 1, device_batch_size: int | None = None) -> Sequence[Micro]:
        """This rank's micro-batches of the global batch of `step`."""
        ...


class Optimizer(Protocol):
    """The part of `optim.MuonAdamW` that is used here."""

    def clip(self, max_norm: float | None, scale: float = 1.0) -> Tensor: ...
    def step(self, lr_mult: float, momentum: float, weight_decay: float) -> None: ...
    def zero_grad(self) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class Hook(Protocol):
    """A measurement every so many steps and at the end (None = never). It leaves the weights as they are."""

    name: str
    every: int | None
    at_start: bool

    def run(self, step: int, log: Log) -> dict[str, float]:
        """Measure, tell the log, and return what belongs in the stage's result. Called by every process."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that one stage trains with. `config` is what its checkpoints record about it."""

    stage_dir: Path
    model: LanguageModel
    losses: Losses
    optimizer: Optimizer
    batches: Batches
    schedule: Schedule
    device_batch_size: int
    tokenizer: Any
    config: Mapping[str, Any]
    seed: int = 0
    grad_clip: float | None = None
    save_every: int | None = None
    keep_last: int = 2
    hooks: Sequence[Hook] = ()
    flops_per_token: float = 0.0
    gpu: devices.Device | None = None
    """What each process computes on, if it is one whose peak is known: then steps tell their MFU."""
    on_fewer_rows: Callable[[int], None] | None = None
    """Told by every process when `device_batch_size` rows ceased to fit, so that a resume starts with what does."""


def train(job: Job, dist: Dist, log: Log, resumed: Loaded | None = None) -> dict[str, Any]:
    """Train to the end of the schedule, from `resumed` if given, and return the result in numbers.

    A request to stop saves at the next step boundary and returns `{"stopped": step}`. Raises Diverged before a bad
    update could change the weights, and NanochatError if a checkpoint cannot be written.
    """
    run = _Run(job, dist, log)
    if resumed is not None:
        run.restore(resumed)
    with _quiet_gc():
        return run.to_the_end()


class _Run:
    """A job on its way: the number of updates done, and what has been measured so far."""

    def __init__(self, job: Job, dist: Dist, log: Log) -> None:
        self.job, self.dist, self.log = job, dist, log
        self.params = [param for param in job.model.parameters() if param.requires_grad]
        self.step = self.tokens = 0
        self.rows = job.device_batch_size
        self.last_saved: int | None = None
        self.scaler = Scaler(job.model.precision, log)
        self.seconds = 0.0
        self.step_seconds = 0.0
        self.waited = 0.0  # for the rows of this step
        self.timed = self.stop_vote = False
        self.smooth = guards.SmoothLoss()
        self.stall = None if getattr(job.batches, "made_by_the_model", False) else Stall(log)
        self.metrics: dict[str, float] = {}

    def restore(self, saved: Loaded) -> None:
        """Continue from a checkpoint: same weights, optimizer, position and curves."""
        self.job.model.load_state_dict(saved.weights)
        self.job.optimizer.load_state_dict(saved.optim)
        self.step = self.last_saved = saved.step
        self.tokens = saved.state.get("cursor", {}).get("tokens", 0)
        self.seconds = saved.state.get("seconds", 0.0)
        self.smooth = guards.SmoothLoss(**saved.state.get("smooth_loss", {}))
        self.scaler.restore(saved.state.get("scaler", {}))
        self.metrics = dict(saved.state.get("metrics", {}))
        self.log.emit("resumed", step=saved.step)

    def to_the_end(self) -> dict[str, Any]:
        """Save first, evaluate afterwards: whatever happens in an evaluation, the weights are on the disk."""
        job, num_steps = self.job, self.job.schedule.num_steps
        self.job.model.train()
        if self.step == 0:
            self._run_hooks(lambda hook: hook.at_start)
        while self.step < num_steps:
            self._update()
            stop = self._stop_requested()
            at_end = self.step == num_steps
            if stop or at_end or _due(job.save_every, self.step):
                self._save()
            if stop and not at_end:
                self.log.emit("stopped", step=self.step)
                return {"stopped": self.step}
            if not at_end:
                self._run_hooks(lambda hook: _due(hook.every, self.step))
            if self.step % _COLLECT_EVERY == 0:
                gc.collect()
        self._run_hooks(lambda hook: hook.every is not None)
        return self._result()

    def _update(self) -> None:
        """One step: rows, gradient, checks, new weights, one event."""
        began = time.perf_counter()
        job, dist, step = self.job, self.dist, self.step
        found, grad_norm = self._gradient()
        self.stop_vote = found.vote

        def where() -> str | None:
            return blame.where(job.batches, step, self.rows, found.parts, dist, loss=found.loss)

        guards.check_finite(step, found.loss, 0.0, self.last_saved, where)
        usable = bool(found.targets) and self.scaler.accepts(grad_norm, step, self.last_saved)
        grad_norm = grad_norm if usable else 0.0
        guards.check_finite(step, found.loss, grad_norm, self.last_saved, where)
        lr_mult = job.schedule.lr(step)
        if usable:
            job.optimizer.step(lr_mult, job.schedule.momentum(step), job.schedule.weight_decay(step))
            job.model.after_step()
            self.smooth.update(found.loss)
        elif not found.targets:
            self.log.warning(f"step {step + 1} had nothing to learn from: no target in its batch")
        job.optimizer.zero_grad()
        self.step += 1
        self.tokens += found.tokens
        self._tell(time.perf_counter() - began, found, lr_mult, grad_norm)

    def _gradient(self) -> tuple[Gradient, float]:
        """The gradient of this step's batch and its norm.

        Where memory runs out, the same rows are cut smaller from here on.
        """
        job, dist, step = self.job, self.dist, self.step
        _reseed(job.seed, step, dist.rank)
        began = time.perf_counter()
        micros = job.batches.step(step, dist.rank, dist.world, self.rows)
        self.waited = time.perf_counter() - began
        asked = guards.stop_requested(job.stage_dir)
        while True:
            try:
                return self._try(micros, asked)
            except device_batch.DoesNotFit as problem:
                said = str(problem)
            job.optimizer.zero_grad()
            device_batch.release(dist.device)
            self._take_fewer_rows(said)
            micros = device_batch.recut(micros, self.rows)
            _reseed(job.seed, step, dist.rank)

    def _try(self, micros: Sequence[Micro], asked: bool) -> tuple[Gradient, float]:
        job = self.job
        pending = gradient.backward(job.losses, self.params, micros, self.dist, vote=asked, scale=self.scaler.scale)
        norm = torch.zeros(())
        if pending.has_gradient:
            norm = job.optimizer.clip(job.grad_clip or None, self.scaler.scale)
        found, (grad_norm,) = pending.read(norm)
        return found, grad_norm

    def _take_fewer_rows(self, said: str) -> None:
        if self.rows == 1:
            raise device_batch.too_large(self.job.model.config, self.dist.device)
        before, self.rows = self.rows, device_batch.at_most(self.rows, self.rows // 2)
        self.log.warning(
            f"step {self.step + 1} ran out of memory with {before} rows at a time: done again, as from now on, with "
            f"{self.rows} (the same batch in smaller pieces) [{said[:200]}]"
        )
        if self.job.on_fewer_rows is not None:
            self.job.on_fewer_rows(self.rows)

    def _tell(self, seconds: float, found: Gradient, lr_mult: float, grad_norm: float) -> None:
        job = self.job
        self.seconds += seconds
        # The first step of a process pays for compilation and is left out of the estimate.
        first, self.timed = not self.timed, True
        if not first:
            self.step_seconds = 0.9 * self.step_seconds + 0.1 * seconds if self.step_seconds else seconds
            if self.stall is not None:
                self.stall.add(self.waited, seconds)
        extras = getattr(job.batches, "extras", None)
        mfu = devices.mfu(job.flops_per_token, found.tokens / seconds, job.gpu, self.dist.world)
        self.log.emit(
            "step",
            step=self.step,
            num_steps=job.schedule.num_steps,
            loss=self.smooth.value,
            raw_loss=found.loss,
            lr_mult=lr_mult,
            grad_norm=grad_norm,
            tokens_per_s=found.tokens / seconds,
            step_ms=1000 * seconds,
            eta_s=None if first else self.step_seconds * (job.schedule.num_steps - self.step),
            tokens=self.tokens,
            targets=found.targets,
            **({"data_stall": self.waited / seconds} if self.stall is not None else {}),
            **({} if mfu is None else {"mfu": mfu}),
            **self.scaler.facts(),
            **(extras() if extras is not None else {}),
        )

    def _stop_requested(self) -> bool:
        """Whether any process was asked to stop.

        Of several, each said so at the beginning of the step, along with its counts: asking for it now would make them
        wait for one another and for their devices.
        """
        return self.stop_vote if self.dist.world > 1 else guards.stop_requested(self.job.stage_dir)

    def _save(self) -> None:
        """Write a checkpoint from the first rank; the others wait, and fail with it instead of hanging."""
        job = self.job
        optim = job.optimizer.state_dict()
        problem: Exception | None = None
        if self.dist.is_main:
            state = {
                "rng": {"seed": job.seed, "rule": "reseeded at every step from (seed, step, rank)"},
                "cursor": {"step": self.step, "tokens": self.tokens},
                "seconds": self.seconds,
                "smooth_loss": self.smooth.state(),
                "scaler": self.scaler.state(),
                "metrics": self.metrics,
            }
            try:
                checkpoint.save(
                    job.stage_dir,
                    self.step,
                    weights=job.model.state_dict(),
                    optim=optim,
                    config=job.config,
                    state=state,
                    tokenizer=job.tokenizer,
                    keep_last=job.keep_last,
                    log=self.log,
                )
            except Exception as found:
                problem = found
        failed = self.dist.any(problem is not None)
        if problem is not None:
            raise problem
        if failed:
            raise PeerFailed(f"the first process could not save step {self.step}")
        self.last_saved = self.step

    def _run_hooks(self, wanted: Callable[[Hook], bool]) -> None:
        for hook in self.job.hooks:
            if not wanted(hook):
                continue
            try:
                self._keep(hook.run(self.step, self.log))
            except Exception as problem:
                if self.dist.world > 1:  # the others wait for this rank in a collective of the same hook
                    raise
                self.log.warning(f"{hook.name} at step {self.step} failed, training goes on: {problem}")
            finally:
                self.job.model.train()

    def _keep(self, measured: Mapping[str, float]) -> None:
        for name, value in measured.items():
            self.metrics[name] = value
            if name.endswith("bpb"):
                self.metrics[f"min_{name}"] = min(value, self.metrics.get(f"min_{name}", value))

    def _result(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "loss": self.smooth.value,
            "tokens": self.tokens,
            "train_seconds": round(self.seconds, 2),
            "tokens_per_s": round(self.tokens / self.seconds) if self.seconds else None,
            **({"data_stall": self.stall.average} if self.stall is not None else {}),
            **self.metrics,
        }


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


def _reseed(seed: int, step: int, rank: int) -> None:
    """Make torch's random numbers a function of where we are, so that a resumed run draws the same ones."""
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**63)


@contextmanager
def _quiet_gc() -> Iterator[None]:
    """Keep the garbage collector from scanning the whole program in the middle of a step."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
