"""What a report says, from top to bottom: turns the record of a run into blocks; the writers give them a look."""

from __future__ import annotations

import time
from typing import Any

from nanochat_cli import __version__
from nanochat_cli.core.report import repeat, stages, talk
from nanochat_cli.core.report.blocks import (
    Block,
    Chart,
    Document,
    Facts,
    Folded,
    Grid,
    Heading,
    Listing,
    Paragraph,
    Series,
    Severity,
)
from nanochat_cli.core.report.gather import TITLES, RunRecord, StageRecord, smoothed
from nanochat_cli.core.report.text import duration, moment


def compose(run: RunRecord, machine: dict[str, Any], *, measured_now: bool = False) -> Document:
    """The whole report. `machine` is where the run was made, or this computer if `measured_now`."""
    parts: list[Block] = [stages.tiles(run)]
    parts += _section("What each stage brought", stages.overview(run))
    parts += _section("What it says", talk.exchanges(run))
    parts += _section("How it learned", _charts(run))
    parts += _section("Time and machine", [stages.work(run), Facts(_machine(machine, measured_now))])
    parts += _section("Events worth knowing", _events(run))
    parts += _section("Settings that differ from the defaults", repeat.settings(run))
    parts += _section("Do it again", repeat.commands(run))
    return Document(title=run.name, subtitle=_subtitle(run, machine), blocks=parts, footer=_footer())


def _section(title: str, blocks: list[Block]) -> list[Block]:
    return [Heading(title), *blocks] if blocks else []


def _subtitle(run: RunRecord, machine: dict[str, Any]) -> str:
    trained = [stage for stage in run.stages if stage.history]
    seconds = sum(stage.seconds or 0 for stage in trained)
    told = []
    if trained:
        told.append(" → ".join(TITLES[stage.name] for stage in trained))
    if seconds:
        told.append(f"trained in {duration(seconds)}")
    told.append(f"on {machine_in_words(machine)}")
    if run.created is not None:
        told.append(moment(run.created))
    return " · ".join(told)


def machine_in_words(machine: dict[str, Any]) -> str:
    """The part of a machine that did the work: its GPUs, else its processor."""
    gpus = machine.get("gpus") or []
    if gpus and isinstance(gpus[0], dict):
        return f"{len(gpus)} × {gpus[0].get('name', 'GPU')}"
    cores = machine.get("physical_cores") or machine.get("cores")
    told = f", {cores} core{'' if cores == 1 else 's'}" if cores else ""
    return f"{machine.get('cpu', 'an unknown processor')}{told}"


def _machine(machine: dict[str, Any], measured_now: bool) -> list[tuple[str, str]]:
    cores = machine.get("physical_cores") or machine.get("cores", "unknown")
    pairs = [("processor", str(machine.get("cpu", "unknown"))), ("cores used", str(cores))]
    if machine.get("memory_gib"):
        pairs.append(("memory", f"{machine['memory_gib']} GiB"))
    for gpu in machine.get("gpus") or []:
        pairs.append(("GPU", ", ".join(str(value) for value in gpu.values()) if isinstance(gpu, dict) else str(gpu)))
    pairs += [(key, str(machine[key])) for key in ("system", "python", "torch") if machine.get(key)]
    if measured_now:
        pairs.append(("note", "the run did not record its machine; this is the one that wrote the report"))
    return pairs


def _charts(run: RunRecord) -> list[Block]:
    charts = [chart for stage in run.stages for chart in _stage_charts(stage)]
    if not charts:
        return []
    intro = "Loss is in nats per token, lower is better. The thin line is every step, the thick one its moving average."
    return [Paragraph(intro), Grid(charts)]


def _stage_charts(stage: StageRecord) -> list[Chart]:
    name, found = TITLES[stage.name], []
    if len(losses := stage.curve("loss")) > 1:
        raw = stage.curve("raw_loss")
        lines = [Series("every step", raw or losses, faint=True), Series("loss", losses if raw else smoothed(losses))]
        found.append(Chart(f"{name}: training loss", lines, "loss"))
    if len(rewards := stage.curve("reward")) > 1:
        lines = [Series("every step", rewards, faint=True), Series("reward", smoothed(rewards, 0.15))]
        found.append(Chart(f"{name}: reward", lines, "mean reward"))
    for metric in stage.metrics:
        if len(points := stage.measured(metric)) > 1:
            label = metric.replace("_", " ")
            found.append(Chart(f"{name}: {label}", [Series(label, points)], label, dots=True))
    return found


def _events(run: RunRecord) -> list[Block]:
    told: list[tuple[str, Severity, str]] = []
    for stage in run.stages:
        for event in stage.history:
            if line := _event_line(event):
                when = f"{TITLES[stage.name]} · {moment(event['time'])}" if "time" in event else TITLES[stage.name]
                told.append((when, *line))
        for left in stage.evaluation.get("notes") or ():
            told.append((f"{TITLES[stage.name]} · evaluation", "note", str(left)))
    important = [line for line in told if line[1] != "note"]
    notes = [line for line in told if line[1] == "note"]
    blocks: list[Block] = [Listing(important)] if important else []
    if notes:
        blocks.append(Folded(f"Notes of the stages ({len(notes)})", [Listing(notes)]))
    return blocks


def _event_line(event: dict[str, Any]) -> tuple[Severity, str] | None:
    match event["kind"]:
        case "warning":
            return "warning", str(event.get("text", ""))
        case "error":
            return "error", str(event.get("message", ""))
        case "stopped":
            return "warning", f"stopped at step {event.get('step')} ({event.get('why') or 'on request'})"
        case "rolled_back":
            return "warning", f"went back to step {event.get('step')} and past the batches that were bad"
        case "save_failed":
            return "error", f"step {event.get('step')} could not be saved: {event.get('message')}"
        case "resumed":
            return "warning", f"resumed from step {event.get('step')}"
        case "note":
            return "note", str(event.get("text", ""))
        case _:
            return None


def _footer() -> str:
    return (
        f"Written by nanochat {__version__} on {moment(time.time())} from the run's own records. "
        "Bits per byte: summed loss over ln 2 times the bytes of text. Intervals: Wilson, 95 %."
    )
