"""One checkpoint on its way to the disk: what each process writes, and what the main one makes of the parts.

The folder is written beside its final place, hashed, flushed and renamed: see `stepdirs`. Every point of that way can
be struck by a fault of `core.faults`, and is in the tests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nanochat_cli.core import faults, files, retention, slices, stepdirs, tensorfile
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.slices import Slice
from nanochat_cli.core.stepdirs import OPTIM, WEIGHTS, Keep
from nanochat_cli.core.tensorfile import Written
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

_PART = "part-{:05d}.json"
_BESIDES = 1_000_000
"""Bytes, at most, of what is written besides tensors."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What one process writes of a checkpoint: tensors on the CPU that nobody changes meanwhile.

    `weights` and `record` (config.json), `state` (state.json) and the tokenizer are the main process's, rank 0.
    """

    step: int
    optim: Sequence[Slice]
    weights: Mapping[str, Tensor]
    record: Mapping[str, Any]
    state: Mapping[str, Any]
    tokenizer: Tokenizer
    rank: int = 0
    world: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of tensors in this part."""
        return sum(t.nbytes for t in (*self.weights.values(), *(part.tensor for part in self.optim)))


def begin(stage_dir: Path, step: int, num_bytes: int) -> Path:
    """Make the folder that a checkpoint is written into and return it. Raises NanochatError if the disk is too full."""
    faults.at_phase("space")
    with files.explain_os_errors(f"checkpoint of step {step}"):
        stepdirs.require_space(stage_dir, num_bytes + _BESIDES)
        files.make_dir(stage_dir, "the stage folder")
        files.sweep_staging(stage_dir, "step-", "latest.")  # others write here as well: a request to stop, for one
        faults.at_phase("stage")
        return files.staging_dir(stepdirs.step_dir(stage_dir, step))


def write_part(snap: Snapshot, staged: Path) -> dict[str, Written]:
    """Write this process's files and return what they are, by name; those of others leave a note for the main one."""
    written: dict[str, Written] = {}
    meter = _Meter()
    with files.explain_os_errors(f"checkpoint of step {snap.step}"):
        if snap.rank == 0:
            faults.at_phase("weights")
            written[WEIGHTS] = tensorfile.write(staged / WEIGHTS, snap.weights, allowed=meter.allowed)
            faults.at_phase("weights-synced")
        meter.begin_file(sum(file.size for file in written.values()))
        tensors, metadata = slices.for_file(snap.optim)
        name = optim_name(snap.rank, snap.world)
        faults.at_phase("optimizer")
        written[name] = tensorfile.write(staged / name, tensors, metadata, allowed=meter.allowed)
        faults.at_phase("optimizer-synced")
        if snap.rank:
            note = {name: [file.size, file.sha256] for name, file in written.items()}
            files.write_json(staged / _PART.format(snap.rank), note)
    return written


def optim_name(rank: int, world: int) -> str:
    """Return the name of the file in which a process writes its part of the optimizer's state."""
    return OPTIM if world == 1 else f"{Path(OPTIM).stem}-{rank:05d}-of-{world:05d}.safetensors"


class _Meter:
    """Counts the bytes of a checkpoint over its files, for faults that strike at one of them."""

    def __init__(self) -> None:
        self.before = 0

    def begin_file(self, done: int) -> None:
        self.before = done

    def allowed(self, done: int, coming: int) -> int:
        return faults.on_write(self.before + done, coming)


def publish(snap: Snapshot, staged: Path, written: dict[str, Written], keep: Keep, log: Log = NULL) -> Path:
    """Complete the folder that all processes have written their parts into, and give it its name; delete old ones.

    Only the main process calls it.
    """
    stage_dir = staged.parent
    final = stepdirs.step_dir(stage_dir, snap.step)
    with files.explain_os_errors(f"checkpoint of step {snap.step}"):
        for rank in range(1, snap.world):
            written |= _of_others(staged / _PART.format(rank))
        faults.at_phase("json")
        files.write_json(staged / "config.json", dict(snap.record))
        files.write_json(staged / "state.json", {"step": snap.step, **snap.state})
        faults.at_phase("tokenizer")
        snap.tokenizer.save(staged / "tokenizer")
        faults.at_phase("hashes")
        stepdirs.seal(
            staged,
            known=written,
            step=snap.step,
            tokenizer_hash=snap.tokenizer.hash,
            permanent=keep.every is not None and snap.step % keep.every == 0,
        )
        faults.at_phase("manifest")
        stepdirs.publish(staged, final)
        faults.on_published(final / WEIGHTS)
        faults.at_phase("prune")
        retention.prune(stage_dir, snap.step, keep)
        faults.at_phase("pruned")
    return final


def _of_others(path: Path) -> dict[str, Written]:
    found = {
        name: Written(int(size), str(sha256))
        for name, (size, sha256) in files.read_json(path, "a process's part of a checkpoint").items()
    }
    path.unlink()
    return found


def drop(staged: Path) -> None:
    """Delete a folder that will not be published."""
    with contextlib.suppress(OSError, NanochatError):
        shutil.rmtree(staged, ignore_errors=True)


def is_seen(staged: Path) -> bool:
    """Return whether this process sees a folder that the main one has made: else they share no disk."""
    return os.path.isdir(staged)
