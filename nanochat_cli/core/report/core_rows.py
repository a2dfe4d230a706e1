"""CORE and ChatCORE in a report: a row per score in the table of stages, and CORE's tasks folded behind it."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core.report.blocks import Block, Cell, Folded, Paragraph, Row, Table
from nanochat_cli.core.report.gather import TITLES, RunRecord, StageRecord, number
from nanochat_cli.core.report.text import interval, percent

_MISSING = Cell("–")


def rows(run: RunRecord) -> list[Row]:
    """One row for each score of some stage, by its label: one of other tasks, or fewer questions, is another score."""
    found: dict[str, dict[str, Cell]] = {}
    for stage in run.stages:
        for name, cell in _scores(stage):
            found.setdefault(name, {})[stage.name] = cell
    return [
        Row([Cell(name, strong=True), *(cells.get(stage.name, _MISSING) for stage in run.stages), Cell("0")])
        for name, cells in found.items()
    ]


def details(run: RunRecord) -> list[Block]:
    """CORE's tasks, stages against tasks, folded; nothing if no stage was measured."""
    measured = {stage.name: tasks for stage in run.stages if (tasks := _tasks(stage))}
    if not measured:
        return []
    names = list(dict.fromkeys(name for tasks in measured.values() for name in tasks))
    table = Table(
        ["", *(TITLES[stage] for stage in measured), "chance"],
        [_task_row(name, [tasks.get(name) for tasks in measured.values()]) for name in names],
    )
    text = (
        "Share right with its 95 % interval (Wilson). A score is the mean of all tasks after centering: chance is 0,"
        " all right is 1. Its interval is a bootstrap over the questions, which leaves out what another training seed"
        " would change."
    )
    return [Folded("CORE, task by task", [Paragraph(text), table])]


def _scores(stage: StageRecord) -> list[tuple[str, Cell]]:
    """The labelled scores of a stage; records that cannot be read are passed over."""
    found = []
    core = stage.evaluation.get("core")
    by_table = core.get("scores") if isinstance(core, dict) else None
    for values in by_table.values() if isinstance(by_table, dict) else ():
        found += _score(values, "core")
    return found + _score(stage.evaluation.get("chat_core"), "chat_core")


def _score(values: Any, key: str) -> list[tuple[str, Cell]]:
    if not isinstance(values, dict):
        return []
    value, low, high = (number(values.get(name)) for name in (key, "low", "high"))
    if value is None or low is None or high is None:
        return []
    return [(str(values.get("label", key)), Cell(f"{value:.4f}", f"{low:.4f} to {high:.4f}"))]


def _tasks(stage: StageRecord) -> dict[str, dict[str, Any]]:
    core = stage.evaluation.get("core")
    tasks = core.get("tasks") if isinstance(core, dict) else None
    return {
        task["task"]: task
        for task in (tasks if isinstance(tasks, list) else ())
        if isinstance(task, dict) and isinstance(task.get("task"), str) and task.get("total")
    }


def _task_row(name: str, by_stage: list[dict[str, Any] | None]) -> Row:
    known = [task for task in by_stage if task]
    last = known[-1]
    at_most = f", at most {last['limit']:,} asked" if last.get("limit") else ""
    remarks = [f"{last['total']:,} questions{at_most}"]
    if last.get("cropped"):
        remarks.append(f"{last['cropped']:,} cropped")
    cells = [
        Cell(percent(task["correct"] / task["total"]), interval(task["low"], task["high"])) if task else _MISSING
        for task in by_stage
    ]
    chance = ", ".join(f"{table} {percent(share)}" for table, share in (last.get("baselines") or {}).items())
    return Row([Cell(name, ", ".join(remarks)), *cells, Cell(chance)])
