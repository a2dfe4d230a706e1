"""`nanochat eval [all | bpb | chat]`: measures a checkpoint and shows how it did."""

from typing import Annotated, Any, cast

import typer

from nanochat_cli.commands._options import App, DryRunOpt, leaf, options_from
from nanochat_cli.core import launch, planning, run_state, runs
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.settings import EvalConfig, SourceSection
from nanochat_cli.core.units import ago
from nanochat_cli.output import Output

app = App("Measure a model: bits per byte and held-out questions.", single=True)
_PARTS = {"all": "everything that fits the model", "bpb": "bits per byte of text", "chat": "held-out questions"}
_WHAT = typer.Argument(
    help="; ".join(f"{name}: {text}" for name, text in _PARTS.items()),
    metavar="[all|bpb|chat]",
    autocompletion=lambda incomplete: [name for name in _PARTS if name.startswith(incomplete)],
)


@app.command("eval")
@leaf
@options_from(EvalConfig, "eval")
def evaluate(
    cfg: EvalConfig, out: Output, what: Annotated[str | None, _WHAT] = None, dry_run: DryRunOpt = False
) -> None:
    """Measure a checkpoint: how well it compresses text, and how many held-out questions it answers.

    Counts, 95 % intervals and baselines are stored in the run's eval folder, with every single reply beside them.
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
    where = f"run {job.run}, stage {source.source}, step {source.step:,}, saved {ago(_saved_at(job.run, source))}"
    if dry_run:
        argv = job.argv
        if out.json_mode:
            out.json({"run": job.run, "stage": source.source, "step": source.step, "worker": argv})
        else:
            out.text(f"would evaluate {where} and write {job.dir / f'{source.source}.json'}")
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
        title = f"\n{task['task']}, {task['split']} (at most {task['limit']} questions a family)"
        out.table(("family", "right", "of", "%", "95 %", "majority %", "shortcut %", "stops %"), rows, title=title)
    out.note(f"written: {outcome['file']}")


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
