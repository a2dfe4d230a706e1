"""Reads what the stages of a run recorded. Anything may be missing: a report is made of what is there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from nanochat_cli.core import config, events, files, runs
from nanochat_cli.core.errors import ConfigError, MissingArtifact, NanochatError
from nanochat_cli.core.events import Event
from nanochat_cli.core.settings import WORKER_CONFIGS

Curve = list[tuple[float, float]]
TITLES = {"base": "BASE", "mid": "MID", "sft": "SFT", "rl": "RL"}


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One training stage: how it was asked for, what it told, what came out, and how it was graded afterwards."""

    name: str
    saved: dict[str, Any] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    """Precision, attention form and compilation that were used."""
    checkpoint: dict[str, Any] = field(default_factory=dict)
    """What the last checkpoint says about itself: model shape, data, tokenizer, parent."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)

    def of(self, kind: str) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in self.history if event["kind"] == kind]

    def curve(self, key: str) -> Curve:
        """(step, value) of a figure that every training step tells, such as `loss`."""
        return _points((event, event.get(key)) for event in self.of("step"))

    def measured(self, metric: str) -> Curve:
        """(step, value) of a figure that is measured now and then, such as `val_bpb`."""
        return _points((event, event.get("value")) for event in self.of("eval") if event.get("metric") == metric)

    @property
    def metrics(self) -> list[str]:
        """Names of what was measured on the way, in order of first appearance."""
        return list(dict.fromkeys(event["metric"] for event in self.of("eval") if isinstance(event.get("metric"), str)))

    @property
    def last_step(self) -> Event:
        """The last training step told, or an empty record."""
        return (self.of("step") or [{}])[-1]

    @property
    def seconds(self) -> float | None:
        """Working time: from first to last event of every session, without the pauses between sessions."""
        sessions: list[list[float]] = []
        for event in self.history:
            if event["kind"] == "stage" or not sessions:
                sessions.append([])
            if isinstance(event.get("time"), int | float):
                sessions[-1].append(event["time"])
        total = sum(max(times) - min(times) for times in sessions if times)
        return total or number(self.result.get("seconds"))

    @property
    def tokens_per_s(self) -> float | None:
        """Median speed over the steps; the median forgives the slow first ones."""
        told = [value for _, value in self.curve("tokens_per_s") if value > 0]
        return median(told) if told else None

    @property
    def finished(self) -> bool:
        """Whether the stage reached its end."""
        return bool(self.result)

    @property
    def command(self) -> str | None:
        """What was typed to start it."""
        command = self.saved.get("command")
        return command if isinstance(command, str) else None

    def changed(self) -> list[tuple[str, Any, Any]]:
        """(option, value, default) of every option that was not left at its default."""
        cls, tree = WORKER_CONFIGS.get(self.name), self.saved.get("config")
        if cls is None or not isinstance(tree, dict):
            return []
        try:
            defaults = config.flatten(config.to_dict(cls()), "defaults")
            values = config.flatten(tree, "config.json")
        except ConfigError:
            return []
        return [(path, value, defaults.get(path)) for path, value in values.items() if value != defaults.get(path)]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything a report is made from."""

    name: str
    folder: Path
    facts: dict[str, Any]
    stages: list[StageRecord]

    def stage(self, name: str) -> StageRecord | None:
        """One stage, if the run has it."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def created(self) -> float | None:
        """When the run began."""
        return number(self.facts.get("created"))


def read_run(folder: Path) -> RunRecord:
    """Everything recorded in a run folder. Raises MissingArtifact if it holds no stage at all."""
    try:
        facts = files.read_json(folder / "run.json", "the run's description")
    except NanochatError:
        facts = {}
    stages = [record for name in runs.STAGES if (record := _read_stage(folder, name)) is not None]
    if not stages:
        raise MissingArtifact(f"nothing to report in: {folder}", hint="nanochat runs ls")
    return RunRecord(name=folder.name, folder=folder, facts=facts, stages=stages)


def _read_stage(folder: Path, name: str) -> StageRecord | None:
    inside, graded = folder / name, folder / "eval"
    record = StageRecord(
        name=name,
        saved=_json_or_nothing(inside / "config.json"),
        history=events.read(inside / "events.jsonl"),
        result=_json_or_nothing(inside / "result.json"),
        execution=_json_or_nothing(inside / "execution.json"),
        checkpoint=_last_checkpoint(inside),
        evaluation=_json_or_nothing(graded / f"{name}.json"),
        predictions=_json_lines(graded / f"{name}.jsonl"),
    )
    return record if record.saved or record.history or record.evaluation else None


def _last_checkpoint(stage: Path) -> dict[str, Any]:
    steps = runs.checkpoint_steps(stage)
    return _json_or_nothing(stage / f"step-{steps[-1]:06d}" / "config.json") if steps else {}


def _json_or_nothing(path: Path) -> dict[str, Any]:
    try:
        return files.read_json(path, path.name)
    except NanochatError:
        return {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # a killed process may leave half a line
        if isinstance(record, dict):
            found.append(record)
    return found


def number(value: Any) -> float | None:
    """`value` as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def _points(pairs: Any) -> Curve:
    return [
        (step, value)
        for event, raw in pairs
        if (step := number(event.get("step"))) is not None and (value := number(raw)) is not None
    ]


def smoothed(curve: Curve, window: float = 0.04) -> Curve:
    """An exponential moving average over about `window` of the curve, unbiased at its start."""
    keep = 1 - 1 / max(1.0, len(curve) * window)
    found, total, weight = [], 0.0, 0.0
    for step, value in curve:
        total, weight = keep * total + value, keep * weight + 1
        found.append((step, total / weight))
    return found
