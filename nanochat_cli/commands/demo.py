"""`nanochat demo`: a small model from nothing, offline, in minutes; then a conversation with it."""

import enum
import shlex
import sys
from typing import Annotated, Any

import typer

from nanochat_cli.commands._options import App, DryRunOpt, leaf
from nanochat_cli.core import files, paths, pipeline, runs
from nanochat_cli.output import Output, typed

app = App("Train a small model from nothing, offline, and talk to it.", single=True)

QUESTIONS = (
    "hello",
    "what is 27 + 45?",
    "how do you spell carrot?",
    "how many r are in carrot?",
    "what sound does a cow make?",
    "Anna has a lamp. Anna gives the lamp to Ben. who has the lamp?",
)


class Tier(enum.StrEnum):
    """How much of a demo."""

    smoke = "smoke"
    demo = "demo"


@app.command()
@leaf
def demo(
    out: Output,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Scale the training to about this time (automatic: 8, but not fewer steps than a model needs).",
            min=0.1,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of data, weights and order; each seed is a run of its own.", min=0)
    ] = 0,
    tier: Annotated[Tier, typer.Option(help="smoke: the same stages in a minute, to see that all works.")] = Tier.demo,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Talk to the model at the end (default: on a terminal).")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", "-g", help="Name of the run (default: demo).")] = None,
    dry_run: DryRunOpt = False,
) -> None:
    """Make a corpus, train a tokenizer and a model, teach it to chat, measure it, and talk to it. No network, no GPU.

    Run it again after Ctrl-C, a crash or a power cut: it goes on with the first stage that is not finished.
    """
    name = "demo" if tier is Tier.demo else f"demo-{tier}"
    recipe = pipeline.load(name, run=run, seed=seed, minutes=minutes)
    if dry_run:
        show_plan(recipe, out)
        return
    outcome = follow(recipe, out)
    if "stopped" in outcome:
        return
    summary = _summary(recipe.run)
    exchanges = _exchanges(recipe.run, out)
    if out.json_mode:
        out.json({**summary, "exchanges": exchanges, "stages": outcome})
        return
    _show(summary, exchanges, recipe, out)
    if chat if chat is not None else sys.stdin.isatty() and Output.on_terminal(sys.stdout):
        from nanochat_cli.commands.chat import talk

        talk(recipe.run, out)


def show_plan(recipe: pipeline.Recipe, out: Output) -> None:
    """Show the stages of a recipe, which are done, and the command each one stands for."""
    out.table(("stage", "state", "command"), list(pipeline.plan_rows(recipe)), title=recipe.about)


def follow(recipe: pipeline.Recipe, out: Output) -> dict[str, Any]:
    """Run a recipe while drawing it, and return what its stages reported."""
    out.note(f"{recipe.name}: {recipe.about}")
    out.note(f"everything goes to {paths.base_dir()}, run {recipe.run}; after an interruption the same command goes on")
    again = f"go on with: {shlex.join(['nanochat', *sys.argv[1:]])}"
    try:
        with out.watch() as watcher:
            outcome = pipeline.run(recipe, watcher.on_event)
    except KeyboardInterrupt:
        out.hint(again)
        raise
    if "stopped" in outcome:
        out.hint(again)
    return outcome


def _summary(run: str) -> dict[str, Any]:
    """Return what the last evaluation found, in the run's own words."""
    folder = runs.stage_dir(run, "eval")
    stage = runs.stages_with_model(run)[-1]
    return {
        "run": run,
        "report": str(paths.run_dir(run) / "report.html"),
        **files.read_json(folder / f"{stage}.json", "the evaluation"),
    }


def _exchanges(run: str, out: Output) -> list[dict[str, str]]:
    """Ask the fresh model a few questions, greedily, and return what was said."""
    from nanochat_cli.core import checkpoint
    from nanochat_cli.core.engine.session import Sampling, Session

    model, tokenizer, meta = checkpoint.load_model(checkpoint.find(run))
    session = Session(model, tokenizer, Sampling(temperature=0.0))
    out.note(f"a few real exchanges with {meta.run}/{meta.stage}, step {meta.step}")
    said = []
    for question in QUESTIONS:
        session.clear()
        said.append({"user": question, "assistant": "".join(session.ask(question))})
    return said


def _show(summary: dict[str, Any], exchanges: list[dict[str, str]], recipe: pipeline.Recipe, out: Output) -> None:
    """Show the figures per family, the exchanges, and where to go on."""
    for task in summary.get("tasks", ()):
        rows = [
            (name, f"{s['correct']} of {s['total']}", f"{s['accuracy']:.0%}", _baseline(s))
            for name, s in task["families"].items()
        ]
        out.table(
            ("family", "right", "", "always the same answer / shortcut"), rows, title=f"{task['task']}, {task['split']}"
        )
        out.text("")
    for exchange in exchanges:
        out.text(f"you        {exchange['user']}\nassistant  {exchange['assistant']}\n")
    out.result({"report": summary["report"], "talk to it": typed(f"nanochat chat --run {recipe.run}")})


def _baseline(score: dict[str, Any]) -> str:
    total = max(1, score["total"])
    shortcut = f" / {score['shortcut'] / total:.0%}" if score.get("shortcut") is not None else ""
    majority = f"{score['majority'] / total:.0%}" if score.get("majority") is not None else "-"
    return f"{majority}{shortcut}"
