"""How to make the same run again: what was typed, each stage as one command, and the settings that were chosen."""

from __future__ import annotations

import shlex
from typing import Any

from nanochat_cli.core import config
from nanochat_cli.core.report import origin
from nanochat_cli.core.report.blocks import Block, Cell, Code, Facts, Folded, Paragraph, Row, Table
from nanochat_cli.core.report.gather import TITLES, RunRecord, StageRecord, number
from nanochat_cli.core.settings import WORKER_CONFIGS


def settings(run: RunRecord) -> list[Block]:
    """Every option that was not left at its default, stage by stage."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for stage in run.stages:
        for path, value, default in stage.changed():
            if path != "source.run":
                alike.setdefault((path, _shown(value), _shown(default)), []).append(TITLES[stage.name])
    rows = [
        Row([Cell(path), Cell(", ".join(where)), Cell(value, strong=True), Cell(default)])
        for (path, value, default), where in alike.items()
    ]
    return [Table(["option", "stages", "value", "default"], rows, prose=True)] if rows else []


def _shown(value: Any) -> str:
    if value is None:
        return "automatic"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def commands(run: RunRecord) -> list[Block]:
    """What was typed, in order, and the same work as one command for each stage."""
    typed = [*_recipe(run), *(stage.command for stage in run.stages if stage.command)]
    graded = [stage.evaluation.get("command") for stage in run.stages]
    typed += [command for command in graded if isinstance(command, str)]
    by_stage = [shlex.join(words) for words in origin.made_with(run)]
    by_stage += [line for stage in run.stages if (line := stage_command(run, stage))]
    blocks: list[Block] = []
    if typed:
        blocks += [Paragraph("As typed:"), Code("\n".join(dict.fromkeys(typed)))]
    if by_stage:
        blocks.append(Folded("Stage by stage, with every setting spelled out", [Code("\n".join(by_stage))]))
    if made_from := [*origin.facts(run), *_checkpoint_facts(run)]:
        blocks.append(Folded("What it was made from", [Facts(made_from)]))
    return blocks


def _recipe(run: RunRecord) -> list[str]:
    """The one command that made the whole run, if a recipe did."""
    recipe, seed = run.facts.get("recipe"), run.facts.get("seed")
    if not isinstance(recipe, str):
        return []
    words = ["nanochat", "demo"] if recipe == "demo" else ["nanochat", "run", recipe]
    words += ["--run", run.name] if run.name != recipe else []
    words += ["--seed", str(seed)] if seed else []
    words += ["--minutes", f"{minutes:g}"] if (minutes := number(run.facts.get("minutes"))) else []
    return [shlex.join(words)]


def stage_command(run: RunRecord, stage: StageRecord) -> str | None:
    """One command line that starts the stage with the same settings, or None if its config was not recorded."""
    if stage.name not in WORKER_CONFIGS or not stage.saved:
        return None
    flags = {option.path: option for option in config.options(WORKER_CONFIGS[stage.name])}
    options = stage.saved.get("config") or {}
    source, into = (options.get("source") or {}).get("run"), (options.get("output") or {}).get("into")
    moved = into is not None and into != source  # written into another run than the one it started from
    words = ["nanochat", "train", stage.name, "--run", source if moved and source else run.name]
    for path, value, _ in stage.changed():
        option = flags.get(path)
        if option is None or path == "source.run" or (path == "output.into" and not moved):
            continue
        words += _words(option, value)
    return shlex.join(words)


def _words(option: config.Option, value: Any) -> list[str]:
    text = "none" if value is None else str(value)
    if option.flag is None:
        joined = ",".join(map(str, value)) if isinstance(value, list) else text
        return ["--set", f"{option.path}={joined}"]
    if isinstance(value, bool):
        return [option.flag if value else f"--no-{option.flag.removeprefix('--')}"]
    if isinstance(value, list):
        return [word for item in value for word in (option.flag, str(item))]
    return [option.flag, text]


def _checkpoint_facts(run: RunRecord) -> list[tuple[str, str]]:
    """Shape of the network, data and parents of the stages, and versions, as the checkpoints recorded them."""
    pairs: dict[str, str] = {}
    for stage in run.stages:
        told = stage.checkpoint
        for key in ("model", "data", "parent"):
            value = told.get(key)
            if isinstance(value, dict):
                pairs.setdefault("network" if key == "model" else f"{TITLES[stage.name]} {key}", _flat(value))
        for key in ("version", "torch"):
            if isinstance(told.get(key), str):
                pairs.setdefault("nanochat" if key == "version" else key, told[key])
    return list(pairs.items())


def _flat(value: dict[str, Any]) -> str:
    """Names and values of one level, in a line; deeper ones are counted."""
    parts = []
    for key, item in value.items():
        shown = f"{len(item)}" if isinstance(item, list | dict) else _shown(item) if item is not None else None
        if shown is not None:
            is_hash = key in ("hash", "fingerprint", "weights_sha256")
            parts.append(f"{key.replace('_', ' ')} {shown[:16] if is_hash else shown}")
    return ", ".join(parts)
