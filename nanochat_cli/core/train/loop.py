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

from nanochat_cli.core import checkpoint, devices, faults, heartbeat, interrupts, runs
from nanochat_cli.core.checkpoint import Loaded
from nanochat_cli.core.deadline import Deadline
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import MissingArtifact, NanochatError
from nanochat_cli.core.events import Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.slices import Slice
from nanochat_cli.core.stepdirs import Keep
from nanochat_cli.core.train import blame, device_batch, gradient, guards
from nanochat_cli.core.train.cadence import Cadence
from nanochat_cli.core.train.gradient import Gradient, Losses, Micro
from nanochat_cli.core.train.precision import Scaler
from nanochat_cli.core.train.saver import Saver
from nanochat_cli.core.train.schedule import Schedule
from nanochat_cli.core.train.stall import Stall

_COLLECTS = 500
_GETTING_FURTHER = 10
"""Good steps after going back that make a further going back worth it."""
_MOST_ROLL_BACKS = 10
_SLOW_DISK = 50e6
"""Bytes per second that a disk writes at least, as long as none was measured."""


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
    def slices(self) -> list[Slice]: ...
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
    """Save every so many steps …"""
    save_every_s: float | None = None
    """… or whenever so many seconds have passed."""
    keep_last: int = 2
    keep_every: int | None = None
    keep_best: bool = False
    spike_sigma: float | None = 6.0
    deadline: Deadline | None = None
    beat: heartbeat.Beat | None = None
    """Gives signs of life, if anybody watches."""
    hooks: Sequence[Hook] = ()
    flops_per_token: float = 0.0
    gpu: devices.Device | None = None
    """What each process computes on, if it is one whose peak is known: then steps tell their MFU."""
    on_fewer_rows: Callable[[int], None] | None = None
    """Told by every process when `device_batch_size` rows ceased to fit, so that a resume starts with what does."""


def train(job: Job, dist: Dist, log: Log, resumed: Loaded | None = None) -> dict[str, Any]:
    """Train to the end of the schedule, from `resumed` if given, and return the result in numbers.

    A request to stop saves at the next step boundary and returns `{"stopped": step}`. A step that is no number or far
    out is left out; Diverged is raised when that does not help. A checkpoint that cannot be written is told and tried
    again later; only that of the last step raises NanochatError.
    """
    run = _Run(job, dist, log)
    if resumed is not None:
        run.restore(resumed)
        log.emit("resumed", step=resumed.step)
    try:
        with _quiet_gc():
            return run.to_the_end()
    finally:
        run.saver.close()


class _TooManyLeftOut(Exception):
    """Three steps in a row were left out."""

    def __init__(self, what: str, where: str | None) -> None:
        self.what, self.where = what, where


class _Run:
    """A job on its way: the number of updates done, and what has been measured so far."""

    def __init__(self, job: Job, dist: Dist, log: Log) -> None:
        self.job, self.dist, self.log = job, dist, log
        self.params = [param for param in job.model.parameters() if param.requires_grad]
        self.step = self.tokens = 0
        self.shift = 0
        """How many batches lie between the number of a step and that of its batch: those that were left out."""
        self.rows = job.device_batch_size
        self.saver = Saver(
            job.stage_dir,
            dist,
            log,
            record=job.config,
            tokenizer=job.tokenizer,
            keep=Keep(last=job.keep_last, every=job.keep_every),
        )
        self.cadence = Cadence(job.save_every, job.save_every_s, job.keep_every)
        self.guard = guards.Guard(job.spike_sigma)
        self.roll_backs, self.good_since = 0, _GETTING_FURTHER
        """How often training went back, and good steps since."""
        self.hook_seconds = 0.0
        self.scaler = Scaler(job.model.precision, log)
        self.seconds = 0.0
        self.step_seconds = 0.0
        self.waited = 0.0  # for the rows of this step
        self.timed = self.prepared = False
        self.stop_why: str | None = None
        self.votes = (0, 0)
        self.smooth = guards.SmoothLoss()
        self.stall = None if getattr(job.batches, "made_by_the_model", False) else Stall(log)
        self.metrics: dict[str, float] = {}

    def restore(self, saved: Loaded) -> None:
        """Continue from a checkpoint: same weights, optimizer, position and curves."""
        self.job.model.load_state_dict(saved.weights)
        self.job.optimizer.load_state_dict(saved.optim)
        self.step = self.saver.last_saved = self.saver.last_started = saved.step
        self.saver.seconds = max(self.saver.seconds, saved.state.get("save_seconds", 0.0))
        cursor = saved.state.get("cursor", {})
        self.tokens, self.shift = cursor.get("tokens", 0), cursor.get("batch", saved.step) - saved.step
        self.guard.restore(saved.state.get("guard", {}))
        self.seconds = saved.state.get("seconds", 0.0)
        self.smooth = guards.SmoothLoss(**saved.state.get("smooth_loss", {}))
        self.scaler.restore(saved.state.get("scaler", {}))
        self.metrics = dict(saved.state.get("metrics", {}))
        saved.weights.clear()  # these are copies, and whoever holds the checkpoint would keep them to the end
        saved.optim.clear()

    def to_the_end(self) -> dict[str, Any]:
        """Save first, evaluate afterwards: whatever happens in an evaluation, the weights are on the disk."""
        num_steps = self.job.schedule.num_steps
        self.job.model.train()
        if self.step == 0:
            self._run_hooks(lambda hook: hook.at_start)
        while self.step < num_steps:
            try:
                self._update()
            except _TooManyLeftOut as problem:
                self._roll_back(problem)
                continue
            if not self.prepared:  # now that the optimizer has its state
                self.saver.prepare(self.job.model.state_dict(), self.job.optimizer)
                self.prepared = True
            stop, save = self._votes()
            at_end = self.step == num_steps
            if stop or at_end:
                self._save(must=True)
            elif save and not self.guard.in_a_row:  # what may have to be undone is not kept
                self._save()
            if stop and not at_end:
                self.log.emit("stopped", step=self.step, why=self.stop_why or "another process was asked")
                return {"stopped": self.step}
            if not at_end:
                self._run_hooks(lambda hook: _due(hook.every, self.step))
            if self.step % _COLLECTS == 0:
                gc.collect()
        self._run_hooks(lambda hook: hook.every is not None)
        self.saver.finish()
        return self._result()

    def _update(self) -> None:
        """One step: rows, gradient, checks, new weights, one event. Raises _TooManyLeftOut."""
        began = time.perf_counter()
        job, step = self.job, self.step
        faults.at_step(step)
        found, grad_norm = self._gradient()
        self.votes = found.flags[:2]
        self.saver.settle(*found.flags[2:])
        self._beat()
        usable = self._is_usable(found, grad_norm)
        grad_norm = grad_norm if usable else 0.0
        lr_mult = job.schedule.lr(step)
        if usable:
            job.optimizer.step(lr_mult, job.schedule.momentum(step), job.schedule.weight_decay(step))
            job.model.after_step()
            self.smooth.update(found.loss)
            self.guard.took(found.loss, grad_norm)
            self.good_since += 1
        job.optimizer.zero_grad()
        self.step += 1
        self.tokens += found.tokens
        self._tell(time.perf_counter() - began, found, lr_mult, grad_norm)

    def _is_usable(self, found: Gradient, grad_norm: float) -> bool:
        """Whether to change the weights by this gradient; says why not. Raises _TooManyLeftOut."""
        if not found.targets:
            self.log.warning(f"step {self.step + 1} had nothing to learn from: no target in its batch")
            return False
        verdict = self.guard.judge(found.loss, None if self.scaler.on else grad_norm)
        if verdict is None:
            return self.scaler.accepts(grad_norm, self.step, self.saver.last_saved)
        where = None
        if not verdict.is_number:
            where = blame.where(
                self.job.batches, self.step + self.shift, self.rows, found.parts, self.dist, loss=found.loss
            )
        often = self.guard.left_out(self.step)
        self.log.emit("skipped", step=self.step + 1, why=verdict.what, where=where, in_a_row=self.guard.in_a_row)
        self.log.warning(f"step {self.step + 1} left out: {verdict.what}" + (f" ({where})" if where else ""))
        if often:
            self.log.warning("more than 10 of the last 1,000 steps were left out: learning rates may be too high")
        if self.guard.in_a_row >= guards.IN_A_ROW or (often and not verdict.is_number):
            raise _TooManyLeftOut(verdict.what, where)
        return False

    def _roll_back(self, problem: _TooManyLeftOut) -> None:
        """Go back to the last checkpoint, and on from there with the batches after those that were bad.

        Raises Diverged if there is none, if the last time brought few good steps, or if it was done often.
        """
        self.job.optimizer.zero_grad()
        self.saver.finish()
        bad = self.step + self.shift
        known = runs.checkpoint_steps(self.job.stage_dir) if self.dist.is_main else []
        known = [step for step in known if step <= self.step]
        target = int(self.dist.main_text(str(known[-1] if known else -1)))
        if target < 0 or self.good_since < _GETTING_FURTHER or self.roll_backs == _MOST_ROLL_BACKS:
            raise guards.diverged(self.step, problem.what, None if target < 0 else target, problem.where)
        saved = self._agreed(target)
        left_out, undone, skipped = self.guard.in_a_row, self.step - saved.step, self.guard.skipped
        self.restore(saved)
        self.guard.skipped, self.guard.in_a_row = skipped, 0
        self.shift = bad + 1 - saved.step
        self.roll_backs, self.good_since = self.roll_backs + 1, 0
        self.log.emit("rolled_back", step=saved.step, batch=bad + 1, left_out=left_out)
        self.log.warning(
            f"{left_out} steps in a row left out: back to step {saved.step} ({undone} steps undone), and on from there "
            f"with the data after them"
        )

    def _agreed(self, target: int) -> Loaded:
        """The newest good checkpoint up to a step, which the first process chooses for all."""
        saved = checkpoint.load(self.job.stage_dir, log=self.log, at_most=target) if self.dist.is_main else None
        step = int(self.dist.main_text(str(saved.step if saved else "")))
        if saved is not None:
            return saved
        try:
            return checkpoint.load(self.job.stage_dir, step)
        except MissingArtifact as problem:
            raise NanochatError(
                f"this machine has no copy of step {step}, to which training goes back",
                hint="copy the checkpoint to every machine, and resume",
            ) from problem

    def _gradient(self) -> tuple[Gradient, float]:
        """The gradient of this step's batch and its norm.

        Where memory runs out, the same rows are cut smaller from here on.
        """
        job, dist, step = self.job, self.dist, self.step
        self._beat()
        _reseed(job.seed, step, dist.rank)
        began = time.perf_counter()
        micros = job.batches.step(step + self.shift, dist.rank, dist.world, self.rows)
        self.waited = time.perf_counter() - began
        self._beat()
        flags = (*self._wishes(), *self.saver.flags())
        while True:
            try:
                return self._try(micros, flags)
            except device_batch.DoesNotFit as problem:
                said = str(problem)
            job.optimizer.zero_grad()
            device_batch.release(dist.device)
            self._take_fewer_rows(said)
            micros = device_batch.recut(micros, self.rows)
            _reseed(job.seed, step, dist.rank)

    def _try(self, micros: Sequence[Micro], flags: tuple[int, ...]) -> tuple[Gradient, float]:
        job, losses = self.job, self.job.losses
        if (factor := faults.on_batch(self.step + self.shift)) is not None:
            losses = lambda x_BT, y_BT: job.losses(x_BT, y_BT) * factor  # noqa: E731
        pending = gradient.backward(losses, self.params, micros, self.dist, flags=flags, scale=self.scaler.scale)
        self._beat()
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

    def _beat(self, phase: str = heartbeat.STEP) -> None:
        if self.job.beat is not None:
            self.job.beat(phase)

    def _tell(self, seconds: float, found: Gradient, lr_mult: float, grad_norm: float) -> None:
        job = self.job
        self.seconds += seconds
        if job.beat is not None:
            job.beat.step_done(seconds)
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

    def _wishes(self) -> tuple[int, int]:
        """Whether this process wants to stop, and to save, after the step that it is in, as numbers to be added up."""
        job = self.job
        why = guards.stop_requested(job.stage_dir) or interrupts.asked()
        if why is None and self.dist.is_main and job.deadline is not None:
            save_s = self.saver.seconds or 1.0 + self.saver.bytes / _SLOW_DISK
            why = job.deadline.why if job.deadline.is_near(self._until_the_next_look(), save_s) else None
        self.stop_why = self.stop_why or why
        return int(why is not None), int(self.dist.is_main and self.cadence.is_due(self.step + 1))

    def _until_the_next_look(self) -> float:
        """Seconds until the deadline can be kept again: a step, of several processes two, and what is measured then."""
        steps = 1 if self.dist.world == 1 else 2
        coming = range(self.step, self.step + steps + 1)
        measures = any(_due(hook.every, step) for hook in self.job.hooks for step in coming if step)
        return steps * self.step_seconds + measures * self.hook_seconds

    def _votes(self) -> tuple[bool, bool]:
        """Whether to stop, and to save, now that a step is done.

        Of several processes, each said so at the beginning of the step, along with its counts: asking for it now would
        make them wait for one another and for their devices.
        """
        if self.dist.world > 1:
            stop, save = self.votes
            return stop > 0, save > 0
        stop, _ = self._wishes()
        return stop > 0, self.cadence.is_due(self.step)

    def _save(self, *, must: bool = False) -> None:
        """Begin to save this step; if it `must` be saved before going on, wait for that."""
        if self.saver.last_started != self.step:
            state = {
                "rng": {"seed": self.job.seed, "rule": "reseeded at every step from (seed, step, rank)"},
                "cursor": {"step": self.step, "tokens": self.tokens, "batch": self.step + self.shift},
                "seconds": self.seconds,
                "save_seconds": self.saver.seconds,
                "smooth_loss": self.smooth.state(),
                "scaler": self.scaler.state(),
                "guard": self.guard.state(),
                "metrics": dict(self.metrics),
            }
            self._beat(heartbeat.OTHER)
            self.saver.start(self.step, self.job.model.state_dict(), self.job.optimizer, state)
            self.cadence.saved()
        if must:
            self.saver.finish(must=True)

    def _run_hooks(self, wanted: Callable[[Hook], bool]) -> None:
        hooks = [hook for hook in self.job.hooks if wanted(hook)]
        if not hooks:
            return
        self._beat(heartbeat.OTHER)
        self.saver.finish()  # whatever a measurement does, what was to be saved is on the disk
        began = time.perf_counter()
        for hook in hooks:
            try:
                self._keep(hook.run(self.step, self.log))
            except Exception as problem:
                if self.dist.world > 1:  # the others wait for this rank in a collective of the same hook
                    raise
                self.log.warning(f"{hook.name} at step {self.step} failed, training goes on: {problem}")
            finally:
                self.job.model.train()
                self._beat(heartbeat.OTHER)
        self.hook_seconds = max(self.hook_seconds, time.perf_counter() - began)

    def _keep(self, measured: Mapping[str, float]) -> None:
        for name, value in measured.items():
            self.metrics[name] = value
            if name.endswith(("bpb", "held_out_reward")):
                pick, kind = (min, "min") if name.endswith("bpb") else (max, "max")
                best = self.metrics.get(f"{kind}_{name}")
                self.metrics[f"{kind}_{name}"] = value if best is None else pick(value, best)
                if self.job.keep_best and self.step and (best is None or pick(value, best) != best):
                    self._save()
                    self.saver.mark_best(name, self.step, value)

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
