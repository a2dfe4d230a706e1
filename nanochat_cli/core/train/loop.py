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
from torch import Tensor, nn

from nanochat_cli.core import checkpoint
from nanochat_cli.core.checkpoint import Loaded
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.events import Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.train import guards
from nanochat_cli.core.train.schedule import Schedule

Micro = Sequence[Tensor]
"""x_BT and y_BT int64 (y -1 = no target), and optionally w_BT, a weight on each target's loss."""
Losses = Callable[[Tensor, Tensor], Tensor]
_COLLECT_EVERY = 500


class Batches(Protocol):
    """Where rows come from: a pure function of the step (and, for rollouts, of the weights at that step)."""

    def step(self, step: int, rank: int = 0, world: int = 1, device_batch_size: int | None = None) -> Sequence[Micro]:
        """This rank's micro-batches of the global batch of `step`."""
        ...


class Optimizer(Protocol):
    """The part of `optim.MuonAdamW` that is used here."""

    def clip(self, max_norm: float | None) -> Tensor: ...
    def step(self, lr_mult: float, momentum: float, weight_decay: float) -> None: ...
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


@dataclass(frozen=True)
class Gradient:
    """What the gradients in `.grad` stand for: the mean loss over `targets`, found by reading `tokens` positions."""

    loss: float
    targets: int
    tokens: int


def accumulate(losses: Losses, params: Sequence[nn.Parameter], micros: Sequence[Micro], dist: Dist) -> Gradient:
    """Leave the gradient of the global batch's mean loss in `.grad` and return what it stands for.

    `micros` is this rank's share; a share, or a whole batch, without any target is safe (and gives no gradient).
    """
    device = dist.device
    mine = [sum(int((micro[1] >= 0).sum()) for micro in micros), sum(micro[0].numel() for micro in micros)]
    count, tokens = dist.all_reduce_sum(torch.tensor(mine, device=device)).tolist()
    total = torch.zeros((), dtype=torch.float64, device=device)
    if count == 0:
        return Gradient(0.0, 0, tokens)
    for x_BT, y_BT, *weight in micros:
        if not bool((y_BT >= 0).any()):
            continue
        loss_BT = losses(x_BT.to(device), y_BT.to(device))
        if weight:
            loss_BT = loss_BT * weight[0].to(device)
        loss = loss_BT.sum()
        (loss / count).backward()
        total += loss.detach()
    if dist.world > 1:
        for param in params:  # a rank without rows takes part in the sum all the same
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        dist.sum_gradients(params)
    return Gradient(dist.all_reduce_sum(total).item() / count, count, tokens)


class _Run:
    """A job on its way: the number of updates done, and what has been measured so far."""

    def __init__(self, job: Job, dist: Dist, log: Log) -> None:
        self.job, self.dist, self.log = job, dist, log
        self.params = [param for param in job.model.parameters() if param.requires_grad]
        self.step = self.tokens = 0
        self.last_saved: int | None = None
        self.seconds = 0.0
        self.step_seconds = 0.0
        self.timed = False
        self.smooth = guards.SmoothLoss()
        self.metrics: dict[str, float] = {}

    def restore(self, saved: Loaded) -> None:
        """Continue from a checkpoint: same weights, optimizer, position and curves."""
        self.job.model.load_state_dict(saved.weights)
        self.job.optimizer.load_state_dict(saved.optim)
        self.step = self.last_saved = saved.step
        self.tokens = saved.state.get("cursor", {}).get("tokens", 0)
        self.seconds = saved.state.get("seconds", 0.0)
        self.smooth = guards.SmoothLoss(**saved.state.get("smooth_loss", {}))
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
            stop = self.dist.any(guards.stop_requested(job.stage_dir))
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
        _reseed(job.seed, step, dist.rank)
        micros = job.batches.step(step, dist.rank, dist.world, job.device_batch_size)
        found = accumulate(job.losses, self.params, micros, dist)
        grad_norm = job.optimizer.clip(job.grad_clip or None).item() if found.targets else 0.0
        guards.check_finite(step, found.loss, grad_norm, self.last_saved)
        lr_mult = job.schedule.lr(step)
        if found.targets:
            job.optimizer.step(lr_mult, job.schedule.momentum(step), job.schedule.weight_decay(step))
            job.model.after_step()
            self.smooth.update(found.loss)
        else:
            self.log.warning(f"step {step + 1} had nothing to learn from: no target in its batch")
        job.model.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += found.tokens
        self._tell(time.perf_counter() - began, found, lr_mult, grad_norm)

    def _tell(self, seconds: float, found: Gradient, lr_mult: float, grad_norm: float) -> None:
        job = self.job
        self.seconds += seconds
        # The first step of a process pays for compilation and is left out of the estimate.
        first, self.timed = not self.timed, True
        if not first:
            self.step_seconds = 0.9 * self.step_seconds + 0.1 * seconds if self.step_seconds else seconds
        extras = getattr(job.batches, "extras", None)
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
            **(extras() if extras is not None else {}),
        )

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
            raise NanochatError(f"the first process could not save step {self.step}")
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
