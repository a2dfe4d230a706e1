"""Everything that is recorded about a run, in one tree: for `runs show`, and the material of `runs diff`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanochat_cli.core import config, events, files, paths, run_state, run_tags, runs
from nanochat_cli.core.errors import ConfigError, NanochatError
from nanochat_cli.core.run_names import Ref
from nanochat_cli.core.settings import WORKER_CONFIGS


def of_run(run: str, stage: str | None = None) -> dict[str, Any]:
    """Return what is known of a run, or of one of its stages. What is missing or damaged is left out."""
    facts = read(paths.run_dir(run) / "run.json")
    found = [info for info in run_state.describe_run(run) if stage in (None, info.stage)]
    return {
        "run": run,
        "dir": str(paths.run_dir(run)),
        **{key: facts[key] for key in ("created", "machine", "recipe") if key in facts},
        "tags": [{**asdict(tag), "dangling": tag.dangling} for tag in run_tags.of_run(run)],
        "stages": [{**_plain(info), **of_stage(run, info.stage)} for info in found],
    }


def _plain(info: run_state.StageInfo) -> dict[str, Any]:
    shown = asdict(info) | {"status": info.status}
    if info.parent is not None:
        shown["parent"] = {**asdict(info.parent), "name": str(info.parent)}
    return shown


def of_stage(run: str, stage: str) -> dict[str, Any]:
    """Return how a stage was started, what it saved, and which settings were not left at their defaults."""
    folder = runs.stage_dir(run, stage)
    started, made = read(folder / "config.json"), made_with(run, stage)
    return {
        "dir": str(folder),
        "command": started.get("command", ""),
        "checkpoints": _checkpoints(run, stage),
        "left": [{"name": p.name, "size_bytes": run_state.tree_size(p)} for p in runs.left_steps(folder)],
        "settings": _changed(stage, started.get("config")),
        "config": started.get("config"),
        **{key: made.get(key) for key in ("version", "torch", "model", "tokenizer", "data", "execution", "world")},
        "result": read(folder / "result.json") or None,
        "warnings": run_state.warnings_of(folder),
    }


def made_with(run: str, stage: str, step: int | None = None) -> dict[str, Any]:
    """Return what a checkpoint, by default the newest that can be read, says about how it was made."""
    folder = runs.stage_dir(run, stage)
    steps = reversed(runs.checkpoint_steps(folder)) if step is None else [step]
    return next((found for s in steps if (found := read(folder / f"step-{s:06d}" / "config.json"))), {})


def metrics(ref: Ref) -> dict[str, Any]:
    """Return the figures of a stage's result, or of one of its checkpoints; of an unfinished stage, the latest."""
    folder = runs.stage_dir(ref.run, ref.stage or "")
    result = read(folder / "result.json")
    steps = runs.checkpoint_steps(folder)
    if ref.step is None and result:
        return _numbers(result)
    step = ref.step if ref.step is not None else (steps[-1] if steps else None)
    if step is None:
        return {}
    state = read(folder / f"step-{step:06d}" / "state.json")
    told = events.read_kinds(folder / "events.jsonl", "eval")
    measured = {e["metric"]: e["value"] for e in told if e.get("step") == step and "metric" in e and "value" in e}
    found = {"step": step, "train_seconds": state.get("seconds"), **(state.get("cursor") or {})}
    return _numbers({**found, **(state.get("metrics") or {}), **measured, "step": step})


def _numbers(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if isinstance(value, int | float) and value is not True}


def read(path: Path) -> dict[str, Any]:
    """Return a JSON file of a run, empty if it is missing or damaged."""
    try:
        return files.read_json(path, "the record") if path.is_file() else {}
    except NanochatError:
        return {}


def _checkpoints(run: str, stage: str) -> list[dict[str, Any]]:
    folder = runs.stage_dir(run, stage)
    saved = run_state.checkpoints(folder)
    best = run_state.best_step(folder, [c.step for c in saved])
    tags = run_tags.of_run(run)
    return [
        {
            "step": c.step,
            "size_bytes": c.size_bytes,
            "created": c.created,
            "version": c.version,
            "weights_sha256": c.weights_sha256,
            "permanent": c.permanent,
            "best": c.step == best,
            "tags": [tag.name for tag in tags if (tag.stage, tag.step) == (stage, c.step)],
            "readable": c.readable,
        }
        for c in saved
    ]


def _changed(stage: str, tree: Any) -> dict[str, Any]:
    """The settings that are not at their defaults; also those that this version does not know."""
    try:
        values = config.flatten(tree or {}, "config.json")
    except ConfigError:
        return {}
    defaults = config.flatten(config.to_dict(WORKER_CONFIGS[stage]()), "defaults")
    return {path: value for path, value in values.items() if value != defaults.get(path)}
