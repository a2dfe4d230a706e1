"""Saving beside training: a step waits only until its tensors are copied; a thread writes, hashes and publishes them.

One save is in flight at a time. Where several processes share a disk, each writes its part of the optimizer's state,
and the main one publishes when all are done, which it learns from the counts that go round with every step; where they
do not, the main one gathers and writes everything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nanochat_cli.core import files, machine, slices, snapshot, stepdirs
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import NanochatError, PeerFailed
from nanochat_cli.core.events import Log
from nanochat_cli.core.slices import Slice
from nanochat_cli.core.snapshot import Snapshot
from nanochat_cli.core.stepdirs import Keep
from nanochat_cli.core.tensorfile import Written
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

_ROOM = 1.5
"""Copies are made only where this many times their size is free in memory."""


class State(Protocol):
    """The part of an optimizer that is saved."""

    def state_dict(self) -> dict[str, Tensor]: ...
    def slices(self) -> list[Slice]: ...


@dataclass
class _Job:
    """A save in flight: this process's part, and on the main one, once all parts are there, the publishing."""

    snap: Snapshot
    staged: Path
    began: float
    stall_s: float
    part: Future[dict[str, Written]]
    publishing: Future[Path] | None = None


class Saver:
    """Saves the steps of one stage, and says which was the last that is safe."""

    def __init__(
        self,
        stage_dir: Path,
        dist: Dist,
        log: Log,
        *,
        record: Mapping[str, Any],
        tokenizer: Tokenizer,
        keep: Keep,
    ) -> None:
        self.stage_dir, self.dist, self.log = stage_dir, dist, log
        self.record, self.tokenizer, self.keep = record, tokenizer, keep
        self.last_saved: int | None = None
        """The last step that is safe, as far as this process knows."""
        self.last_started: int | None = None
        """The last step that was to be saved: the same in all processes, whatever became of it."""
        self.bytes = 0
        self.seconds = 0.0
        """How long the last save took from its beginning until it was published."""
        self._buffers: dict[str, Tensor] = {}
        self._room: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._job: _Job | None = None
        self._best: tuple[int, str, float] | None = None
        self._problem: Exception | None = None

    # ---- beginning a save ----

    def prepare(self, weights: Mapping[str, Tensor], optimizer: State) -> None:
        """Make room for copies in the thread, which the first save would have to wait for: memory is slow to get."""
        wanted = {f"w:{name}": tensor for name, tensor in weights.items()} if self.dist.is_main else {}
        wanted |= {f"o:{part.key}": part.tensor for part in optimizer.slices()}
        self.bytes = sum(tensor.nbytes for tensor in wanted.values())
        free = machine.free_memory()  # 0: not known here
        if not free or free > _ROOM * sum(tensor.nbytes for tensor in wanted.values()):
            shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in wanted.items()}
            self._room = self._thread.submit(self._make_room, shapes)

    def _make_room(self, shapes: Mapping[str, tuple[torch.Size, torch.dtype]]) -> None:
        try:
            for name, (shape, dtype) in shapes.items():
                self._buffers[name] = self._empty(shape, dtype).zero_()
        except (MemoryError, RuntimeError):  # found out again, and told, when it is needed
            self._buffers.clear()

    def _empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self.dist.device.type == "cuda")  # so that copies overlap

    def start(self, step: int, weights: Mapping[str, Tensor], optimizer: State, state: Mapping[str, Any]) -> None:
        """Begin to save a step; what is in flight is finished first. Every process must call it.

        A disk that is full or read-only does not end training: a warning says so, and `finish(must=True)` raises it.
        """
        self.finish()
        began = time.perf_counter()
        self._problem = None
        self.last_started = step
        num_bytes = sum(t.nbytes for t in weights.values())
        num_bytes += self.dist.world * sum(part.tensor.nbytes for part in optimizer.slices())
        self.bytes = num_bytes
        staged, shared = self._agreed_folder(step, num_bytes)
        if staged is None:
            return
        alone = self.dist.world > 1 and not shared
        whole = optimizer.state_dict() if alone else None  # all take part in gathering it
        if alone and not self.dist.is_main:
            return
        parts = optimizer.slices() if whole is None else slices.whole(whole)
        snap = Snapshot(
            step=step,
            weights=weights if self.dist.is_main else {},
            optim=parts,
            record=self.record,
            state=state,
            tokenizer=self.tokenizer,
            rank=self.dist.rank,
            world=1 if alone else self.dist.world,
        )
        copied = self._copied(snap)
        if copied is None:  # no memory for a copy: training waits instead
            part = self._thread.submit(snapshot.write_part, snap, staged)
            part.exception()
            copied = snap
        else:
            part = self._thread.submit(snapshot.write_part, copied, staged)
        self._job = _Job(copied, staged, began, time.perf_counter() - began, part)
        if copied.world == 1:
            self._job.publishing = self._thread.submit(self._publish, self._job)

    def _agreed_folder(self, step: int, num_bytes: int) -> tuple[Path | None, bool]:
        """The folder that the main process has made for this step, and whether all processes see it."""
        staged = ""
        if self.dist.is_main:
            try:
                staged = str(snapshot.begin(self.stage_dir, step, num_bytes))
            except (OSError, NanochatError) as problem:
                self._give_up(step, problem)
        if self.dist.world == 1:
            return (Path(staged) if staged else None), True
        name = Path(self.dist.main_text(staged)).name
        if not name:
            self._problem = self._problem or PeerFailed(f"the first process could not save step {step}")
            return None, False
        mine = self.stage_dir / name
        return mine, bool(self.dist.minimum(int(snapshot.is_seen(mine))))

    def _copied(self, snap: Snapshot) -> Snapshot | None:
        """The same in memory of its own, which is kept for the next time; None if there is not enough."""
        if self._room is not None:
            self._room.result()
        known = sum(buffer.nbytes for buffer in self._buffers.values())
        free = machine.free_memory()
        if snap.nbytes > known and free and free < _ROOM * (snap.nbytes - known):
            return self._no_room()
        try:
            return self._with_copies(snap)
        except (MemoryError, RuntimeError):
            return self._no_room()

    def _no_room(self) -> None:
        self.log.note("little memory is free: training waits while a checkpoint is written")
        self._buffers.clear()

    def _with_copies(self, snap: Snapshot) -> Snapshot:
        weights = {name: self._copy(f"w:{name}", tensor) for name, tensor in snap.weights.items()}
        optim = [
            Slice(part.name, self._copy(f"o:{part.key}", part.tensor), part.shape, part.offset) for part in snap.optim
        ]
        if self.dist.device.type == "cuda":
            torch.cuda.synchronize(self.dist.device)
        return Snapshot(**{**vars(snap), "weights": weights, "optim": optim})

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = self._buffers[name] = self._empty(tensor.shape, tensor.dtype)
        return buffer.copy_(tensor, non_blocking=True)

    # ---- completing it ----

    def flags(self) -> tuple[int, int]:
        """Return (part written, part failed) as 0 or 1, to be summed over all processes and given to `settle`."""
        job = self._job
        if job is None or job.publishing is not None or not job.part.done():
            return 0, 0
        return (0, 1) if job.part.exception() else (1, 0)

    def settle(self, written: int, failed: int) -> None:
        """Publish the save in flight if all parts are written, drop it if one has failed, and notice how it ended."""
        job = self._job
        if job is None:
            return
        if job.publishing is not None:
            if job.publishing.done():
                self._conclude(job)
        elif failed:
            self._drop(job)
        elif written == self.dist.world:
            self._publish_all(job)

    def finish(self, *, must: bool = False) -> None:
        """Wait until the save in flight is published, on all processes; the last one's problem is raised if it `must`.

        Every process must call it.
        """
        job = self._job
        if self.dist.world > 1 and self._anywhere(job is not None and job.publishing is None):
            failed = self._anywhere(job is not None and job.publishing is None and job.part.exception() is not None)
            if job is not None and job.publishing is None:
                if failed:
                    self._drop(job)
                else:
                    self._publish_all(job)
        if self._job is not None:
            self._conclude(self._job)
        problem = self._problem
        if not must:
            return
        if self.dist.world > 1 and self._anywhere(problem is not None) and problem is None:
            problem = PeerFailed("another process could not save the last step")
        if problem is not None:
            raise problem

    def close(self) -> None:
        """End the thread after what it has begun."""
        self._thread.shutdown(wait=True)

    def mark_best(self, metric: str, step: int, value: float) -> None:
        """Remember that a step which is saved, or being saved, validated best."""
        self._best = (step, metric, value)
        self._write_best()

    def _anywhere(self, flag: bool) -> bool:
        return self.dist.any(flag)

    def _publish_all(self, job: _Job) -> None:
        if self.dist.is_main:
            job.publishing = self._thread.submit(self._publish, job)
        else:  # how that ends, the main process tells
            self.last_saved = job.snap.step
            self._job = None

    def _publish(self, job: _Job) -> Path:
        try:
            path = snapshot.publish(job.snap, job.staged, job.part.result(), self.keep, self.log)
        except BaseException:
            snapshot.drop(job.staged)
            raise
        self.seconds = time.perf_counter() - job.began
        return path

    def _conclude(self, job: _Job) -> None:
        """Take over how a save ended, waiting for it if need be."""
        self._job = None
        assert job.publishing is not None
        problem = job.publishing.exception()
        if problem is None:
            self.last_saved = job.snap.step
            path = job.publishing.result()
            self.log.emit(
                "saved",
                step=job.snap.step,
                path=str(path),
                bytes=files.tree_size(path),
                seconds=round(self.seconds, 3),
                stall_s=round(job.stall_s, 4),
            )
            self._write_best()
        elif isinstance(problem, OSError | NanochatError):
            self._give_up(job.snap.step, problem)
        else:
            raise problem

    def _drop(self, job: _Job) -> None:
        """Give a save up whose part failed, here or elsewhere."""
        self._job = None
        found = job.part.exception()
        if self.dist.is_main:
            snapshot.drop(job.staged)
        if found is not None and not isinstance(found, OSError | NanochatError):
            raise found
        self._give_up(job.snap.step, found or PeerFailed("another process could not write its part"))

    def _give_up(self, step: int, problem: Exception) -> None:
        self._problem = problem
        kept = f"step {self.last_saved} is safe" if self.last_saved is not None else "nothing is saved yet"
        self.log.emit("save_failed", step=step, message=str(problem))
        self.log.warning(f"step {step} could not be saved, training goes on ({kept}): {problem}")

    def _write_best(self) -> None:
        if self._best is not None and self.dist.is_main and self._best[0] == self.last_saved:
            step, metric, value = self._best
            self._best = None
            try:
                stepdirs.mark_best(self.stage_dir, step, metric, value)
            except (OSError, NanochatError) as problem:
                self.log.warning(f"step {step} is the best so far, which could not be written down: {problem}")
