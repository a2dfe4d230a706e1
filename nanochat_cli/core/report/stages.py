"""The figures of a report: tiles on top, the table of stages against metrics, and what the work took."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core.eval.intervals import difference
from nanochat_cli.core.report.blocks import Block, Cell, Folded, Paragraph, Row, Share, Shares, Table, Tiles
from nanochat_cli.core.report.gather import TITLES, RunRecord, StageRecord, number, smoothed
from nanochat_cli.core.report.text import count, duration, interval, percent

MISSING = Cell("–")
Scores = dict[tuple[str, str], dict[str, Any]]
"""(task and split, family) → counts; the family "" is the whole task."""


# ---- tiles -----------------------------------------------------------------------------------------------------------


def tiles(run: RunRecord) -> Tiles:
    """The figures to read first; those that were not recorded are left out."""
    found = []
    if last := _last_graded(run):
        stage, whole = last
        correct, total = whole["correct"], whole["total"]
        remark = f"{correct:,} of {total:,}, after {TITLES[stage]}"
        found.append((percent(correct / total), "held-out answers right", remark))
    if bpb := _best_bpb(run):
        found.append((f"{bpb[1]:.3f}", "bits per byte", f"validation text, after {TITLES[bpb[0]]}"))
    if params := _fact(run, "num_params"):
        found.append((count(params), "parameters", ""))
    if tokens := sum(_tokens(stage) or 0 for stage in run.stages):
        found.append((count(tokens), "training tokens", "all stages"))
    if seconds := sum(stage.seconds or 0 for stage in run.stages):
        found.append((duration(seconds), "training time", "all stages"))
    return Tiles(found)


def _last_graded(run: RunRecord) -> tuple[str, dict[str, Any]] | None:
    for stage in reversed(run.stages):
        scores = [task["all"] for task in _tasks(stage) if task.get("held_out") and task["all"].get("total")]
        if scores:
            return stage.name, {key: sum(score[key] for score in scores) for key in ("correct", "total")}
    return None


def _best_bpb(run: RunRecord) -> tuple[str, float] | None:
    """The base model's value where there is one: later stages learn chats and may forget some plain text."""
    found = [(stage.name, value) for stage in run.stages if (value := val_bpb(stage)) is not None]
    return found[0] if found else None


def val_bpb(stage: StageRecord) -> float | None:
    """Validation bits per byte at the end of a stage: as evaluated afterwards, else as last measured in training."""
    graded = stage.evaluation.get("bpb")
    val = graded.get("val") if isinstance(graded, dict) else None
    after = number(val.get("bpb")) if isinstance(val, dict) else None
    measured = stage.measured("val_bpb")
    return after if after is not None else measured[-1][1] if measured else None


def _fact(run: RunRecord, key: str) -> float | None:
    """A figure that some stage's result or evaluation holds."""
    for stage in run.stages:
        for record in (stage.result, stage.evaluation, stage.evaluation.get("model") or {}):
            if (value := number(record.get(key))) is not None:
                return value
    return None


def _tokens(stage: StageRecord) -> float | None:
    told = number(stage.last_step.get("tokens"))
    return told if told is not None else number(stage.result.get("tokens"))


# ---- stages against metrics ------------------------------------------------------------------------------------------


def overview(run: RunRecord) -> list[Block]:
    """The table of stages, a picture of the last graded stage, and what the last stage changed."""
    scores = {stage.name: _scores(stage) for stage in run.stages}
    rows = [row for row in (_bpb_row(run), _loss_row(run)) if row is not None]
    keys = list(dict.fromkeys(key for found in scores.values() for key in found))
    rows += [_score_row(run, scores, key) for key in keys]
    if not rows:
        return []
    columns = ["", *(TITLES[stage.name] for stage in run.stages), "baseline"]
    blocks: list[Block] = [Table(columns, rows, _caption(keys))]
    blocks += _pictures(run, scores)
    blocks += _changes(run, scores)
    return blocks


def _caption(keys: list[tuple[str, str]]) -> str:
    if not keys:
        return ""
    return (
        "Answers: share right, greedy, with its 95 % interval. Baseline: the better of always giving the most frequent "
        "answer and, where there is one (marked *), the task's shortcut that needs no understanding."
    )


def _bpb_row(run: RunRecord) -> Row | None:
    values = [val_bpb(stage) for stage in run.stages]
    if not any(value is not None for value in values):
        return None
    cells = [Cell(f"{value:.4f}") if value is not None else MISSING for value in values]
    return Row([Cell("validation bits per byte", "lower is better"), *cells, MISSING])


def _loss_row(run: RunRecord) -> Row | None:
    curves = [stage.curve("loss") if stage.curve("raw_loss") else smoothed(stage.curve("loss")) for stage in run.stages]
    if not any(curves):
        return None
    cells = [Cell(f"{curve[-1][1]:.4f}") if curve else MISSING for curve in curves]
    return Row([Cell("training loss at the end", "nats per trained token"), *cells, MISSING])


def _tasks(stage: StageRecord) -> list[dict[str, Any]]:
    found = stage.evaluation.get("tasks")
    tasks = found if isinstance(found, list) else []
    return [task for task in tasks if isinstance(task, dict) and isinstance(task.get("all"), dict)]


def _scores(stage: StageRecord) -> Scores:
    found: Scores = {}
    for task in _tasks(stage):
        name = f"{task.get('task', '?')} · {task.get('split', '?')}"
        found[name, ""] = task["all"]
        families = task.get("families") or {}
        if len(families) > 1:
            found |= {(name, family): counts for family, counts in families.items()}
    return {key: counts for key, counts in found.items() if counts.get("total")}


def _score_row(run: RunRecord, scores: dict[str, Scores], key: tuple[str, str]) -> Row:
    task, family = key
    found = [scores[stage.name].get(key) for stage in run.stages]
    known = [counts for counts in found if counts]
    best = max(counts["correct"] / counts["total"] for counts in known)
    cells = [_share_cell(counts, best if len(known) > 1 else None) for counts in found]
    kind = family.partition("/")[2]
    total = f"{known[-1]['total']:,} questions"
    head = Cell(kind, total) if kind else Cell(family, total) if family else Cell(task, f"all, {total}", strong=True)
    return Row([head, *cells, _baseline_cell(known[-1])], inset=bool(kind))


def _share_cell(counts: dict[str, Any] | None, best: float | None) -> Cell:
    if not counts:
        return MISSING
    share = counts["correct"] / counts["total"]
    return Cell(percent(share), interval(counts["low"], counts["high"]), strong=share == best)


def baseline(counts: dict[str, Any]) -> tuple[int, bool] | None:
    """(right answers, is it the shortcut) of the stronger baseline, or None."""
    known = [(counts[key], key == "shortcut") for key in ("majority", "shortcut") if counts.get(key) is not None]
    return max(known) if known else None


def _baseline_cell(counts: dict[str, Any]) -> Cell:
    found = baseline(counts)
    return MISSING if found is None else Cell(percent(found[0] / counts["total"]) + (" *" if found[1] else ""))


def _pictures(run: RunRecord, scores: dict[str, Scores]) -> list[Block]:
    """One picture for each task of the last graded stage: its families, without their kinds."""
    last = next((stage for stage in reversed(run.stages) if scores[stage.name]), None)
    if last is None:
        return []
    blocks: list[Block] = []
    for task in dict.fromkeys(task for task, _ in scores[last.name]):
        items = [
            _share(family, counts)
            for (name, family), counts in scores[last.name].items()
            if name == task and family and "/" not in family
        ]
        if len(items) > 1:
            title = f"{task}, after {TITLES[last.name]}"
            blocks.append(Shares(f"{title}: dot and line are share and 95 % interval, the bar is the baseline", items))
    return blocks


def _share(family: str, counts: dict[str, Any]) -> Share:
    found, total = baseline(counts), counts["total"]
    return Share(family, counts["correct"] / total, counts["low"], counts["high"], found[0] / total if found else None)


def _changes(run: RunRecord, scores: dict[str, Scores]) -> list[Block]:
    """What the last graded stage changed against the graded one before it, family by family."""
    graded = [stage.name for stage in run.stages if scores[stage.name]]
    if len(graded) < 2:
        return []
    before, after = graded[-2:]
    rows = []
    for key, counts in scores[after].items():
        old = scores[before].get(key)
        if old and "/" not in key[1]:
            was, now = (old["correct"], old["total"]), (counts["correct"], counts["total"])
            change, low, high = (100 * value for value in difference(was, now))
            name = Cell(key[1]) if key[1] else Cell(key[0], strong=True)
            verdict = "sure" if low > 0 or high < 0 else "within chance"
            cells = [Cell(f"{c} of {n}") for c, n in (was, now)]
            rows.append(Row([name, *cells, Cell(f"{change:+.1f}", f"{low:+.1f} to {high:+.1f}"), Cell(verdict)]))
    if not rows:
        return []
    table = Table(["", TITLES[before], TITLES[after], "points", "verdict"], rows)
    text = "Points gained or lost with the 95 % interval of the difference, taking the two as independent samples."
    return [Folded(f"What {TITLES[after]} changed against {TITLES[before]}", [Paragraph(text), table])]


# ---- work ------------------------------------------------------------------------------------------------------------


def work(run: RunRecord) -> Table:
    """Steps, tokens, speed and time of every stage, and how its arithmetic was done."""
    columns = ["", "steps", "tokens", "tokens/s", "time", "arithmetic"]
    return Table(columns, [_work_row(stage) for stage in run.stages], prose=True)


def _work_row(stage: StageRecord) -> Row:
    step, tokens = number(stage.last_step.get("step")), _tokens(stage)
    if step is None:
        step = number(stage.result.get("step"))
    planned = number(stage.last_step.get("num_steps"))
    unfinished = "" if stage.finished or not stage.history else "not finished"
    of = f"of {planned:,.0f}" if planned is not None and step is not None and step < planned else ""
    return Row(
        [
            Cell(TITLES[stage.name], unfinished, strong=True),
            Cell(f"{step:,.0f}", of) if step is not None else MISSING,
            Cell(count(tokens)) if tokens else MISSING,
            Cell(count(stage.tokens_per_s)) if stage.tokens_per_s else MISSING,
            Cell(duration(stage.seconds)) if stage.seconds else MISSING,
            Cell(execution(stage)) if execution(stage) else MISSING,
        ]
    )


def execution(stage: StageRecord) -> str:
    """Precision, attention form and compilation that were really used, in words; empty if not recorded."""
    told = stage.execution or stage.checkpoint.get("execution")
    if not isinstance(told, dict) or not told.get("dtype"):
        return ""
    compiled = "compiled" if told.get("compile") else "not compiled"
    return f"{told['dtype']}, {told.get('attention', '?')} attention, {compiled}"
