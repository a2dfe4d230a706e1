"""Graded answers in a report: tables of stages against families, pictures, and what changed from stage to stage."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core.eval.intervals import difference
from nanochat_cli.core.report.blocks import Block, Cell, Folded, Paragraph, Row, Share, Shares, Table
from nanochat_cli.core.report.gather import TITLES, RunRecord, StageRecord
from nanochat_cli.core.report.text import interval, percent

MISSING = Cell("–")
WHOLE = ""
"""The family that stands for the whole task."""
Counts = dict[str, Any]
BASELINES = (
    "Answers: share right, greedy, with its 95 % interval. Baseline: the better of always giving the most frequent "
    "answer and, where there is one (marked *), the task's shortcut that needs no understanding."
)


class Scores:
    """What the evaluations of a run counted: task (with its split) → family → stage → counts."""

    def __init__(self, run: RunRecord) -> None:
        self.stages = [stage.name for stage in run.stages]
        self.tasks: dict[str, dict[str, dict[str, Counts]]] = {}
        for stage in run.stages:
            for task in tasks_of(stage):
                families = self.tasks.setdefault(f"{task.get('task', '?')} · {task.get('split', '?')}", {})
                parts = task.get("families") or {}
                for family, counts in {WHOLE: task["all"], **(parts if len(parts) > 1 else {})}.items():
                    if counts.get("total"):
                        families.setdefault(family, {})[stage.name] = counts

    @property
    def graded(self) -> list[str]:
        """The stages that have any counts, in their order."""
        told = {stage for families in self.tasks.values() for by_stage in families.values() for stage in by_stage}
        return [stage for stage in self.stages if stage in told]


def tasks_of(stage: StageRecord) -> list[Counts]:
    """The tasks a stage was graded on, as recorded; broken records are passed over."""
    found = stage.evaluation.get("tasks")
    tasks = found if isinstance(found, list) else []
    return [task for task in tasks if isinstance(task, dict) and isinstance(task.get("all"), dict)]


def columns(stages: list[str]) -> list[str]:
    """Heads of a table of stages."""
    return ["", *(TITLES[stage] for stage in stages), "baseline"]


def main_rows(scores: Scores) -> list[Row]:
    """Every task as a whole, and all families of the first one."""
    rows = []
    for number, (task, families) in enumerate(scores.tasks.items()):
        wanted = families if number == 0 else {WHOLE: families[WHOLE]} if WHOLE in families else {}
        rows += [_row(scores.stages, task, family, by_stage) for family, by_stage in wanted.items()]
    return rows


def details(scores: Scores) -> list[Block]:
    """The first task as a picture; every further one folded, with table and picture."""
    blocks: list[Block] = []
    for number, (task, families) in enumerate(scores.tasks.items()):
        if number == 0:
            blocks += _picture(scores, task)
        elif len(families) > 1:
            rows = [_row(scores.stages, task, family, by_stage) for family, by_stage in families.items()]
            blocks.append(
                Folded(f"{task}, family by family", [Table(columns(scores.stages), rows), *_picture(scores, task)])
            )
    return blocks + _changes(scores)


# ---- tables ----------------------------------------------------------------------------------------------------------


def _row(stages: list[str], task: str, family: str, by_stage: dict[str, Counts]) -> Row:
    cells = [_share_cell(by_stage, stage) if stage in by_stage else MISSING for stage in stages]
    last = list(by_stage.values())[-1]
    kind, total = family.partition("/")[2], f"{last['total']:,} questions"
    if family == WHOLE:
        head = Cell(task, f"all, {total}", strong=True)
    else:
        head = Cell(kind or family, total)
    return Row([head, *cells, _baseline_cell(last)], inset=bool(kind))


def _share_cell(by_stage: dict[str, Counts], stage: str) -> Cell:
    """Share and interval; with the number of questions where stages differ in it. Bold is only what stands out."""
    counts = by_stage[stage]
    others = [other["correct"] / other["total"] for name, other in by_stage.items() if name != stage]
    note = interval(counts["low"], counts["high"])
    if len({other["total"] for other in by_stage.values()}) > 1:
        note += f", {counts['total']:,} asked"
    stands_out = bool(others) and counts["low"] > max(others)
    return Cell(percent(counts["correct"] / counts["total"]), note, strong=stands_out)


def _baseline(counts: Counts) -> tuple[int, bool] | None:
    """(right answers, is it the shortcut) of the stronger baseline, or None."""
    known = [(counts[key], key == "shortcut") for key in ("majority", "shortcut") if counts.get(key) is not None]
    return max(known) if known else None


def _baseline_cell(counts: Counts) -> Cell:
    found = _baseline(counts)
    return MISSING if found is None else Cell(percent(found[0] / counts["total"]) + (" *" if found[1] else ""))


# ---- pictures --------------------------------------------------------------------------------------------------------


def _picture(scores: Scores, task: str) -> list[Block]:
    """The families of a task, without their kinds, after the last stage that was graded on it."""
    families = scores.tasks[task]
    last = next((s for s in reversed(scores.stages) if any(s in by_stage for by_stage in families.values())), None)
    items = [
        _share(family, by_stage[last])
        for family, by_stage in families.items()
        if last in by_stage and family != WHOLE and "/" not in family
    ]
    if last is None or len(items) < 2:
        return []
    told = "dot and line are share and 95 % interval, the bar is the baseline"
    return [Shares(f"{task}, after {TITLES[last]}: {told}", items)]


def _share(family: str, counts: Counts) -> Share:
    found, total = _baseline(counts), counts["total"]
    return Share(family, counts["correct"] / total, counts["low"], counts["high"], found[0] / total if found else None)


# ---- changes ---------------------------------------------------------------------------------------------------------


def _changes(scores: Scores) -> list[Block]:
    """What the last graded stage changed against the graded one before it, family by family."""
    if len(scores.graded) < 2:
        return []
    before, after = scores.graded[-2:]
    rows = [
        _change_row(Cell(family or task, strong=family == WHOLE), by_stage[before], by_stage[after])
        for task, families in scores.tasks.items()
        for family, by_stage in families.items()
        if before in by_stage and after in by_stage and "/" not in family
    ]
    if not rows:
        return []
    table = Table(["", TITLES[before], TITLES[after], "points", "verdict"], rows)
    text = "Points gained or lost with the 95 % interval of the difference, taking the two as independent samples."
    return [Folded(f"What {TITLES[after]} changed against {TITLES[before]}", [Paragraph(text), table])]


def practice(stage: StageRecord) -> list[Block]:
    """What a stage measured on its own questions before and after: counts, and the interval of the change."""
    rows = []
    for metric in stage.metrics:
        evals = [event for event in stage.of("eval") if event.get("metric") == metric and event.get("total")]
        told = [event for event in evals if "correct" in event]  # means over samples (pass@k, rewards) are no counts
        if len(told) >= 2:
            families = ", ".join(map(str, told[-1].get("families") or ()))
            rows.append(_change_row(Cell(metric.replace("_", " "), families), told[0], told[-1]))
    if not rows:
        return []
    text = f"What {TITLES[stage.name]} gained on held-out questions of the kind it practised:"
    return [Paragraph(text), Table(["", "before", "after", "points", "verdict"], rows)]


def _change_row(name: Cell, before: Counts, after: Counts) -> Row:
    was, now = ((counts["correct"], counts["total"]) for counts in (before, after))
    change, low, high = (100 * value for value in difference(was, now))
    verdict = "sure" if low > 0 or high < 0 else "within chance"
    cells = [Cell(f"{correct} of {total}") for correct, total in (was, now)]
    return Row([name, *cells, Cell(f"{change:+.1f}", f"{low:+.1f} to {high:+.1f}"), Cell(verdict)])
