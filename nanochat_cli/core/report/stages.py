"""The figures of a report: tiles on top, the table of stages against metrics, and what the work took."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core.report import core_rows
from nanochat_cli.core.report.blocks import Block, Cell, Row, Table, Tiles
from nanochat_cli.core.report.gather import TITLES, Curve, RunRecord, StageRecord, number, smoothed
from nanochat_cli.core.report.scores import BASELINES, MISSING, Scores, columns, details, main_rows, practice, tasks_of
from nanochat_cli.core.report.text import count, duration, percent

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
        scores = [task["all"] for task in tasks_of(stage) if task.get("held_out") and task["all"].get("total")]
        if scores:
            return stage.name, {key: sum(score[key] for score in scores) for key in ("correct", "total")}
    return None


def _best_bpb(run: RunRecord) -> tuple[str, float] | None:
    """The base model's value where there is one: later stages learn chats and may forget some plain text."""
    found = [(stage.name, value) for stage in run.stages if (value := text_bpb(stage)) is not None]
    return found[0] if found else None


def text_bpb(stage: StageRecord) -> float | None:
    """Bits per byte of the corpus's validation text: as evaluated afterwards, else as base training last measured."""
    graded = stage.evaluation.get("bpb")
    val = graded.get("val") if isinstance(graded, dict) else None
    after = number(val.get("bpb")) if isinstance(val, dict) else None
    return after if after is not None or stage.name != "base" else _last(stage.measured("val_bpb"))


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
    scores = Scores(run)
    rows = [row for row in (_text_row(run), _chat_row(run), _loss_row(run)) if row is not None]
    rows += core_rows.rows(run) + main_rows(scores)
    if not rows:
        return []
    table = Table(columns(scores.stages), rows, BASELINES if scores.tasks else "")
    return [
        table,
        *core_rows.details(run),
        *details(scores),
        *(block for stage in run.stages for block in practice(stage)),
    ]


def _text_row(run: RunRecord) -> Row | None:
    return _figures(
        run, "bits per byte of text", "validation, lower is better", [text_bpb(stage) for stage in run.stages]
    )


def _chat_row(run: RunRecord) -> Row | None:
    """Chat stages validate on held-out chats: another text, so another row."""
    values = [_last(stage.measured("val_bpb")) if stage.name != "base" else None for stage in run.stages]
    return _figures(run, "bits per byte of chats", "held-out chats, lower is better", values)


def _loss_row(run: RunRecord) -> Row | None:
    curves = [stage.curve("loss") if stage.curve("raw_loss") else smoothed(stage.curve("loss")) for stage in run.stages]
    return _figures(run, "training loss at the end", "nats per trained token", [_last(curve) for curve in curves])


def _figures(run: RunRecord, name: str, remark: str, values: list[float | None]) -> Row | None:
    """A row of plain figures, or None if there is none."""
    if not any(value is not None for value in values):
        return None
    return Row([Cell(name, remark), *(Cell(f"{v:.4f}") if v is not None else MISSING for v in values), MISSING])


def _last(curve: Curve) -> float | None:
    return curve[-1][1] if curve else None


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
            Cell(execution(stage), _promise(stage)) if execution(stage) else MISSING,
        ]
    )


def _promise(stage: StageRecord) -> str:
    """What the stage promises about repeating itself; empty if not recorded."""
    told = stage.checkpoint.get("determinism")
    return f"determinism {told.get('level')}: {told.get('says')}" if isinstance(told, dict) else ""


def execution(stage: StageRecord) -> str:
    """Precision, attention kernel and compilation that were really used, in words; empty if not recorded."""
    told = stage.execution or stage.checkpoint.get("execution")
    if not isinstance(told, dict) or not told.get("dtype"):
        return ""
    why = f" ({told['eager_because']})" if told.get("eager_because") else ""
    compiled = "compiled" if told.get("compile") else f"not compiled{why}"
    narrow = " with FP8" if told.get("fp8") else ""
    kernel = f" ({told['kernel']})" if told.get("kernel") else ""
    return f"{told['dtype']}{narrow}, {told.get('attention', '?')} attention{kernel}, {compiled}"
