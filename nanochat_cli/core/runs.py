"""Run folders: a run holds one folder per stage, and each stage its config, history, lock and checkpoints."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core import events, files, machine, paths
from nanochat_cli.core.errors import ConfigError, MissingArtifact, NanochatError
from nanochat_cli.core.runlock import is_held, lock

__all__ = ["MANIFEST", "STAGES", "RunContext", "is_held", "lock"]

STAGES = ("base", "mid", "sft", "rl")
PURPOSE = {
    "base": "learns the language of the corpus by guessing each next token",
    "mid": "learns what a conversation looks like, from whole chats",
    "sft": "learns to answer: only the assistant's own tokens are graded",
    "rl": "practises on questions with a checkable answer and keeps what is right",
    "probe": "measures which arithmetic and kernels are fastest on this machine",
    "bench": "measures how fast this machine trains a model",
    "eval": "measures how well the model compresses text, and whether it answers questions it was never trained on",
}
STOP_FILE = "stop"
"""In a stage's folder: asks its training to save and stop; its text says why."""
_PURPOSE_OF_PART = {
    "bpb": "measures how well the model compresses text, in bits per byte",
    "chat": "asks questions that were never trained on and counts right answers",
}
"""Of an evaluation that was asked for only one kind of measurement."""
STEP_DIR = re.compile(r"step-(\d{6,})")
LEFT_DIR = re.compile(r"left-step-(\d{6,})-[0-9a-f]{6}")
"""A checkpoint of a branch that training was taken back from: kept, but none of the stage's any more."""
MANIFEST = "MANIFEST.json"
"""In every published checkpoint: size and hash of its other files."""


@dataclass(frozen=True)
class RunContext:
    """What a stage knows about where it works."""

    run: str
    stage: str
    dir: Path
    resume: bool
    command: str
    resume_step: int | None = None
    """The step to go on from; None means the newest that is whole."""
    started: float | None = None
    """When the command began, on this machine's monotonic clock."""
    attempt: int = 0
    """How often a supervisor has started it again."""


def purpose(stage: str, cfg: Any = None) -> str:
    """Return what a stage is for, in words; of an evaluation, what its config asks for."""
    return _PURPOSE_OF_PART.get(getattr(getattr(cfg, "what", None), "only", ""), PURPOSE[stage])


def stage_dir(run: str, stage: str) -> Path:
    """Return the folder of one stage of a run."""
    return paths.run_dir(run) / stage


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps of the published checkpoints of a stage, ascending as numbers: 1000000 follows 999999."""
    if not folder.is_dir():
        return []
    found = ((child, STEP_DIR.fullmatch(child.name)) for child in folder.iterdir())
    return sorted(int(match[1]) for child, match in found if match and (child / MANIFEST).is_file())


def left_steps(folder: Path) -> list[Path]:
    """Return the checkpoints that a stage was taken back from, by name: see `stepdirs.leave`."""
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if LEFT_DIR.fullmatch(child.name) and not child.is_symlink())


def is_finished(folder: Path) -> bool:
    """Return whether the stage reached its end."""
    return (folder / "result.json").is_file()


def result(folder: Path) -> dict[str, Any]:
    """Return what a finished stage reported."""
    return files.read_json(folder / "result.json", "the stage's result")


# ---- finding ---------------------------------------------------------------------------------------------------------


def touched(folder: Path) -> float:
    """Return when a run or stage folder was last worked in, as seconds since 1970."""
    names = (
        "run.json",
        "events.jsonl",
        "result.json",
        *(f"{s}/events.jsonl" for s in STAGES),
        *(f"{s}/result.json" for s in STAGES),
    )
    times = [(folder / name).stat().st_mtime for name in names if (folder / name).is_file()]
    return max(times, default=0.0)


_EARLIEST = 1_500_000_000.0
"""Any time before July 2017 is that of a clock that was never set: there was no run then."""
_AHEAD_S = 3600.0
"""A time further ahead of now than this was written by a wrong clock."""


def last_worked(folder: Path) -> float | None:
    """Return when a run or stage was last trained, as its own records say; None if no time in them can be true.

    Unlike the files' times, they survive a copy of the folder.
    """
    latest = time.time() + _AHEAD_S
    ends = (
        events.last_time(path) for path in (folder / "events.jsonl", *(folder / s / "events.jsonl" for s in STAGES))
    )
    told = [when for when in ends if when is not None and _EARLIEST < when <= latest]
    if told:
        return max(told)
    when = touched(folder)
    return when if _EARLIEST < when <= latest else None


def all_runs() -> list[str]:
    """Return the names of all runs, most recently trained first.

    Where a clock was wrong, a run comes right after the latest of those that were begun before it.
    """
    found = sorted((_sequence(name), name) for name in _names())
    times: dict[str, tuple[float, int, int]] = {}
    passed = 0.0
    for sequence, name in found:
        folder = paths.run_dir(name)
        when = last_worked(folder)
        times[name] = (passed if when is None else when, sequence, _last_step(folder))
        passed = max(passed, times[name][0])
    return sorted(times, key=lambda name: (times[name], name), reverse=True)


def _names() -> list[str]:
    root = paths.runs_dir()
    if not root.is_dir():
        return []
    return [child.name for child in root.iterdir() if paths.is_name(child.name) and (child / "run.json").is_file()]


def _sequence(run: str) -> int:
    """How many runs had been begun when this one was; 0 for those that do not say."""
    try:
        found = files.read_json(paths.run_dir(run) / "run.json", "the run's record").get("sequence")
    except NanochatError:
        return 0
    return found if isinstance(found, int) else 0


def _last_step(folder: Path) -> int:
    return max((step for stage in STAGES for step in checkpoint_steps(folder / stage)[-1:]), default=0)


def stages_with_model(run: str) -> list[str]:
    """Return the stages of a run that have a checkpoint, in the order of the pipeline."""
    return [stage for stage in STAGES if checkpoint_steps(stage_dir(run, stage))]


def find_source(run: str | None, source: str | None, *, before: str | None = None) -> tuple[str, str]:
    """Return (run, stage) of the model to use: the most recent run, and its latest stage before `before`.

    Raises MissingArtifact that lists what there is.
    """
    allowed = [s for s in STAGES if before is None or STAGES.index(s) < STAGES.index(before)]
    if source is not None:
        if source not in allowed:
            raise ConfigError(f"{before} cannot start from: {source}", hint=f"choose one of: {', '.join(allowed)}")
        allowed = [source]
    if run is not None:
        paths.check_name("run", run)
    for name in [run] if run is not None else all_runs():
        usable = [stage for stage in stages_with_model(name) if stage in allowed]
        if usable:
            return name, usable[-1]
    raise _nothing_found(run, allowed)


def unknown(what: str, name: str, known: Iterable[str]) -> MissingArtifact:
    """Return the error for a name that nothing has; its hint gives the nearest one and the others."""
    listed = list(known)
    if not listed:
        return MissingArtifact(
            f"no {what} named {name}: nothing has been trained yet",
            hint="`nanochat demo` trains a small model in minutes; `nanochat train base` starts a run of your own",
        )
    near = difflib.get_close_matches(name, listed, n=1)
    more = ", ".join(listed[:8]) + (f" and {len(listed) - 8} more: nanochat runs ls" if len(listed) > 8 else "")
    return MissingArtifact(
        f"no {what} named: {name}", hint=(f"did you mean {near[0]}? " if near else "") + f"{what}s: {more}"
    )


def _nothing_found(run: str | None, allowed: list[str]) -> MissingArtifact:
    known = all_runs()
    if run is not None and run in known:
        have = ", ".join(stages_with_model(run)) or "none yet"
        return MissingArtifact(
            f"run {run} has no checkpoint of: {' or '.join(allowed)}", hint=f"stages with a checkpoint: {have}"
        )
    if run is not None and known:
        return unknown("run", run, known)
    if known:
        return MissingArtifact(f"no run has a checkpoint of: {' or '.join(allowed)}", hint="nanochat runs ls")
    return MissingArtifact(
        "no checkpoint: nothing has been trained yet",
        hint="`nanochat demo` trains a small model in minutes; `nanochat train base` starts a run of your own",
    )


# ---- writing ---------------------------------------------------------------------------------------------------------


def create(run: str, **facts: Any) -> Path:
    """Create the run's folder with its `run.json`, if it is not there yet, and return it."""
    folder = files.make_dir(paths.run_dir(run), "the run folder")
    if not (folder / "run.json").exists():
        files.write_json(
            folder / "run.json",
            {
                "format": 1,
                "name": run,
                "created": time.time(),
                "sequence": 1 + max((_sequence(name) for name in _names()), default=0),
                "machine": machine.describe(),
                **facts,
            },
        )
    return folder
