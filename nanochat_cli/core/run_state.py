"""How far each stage of a run came, why it ended, and what it saved: read from its small files only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanochat_cli.core import events, files, run_lineage, run_tags, runlock, runs
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.events import Event
from nanochat_cli.core.run_lineage import Place

State = Literal["running", "finished", "stopped", "diverged", "failed", "interrupted"]
BPB = "val_bpb"
_SIGNALS = {"SIGINT": "Ctrl-C", "INT": "Ctrl-C", "TERM": "SIGTERM", "USR1": "SIGUSR1", "stop": "stop-file"}


@dataclass(frozen=True)
class Checkpoint:
    """One published step of a stage, as its manifest describes it. `readable` False: the manifest itself is damaged."""

    step: int
    path: Path
    size_bytes: int
    created: float | None
    version: str | None
    weights_sha256: str | None
    permanent: bool
    readable: bool = True


@dataclass(frozen=True)
class StageInfo:
    """One stage of a run, as `runs ls` shows it."""

    run: str
    stage: str
    step: int | None
    num_steps: int | None
    val_bpb: float | None
    best_bpb: float | None
    best_step: int | None
    state: State
    why: str
    """What ended it, in words; for one that is running, who is at work."""
    resumable: bool
    parent: Place | None
    tags: list[str]
    size_bytes: int
    updated: float | None
    steps: list[int] = field(default_factory=list)

    @property
    def status(self) -> str:
        """State and cause in one phrase."""
        words = {"stopped": "stopped by ", "failed": "failed: ", "diverged": "diverged: ", "running": "running, "}
        text = f"{words[self.state]}{self.why}" if self.why and self.state in words else self.state
        if self.state == "interrupted":
            text = "interrupted (killed)"
        return f"{text}, resumable" if self.resumable and self.state in ("stopped", "interrupted") else text


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Return the published checkpoints of a stage by step. Only their manifests are read."""
    return [_checkpoint(folder / f"step-{step:06d}", step) for step in runs.checkpoint_steps(folder)]


def _checkpoint(path: Path, step: int) -> Checkpoint:
    try:
        manifest = files.read_json(path / runs.MANIFEST, "checkpoint manifest")
        sizes = [entry["size"] for entry in manifest["files"].values()]
        total = sum(sizes) + (path / runs.MANIFEST).stat().st_size
        weights = manifest["files"].get(run_lineage.WEIGHTS, {}).get("sha256")
    except (NanochatError, OSError, KeyError, TypeError, AttributeError):
        return Checkpoint(step, path, tree_size(path), None, None, None, False, readable=False)
    created, version = manifest.get("created"), manifest.get("version")
    return Checkpoint(
        step=step,
        path=path,
        size_bytes=total,
        created=float(created) if isinstance(created, int | float) else None,
        version=version if isinstance(version, str) else None,
        weights_sha256=weights,
        permanent=bool(manifest.get("permanent")),
    )


def tree_size(folder: Path, skip: frozenset[str] = frozenset()) -> int:
    """Return the bytes of all files below a folder, links not followed; `skip` names entries at its top."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in skip:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    total += tree_size(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        pass  # it vanished meanwhile, or may not be looked at: counted as far as it goes
    return total


def describe_all() -> list[StageInfo]:
    """Return every stage of every run, the most recently trained run first."""
    known: dict[str, Place] = {}

    def weights() -> dict[str, Place]:
        return known or known.update(run_lineage.all_weights()) or known

    return [info for run in runs.all_runs() for info in describe_run(run, weights)]


def describe_run(run: str, weights: Callable[[], dict[str, Place]] = run_lineage.all_weights) -> list[StageInfo]:
    """Return the stages of a run that were started, in the order of the pipeline."""
    return [info for stage in runs.STAGES if (info := describe_stage(run, stage, weights)) is not None]


def describe_stage(
    run: str, stage: str, weights: Callable[[], dict[str, Place]] = run_lineage.all_weights
) -> StageInfo | None:
    """Return the state of one stage, or None if it was never started."""
    folder = runs.stage_dir(run, stage)
    if not (folder / "config.json").is_file():
        return None
    saved = checkpoints(folder)
    tail = events.read_tail(folder / "events.jsonl")
    curve = _curve(folder)
    best = min(curve, key=lambda point: point[1], default=None)
    state, why = end_of(folder, tail)
    steps = [checkpoint.step for checkpoint in saved]
    return StageInfo(
        run=run,
        stage=stage,
        step=steps[-1] if steps else None,
        num_steps=next((e["num_steps"] for e in reversed(tail) if isinstance(e.get("num_steps"), int)), None),
        val_bpb=curve[-1][1] if curve else None,
        best_bpb=best[1] if best else None,
        best_step=best[0] if best else None,
        state=state,
        why=why,
        resumable=bool(steps) and state not in ("running", "finished"),
        parent=run_lineage.parent(run, stage, weights),
        tags=[tag.name for tag in run_tags.of_run(run) if tag.stage == stage],
        size_bytes=tree_size(folder, frozenset(c.path.name for c in saved)) + sum(c.size_bytes for c in saved),
        updated=runs.last_worked(folder),
        steps=steps,
    )


def _curve(folder: Path) -> list[tuple[int, float]]:
    found = events.read_kinds(folder / "events.jsonl", "eval")
    return [
        (event["step"], event["value"])
        for event in found
        if event.get("metric") == BPB and isinstance(event.get("value"), float) and isinstance(event.get("step"), int)
    ]


def best_step(folder: Path, steps: list[int]) -> int | None:
    """Return which of these checkpoints of a stage had the fewest bits per byte; None if none was measured."""
    measured = {step: value for step, value in _curve(folder) if step in steps}
    return min(measured, key=lambda step: measured[step], default=None)


def warnings_of(folder: Path) -> list[str]:
    """Return what a stage warned of, each once."""
    told = (event.get("text") for event in events.read_kinds(folder / "events.jsonl", "warning"))
    return list(dict.fromkeys(text for text in told if isinstance(text, str)))


# ---- why it ended ----------------------------------------------------------------------------------------------------


def end_of(folder: Path, tail: list[Event]) -> tuple[State, str]:
    """Return the state of a stage, and what ended it in words, from its folder and the last events of its history."""
    if (who := runlock.holder(folder)) is not None:
        return "running", str(who)
    if runs.is_finished(folder):
        return "finished", ""
    last = next((e for e in reversed(tail) if e["kind"] in ("stage", "stopped", "error")), {"kind": "stage"})
    if last["kind"] == "stopped":
        return "stopped", _reason(last)
    if last["kind"] == "error":
        message = str(last.get("message", "")).strip().partition("\n")[0]
        diverged = last.get("type") == "Diverged" or message.startswith("training diverged")
        return ("diverged" if diverged else "failed"), message.removeprefix("training diverged at ")
    return "interrupted", ""


def _reason(event: Mapping[str, Any]) -> str:
    """What asked a stage to stop: its `why`, a signal's name or a word of ours; runs older than it do not say."""
    reason = event.get("why")
    return _SIGNALS.get(reason, reason) if isinstance(reason, str) and reason else "a request"
