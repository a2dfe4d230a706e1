"""What two runs, stages or checkpoints differ in: their settings, what they were made with, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat_cli.core import config, run_lineage, runs
from nanochat_cli.core.errors import ConfigError, MissingArtifact
from nanochat_cli.core.run_details import made_with, metrics, of_stage, read
from nanochat_cli.core.run_names import Ref

Pairs = dict[str, tuple[Any, Any]]
"""Name of a value -> what it is on the left and on the right; None where there is none."""


@dataclass(frozen=True)
class StageDiff:
    """Two stages beside each other. `results` are all of them, the other two only those that differ."""

    left: Ref
    right: Ref
    settings: Pairs = field(default_factory=dict)
    made_with: Pairs = field(default_factory=dict)
    results: Pairs = field(default_factory=dict)


@dataclass(frozen=True)
class Diff:
    """Two runs beside each other: their common stages, and the stages that only one of them has."""

    stages: list[StageDiff]
    only_left: list[str]
    only_right: list[str]


def compare(left: Ref, right: Ref) -> Diff:
    """Return the difference of two runs stage by stage, or of two stages or checkpoints.

    Raises MissingArtifact if they have no stage in common, and ConfigError if both are the same.
    """
    if left == right:
        raise ConfigError(f"a comparison needs two different runs, stages or checkpoints: {left}")
    if left.stage or right.stage:
        named = left.stage or right.stage or ""
        pair = (_with_stage(left, named), _with_stage(right, named))
        return Diff([_stage(*pair)], [], [])
    ours, theirs = (_started(ref.run) for ref in (left, right))
    common = [stage for stage in ours if stage in theirs]
    if not common:
        raise MissingArtifact(
            f"no stage in common: {left.run} and {right.run}",
            hint=f"{left.run} has {', '.join(ours) or 'none'}; {right.run} has {', '.join(theirs) or 'none'}",
        )
    return Diff(
        [_stage(Ref(left.run, stage), Ref(right.run, stage)) for stage in common],
        [stage for stage in ours if stage not in theirs],
        [stage for stage in theirs if stage not in ours],
    )


def _with_stage(ref: Ref, stage: str) -> Ref:
    if ref.stage is None and stage not in _started(ref.run):
        raise runs.unknown("stage", stage, _started(ref.run) or ["none"])
    return ref if ref.stage else Ref(ref.run, stage)


def _started(run: str) -> list[str]:
    return [stage for stage in runs.STAGES if (runs.stage_dir(run, stage) / "config.json").is_file()]


def _stage(left: Ref, right: Ref) -> StageDiff:
    sides = (left, right)
    settings = [_settings(ref) for ref in sides]
    made = [_made_with(ref) for ref in sides]
    results = [metrics(ref) for ref in sides]
    return StageDiff(
        left,
        right,
        _pairs(*settings, same=False),
        _pairs(*made, same=False),
        _pairs(*results, same=True),
    )


def _pairs(left: Mapping[str, Any], right: Mapping[str, Any], *, same: bool) -> Pairs:
    names = dict.fromkeys((*left, *right))
    pairs = {name: (left.get(name), right.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if same or pair[0] != pair[1]}


def _settings(ref: Ref) -> dict[str, Any]:
    tree = made_with(ref.run, ref.stage or "", ref.step).get("config") or of_stage(ref.run, ref.stage or "")["config"]
    try:
        return config.flatten(tree or {}, "config.json")
    except ConfigError:
        return {}


def _made_with(ref: Ref) -> dict[str, Any]:
    """Everything beside the settings that decides what comes out, by dotted name."""
    stage = ref.stage or ""
    made = made_with(ref.run, stage, ref.step)
    origin = run_lineage.parent(ref.run, stage)
    data = made.get("data") or {}
    tree: dict[str, Any] = {
        "version": made.get("version"),
        "torch": made.get("torch"),
        "shape": made.get("model"),
        "tokenizer": made.get("tokenizer"),
        "data": {key: value for key, value in data.items() if not isinstance(value, list | dict)},
        "parent": {
            "name": str(origin) if origin else None,
            "weights_sha256": (made.get("parent") or {}).get("weights_sha256"),
        },
        "num_steps": made.get("num_steps"),
        "tokens_per_step": made.get("tokens_per_step"),
        "world": made.get("world"),
        "execution": {k: v for k, v in (made.get("execution") or {}).items() if k != "tokens_per_s"},
        "machine": read(runs.paths.run_dir(ref.run) / "run.json").get("machine"),
    }
    return dict(_flat(tree))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            found.append((f"{prefix}{key}", value))
    return found
