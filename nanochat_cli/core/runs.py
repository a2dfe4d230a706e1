"""Run folders: a run holds one folder per stage, and each stage its config, history, lock and checkpoints."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core import events, files, machine, paths
from nanochat_cli.core.errors import ConfigError, MissingArtifact, NanochatError

STAGES = ("base", "mid", "sft", "rl")
PURPOSE = {
    "base": "learns the language of the corpus by guessing each next token",
    "mid": "learns what a conversation looks like, from whole chats",
    "sft": "learns to answer: only the assistant's own tokens are graded",
    "rl": "practises on questions with a checkable answer and keeps what is right",
    "probe": "measures which arithmetic and kernels are fastest on this machine",
    "bench": "measures how fast this machine trains a model",
    "eval": "asks questions that were never trained on and counts right answers",
}
STEP_DIR = re.compile(r"step-(\d{6,})")
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


def stage_dir(run: str, stage: str) -> Path:
    """Return the folder of one stage of a run."""
    return paths.run_dir(run) / stage


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps of the published checkpoints of a stage, ascending as numbers: 1000000 follows 999999."""
    if not folder.is_dir():
        return []
    found = ((child, STEP_DIR.fullmatch(child.name)) for child in folder.iterdir())
    return sorted(int(match[1]) for child, match in found if match and (child / MANIFEST).is_file())


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


def all_runs() -> list[str]:
    """Return the names of all runs, most recent first."""
    root = paths.runs_dir()
    if not root.is_dir():
        return []
    found = [child for child in root.iterdir() if (child / "run.json").is_file()]
    return [child.name for child in sorted(found, key=lambda child: (touched(child), child.name), reverse=True)]


def stages_with_model(run: str) -> list[str]:
    """Return the stages of a run that have a checkpoint, in the order of the pipeline."""
    return [stage for stage in STAGES if checkpoint_steps(stage_dir(run, stage))]


def base_run(run: str) -> str:
    """Return the run whose base stage is behind a run: itself, unless its first stage was written `--into` it."""
    passed = {run}
    while not (stage_dir(run, "base") / "config.json").is_file():
        started = [stage_dir(run, stage) / "config.json" for stage in STAGES]
        first = next((path for path in started if path.is_file()), None)
        saved = files.read_json(first, "the stage's config") if first else {}
        before = (saved.get("config") or {}).get("source", {}).get("run")
        if not isinstance(before, str) or before in passed:
            return run
        run = before
        passed.add(run)
    return run


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


def _nothing_found(run: str | None, allowed: list[str]) -> MissingArtifact:
    known = all_runs()
    if run is not None and run in known:
        have = ", ".join(stages_with_model(run)) or "none yet"
        return MissingArtifact(
            f"run {run} has no checkpoint of: {' or '.join(allowed)}", hint=f"stages with a checkpoint: {have}"
        )
    if run is not None and known:
        return MissingArtifact(f"no run named: {run}", hint=f"runs: {', '.join(known[:8])}")
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
            {"format": 1, "name": run, "created": time.time(), "machine": machine.describe(), **facts},
        )
    return folder


@contextlib.contextmanager
def lock(folder: Path, wait_s: float = 10.0) -> Iterator[int]:
    """Hold the folder for this process and yield the open file that does; it is free when no process has that file.

    A child that inherits the file holds the folder as well, so a killed command's worker keeps it until it is gone: the
    lock waits a little for that. Raises NanochatError if it is held for longer.
    """
    import fcntl

    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
                    raise NanochatError(
                        f"another process is working in {folder} (pid {holder})",
                        hint="wait for it or stop it, or write into another run",
                    ) from None
                time.sleep(0.1)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield handle
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Return whether a process is working in the folder right now."""
    import fcntl

    try:
        handle = os.open(folder / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


# ---- listing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageInfo:
    """One stage of a run, as `runs ls` shows it."""

    run: str
    stage: str
    step: int | None
    num_steps: int | None
    val_bpb: float | None
    status: str
    size_bytes: int
    updated: float


def describe_stage(run: str, stage: str) -> StageInfo | None:
    """Return the state of one stage, or None if it was never started."""
    folder = stage_dir(run, stage)
    if not (folder / "config.json").is_file():
        return None
    history = events.read(folder / "events.jsonl")
    steps = checkpoint_steps(folder)
    bpb = [e["value"] for e in history if e["kind"] == "eval" and e.get("metric") == "val_bpb"]
    totals = [e["num_steps"] for e in history if e["kind"] == "step"]
    return StageInfo(
        run=run,
        stage=stage,
        step=steps[-1] if steps else None,
        num_steps=totals[-1] if totals else None,
        val_bpb=bpb[-1] if bpb and isinstance(bpb[-1], float) else None,
        status=_status(folder, history),
        size_bytes=files.tree_size(folder),
        updated=touched(folder),
    )


def _status(folder: Path, history: list[events.Event]) -> str:
    if is_held(folder):
        return "running"
    if is_finished(folder):
        return "finished"
    last = history[-1]["kind"] if history else ""
    return {"stopped": "stopped, resumable", "error": "failed"}.get(last, "interrupted, resumable")
