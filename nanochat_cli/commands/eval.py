"""`nanochat eval [all | bpb | chat | core | lm-eval]`: measures a checkpoint and shows how it did."""

from typing import Annotated, Any, cast

import typer

from nanochat_cli.commands._options import App, DryRunOpt, leaf, options_from
from nanochat_cli.core import launch, planning, run_state, runs
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.settings import EvalConfig, SourceSection
from nanochat_cli.core.units import ago
from nanochat_cli.output import Output

app = App("Measure a model: bits per byte, held-out questions, the CORE score.", single=True)
_PARTS = {
    "all": "everything that fits the model",
    "bpb": "bits per byte of text",
    "chat": "held-out questions",
    "core": "the CORE score of base models",
    "lm-eval": "tasks of lm-evaluation-harness",
}
_WHAT = typer.Argument(
    help="; ".join(f"{name}: {text}" for name, text in _PARTS.items()),
    metavar="[all|bpb|chat|core|lm-eval]",
    autocompletion=lambda incomplete: [name for name in _PARTS if name.startswith(incomplete)],
)


@app.command("eval")
@leaf
@options_from(EvalConfig, "eval")
def evaluate(
    cfg: EvalConfig, out: Output, what: Annotated[str | None, _WHAT] = None, dry_run: DryRunOpt = False
) -> None:
    """Measure a checkpoint: how well it compresses text, and how many held-out questions it answers.

    Counts, 95 % intervals and baselines are stored in the run's eval folder, with every single reply beside them. What
    was answered before an evaluation was ended is kept: the same command goes on there. Of the same weights, a task
    asked more fully before keeps that result on record.
    """
    if what is not None:
        if what not in _PARTS:
            raise ConfigError(f"no such evaluation: {what}", hint=f"choose one of: {', '.join(_PARTS)}")
        cfg = planning.with_values(cfg, "what", only=what)
    run_eval(cfg, out, dry_run=dry_run)


def run_eval(
    cfg: EvalConfig, out: Output, *, dry_run: bool = False, command: str | None = None
) -> dict[str, Any] | None:
    """Plan an evaluation, run it and show the result; return the result, or None after a dry run."""
    job = planning.make("eval", cfg, command=command)
    source = cast(EvalConfig, job.config).source
    other = cast(EvalConfig, job.config).what.model
    where = f"the transformers model {job.run}"
    if not other:
        where = f"run {job.run}, stage {source.source}, step {source.step:,}, saved {ago(_saved_at(job.run, source))}"
    record_name = "model" if other else source.source
    if dry_run:
        argv = job.argv
        if out.json_mode:
            out.json({"run": job.run, "stage": source.source, "step": source.step, "worker": argv})
        else:
            out.text(f"would evaluate {where} and write {job.dir / f'{record_name}.json'}")
        return None
    if job.place.leads:
        out.note(f"evaluating {where}")
    with out.watch() as watcher:
        outcome = launch.run(job, watcher.on_event)
    if "stopped" in outcome or not job.place.leads:  # the command that leads shows the result
        return outcome
    if out.json_mode:
        out.json(outcome["record"])
    else:
        show(outcome, out)
    return outcome


def _saved_at(run: str, source: SourceSection) -> float | None:
    saved = run_state.checkpoints(runs.stage_dir(run, source.source or ""))
    return next((found.created for found in saved if found.step == source.step), None)


def show(outcome: dict[str, Any], out: Output) -> None:
    """Show bits per byte and one line for each family of questions."""
    record = outcome["record"]
    for split, values in (record.get("bpb") or {}).items():
        out.text(f"{split} text: {values['bpb']:.4f} bits per byte ({values['bytes']:,} bytes)")
    for task in record.get("tasks") or ():
        rows = [_row("all", task["all"])]
        rows += [_row(family, counts) for family, counts in task["families"].items()]
        title = f"\n{task['task']}, {task['split']}{_remarks(task)}"
        out.table(("family", "right", "of", "%", "95 %", "majority %", "shortcut %", "stops %"), rows, title=title)
    if record.get("chat_core"):
        out.text("\n" + score_line(record["chat_core"], "chat_core", record["chat_core"]["label"]))
    if record.get("core"):
        _show_core(record["core"], out)
    if record.get("lm_eval"):
        _show_lm_eval(record["lm_eval"], out)
    out.note(f"written: {outcome['file']}")


def _remarks(task: dict[str, Any]) -> str:
    """What is special about the answers to a task, in brackets."""
    told = [f"at most {task['limit']} questions a {task.get('limit_of', 'family')}"] if task["limit"] else []
    told += [f"{task['too_long']} too long to ask"] if task.get("too_long") else []
    told += [f"{task['cut']} replies cut"] if task.get("cut") else []
    return f" ({', '.join(told)})" if told else ""


def score_line(values: dict[str, Any], key: str, name: str) -> str:
    """A score with its interval and everything that is special about it."""
    return f"{name}: {values[key]:.4f} (95 %: {values['low']:.4f} to {values['high']:.4f})"


def _show_core(core: dict[str, Any], out: Output) -> None:
    """Show the tasks of CORE, then the score by each table of baselines."""
    first = next(iter(core["scores"]))
    rows = []
    for task in core["tasks"]:
        span = f"{100 * task['low']:.1f}-{100 * task['high']:.1f}"
        marks = [f"{task['cropped']} cropped"] if task["cropped"] else []
        marks += [f"{task['unaligned']} unaligned"] if task["unaligned"] else []
        percents = (f"{100 * value:.1f}" for value in (task["accuracy"], task["baselines"][first]))
        share, chance = percents
        centered = f"{task['centered'][first]:.4f}"
        rows.append((task["task"], task["correct"], task["total"], share, span, chance, centered, ", ".join(marks)))
    at_most = f", at most {core['limit']} questions a task" if core["limit"] else ""
    heads = ("task", "right", "of", "%", "95 %", f"chance % {first}", "centered", "remarks")
    out.table(heads, rows, title=f"\nCORE{at_most}")
    for values in core["scores"].values():
        out.text(score_line(values, "core", values["label"]))


def _show_lm_eval(found: dict[str, Any], out: Output) -> None:
    """Show every metric of the harness as it names it."""
    rows = [
        (task, values["questions"] if values["questions"] is not None else "-", metric, f"{value:.4f}")
        for task, values in found["tasks"].items()
        for metric, value in values["metrics"].items()
    ]
    at_most = f", at most {found['limit']} questions a task" if found["limit"] else ""
    for kind, number in (found.get("cropped") or {}).items():
        at_most += f", {number} {kind} with a cropped context"
    out.table(("task", "questions", "metric", "value"), rows, title=f"\n{found['package']}{at_most}")


def _row(family: str, counts: dict[str, Any]) -> tuple[Any, ...]:
    total = counts["total"]

    def percent(number: int | None) -> str:
        return "-" if number is None else f"{100 * number / total:.1f}"

    name = f"  {family.partition('/')[2]}" if "/" in family else family
    span = f"{100 * counts['low']:.1f}-{100 * counts['high']:.1f}"
    return (
        name,
        counts["correct"],
        total,
        percent(counts["correct"]),
        span,
        percent(counts["majority"]),
        percent(counts["shortcut"]),
        percent(counts["well_formed"]),
    )
