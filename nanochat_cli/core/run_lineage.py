"""Which checkpoint a stage was started from, found by its weights when the folder it was in has another name by now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nanochat_cli.core import files, runs
from nanochat_cli.core.errors import NanochatError

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Place:
    """Where a checkpoint is: run, stage and step. `present` tells whether it is still there, with the same weights."""

    run: str
    stage: str
    step: int | None
    present: bool = True

    def __str__(self) -> str:
        return f"{self.run}/{self.stage}" + (f"/{self.step}" if self.step is not None else "")


def weights_hash(run: str, stage: str, step: int) -> str | None:
    """Return the SHA-256 of a checkpoint's weights as its manifest gives it, None if there is none to read."""
    path = runs.stage_dir(run, stage) / f"step-{step:06d}" / runs.MANIFEST
    try:
        found = files.read_json(path, "checkpoint manifest").get("files", {})[WEIGHTS]["sha256"]
    except (NanochatError, KeyError, TypeError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def all_weights() -> dict[str, Place]:
    """Return where each checkpoint of any run is, by the hash of its weights; of equal ones the most recent run's."""
    found: dict[str, Place] = {}
    for place in _all_checkpoints():
        if place.step is not None and (known := weights_hash(place.run, place.stage, place.step)):
            found.setdefault(known, place)
    return found


def _all_checkpoints() -> Iterator[Place]:
    for run in runs.all_runs():
        for stage in runs.STAGES:
            for step in reversed(runs.checkpoint_steps(runs.stage_dir(run, stage))):
                yield Place(run, stage, step)


def recorded_parent(run: str, stage: str) -> dict[str, Any] | None:
    """Return what a stage wrote down about the model it started from; None for one that began with none."""
    folder = runs.stage_dir(run, stage)
    for step in reversed(runs.checkpoint_steps(folder)):
        parent = _json(folder / f"step-{step:06d}" / "config.json").get("parent")
        if isinstance(parent, dict) and isinstance(parent.get("run"), str):
            return parent
    source = (_json(folder / "config.json").get("config") or {}).get("source") or {}
    if not isinstance(source.get("run"), str):
        return None
    return {"run": source["run"], "stage": source.get("source"), "step": source.get("step")}


def _json(path: Any) -> dict[str, Any]:
    try:
        return files.read_json(path, "the config")
    except NanochatError:
        return {}


def parent(run: str, stage: str, weights: Callable[[], dict[str, Place]] = all_weights) -> Place | None:
    """Return the checkpoint that a stage was started from; `weights` is asked only if it is not where it was."""
    told = recorded_parent(run, stage)
    if told is None:
        return None
    name, source, step, digest = (told.get(key) for key in ("run", "stage", "step", "weights_sha256"))
    named = Place(str(name), str(source), step if isinstance(step, int) else None, present=False)
    if source not in runs.STAGES or not runs.paths.is_name(named.run):
        return named
    found = weights_hash(named.run, named.stage, named.step) if named.step is not None else None
    if found is not None and digest in (None, found):
        return Place(named.run, named.stage, named.step)
    return weights().get(digest, named) if isinstance(digest, str) else named


def base_run(run: str) -> str:
    """Return the run whose base stage is behind a run: itself, unless its first stage was written `--into` it."""
    passed = {run}
    while not (runs.stage_dir(run, "base") / "config.json").is_file():
        first = next((s for s in runs.STAGES if (runs.stage_dir(run, s) / "config.json").is_file()), None)
        before = parent(run, first) if first else None
        if before is None or before.run in passed or not runs.paths.is_name(before.run):
            return run
        run = before.run
        passed.add(run)
    return run


def children(run: str, stage: str | None = None, step: int | None = None) -> list[Place]:
    """Return the stages that were started from a run, stage or step and are not part of it themselves."""
    weights: dict[str, Place] = {}

    def known() -> dict[str, Place]:
        return weights or weights.update(all_weights()) or weights

    found = []
    for child in runs.all_runs():
        for own in runs.STAGES:
            if (child == run and stage in (None, own)) or not runs.stage_dir(child, own).is_dir():
                continue
            origin = parent(child, own, known)
            if origin and origin.run == run and stage in (None, origin.stage) and step in (None, origin.step):
                found.append(Place(child, own, None))
    return found
