"""`nanochat run RECIPE`: the stages of a recipe, from the first one that is not done."""

from typing import Annotated

import typer

from nanochat_cli.commands._options import App, DryRunOpt, leaf
from nanochat_cli.commands.demo import follow, show_plan
from nanochat_cli.core import pipeline
from nanochat_cli.output import Output

app = App("Run the stages of a recipe, from the first one that is not done.", single=True)


def _complete(incomplete: str) -> list[str]:
    return [name for name in pipeline.recipe_names() if name.startswith(incomplete)]


@app.command()
@leaf
def run(
    out: Output,
    recipe: Annotated[str, typer.Argument(help="Recipe name or TOML file.", autocompletion=_complete)],
    run: Annotated[str | None, typer.Option("--run", "-g", help="Name of the run (default: as the recipe).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of data, weights and order.", min=0)] = 0,
    minutes: Annotated[float | None, typer.Option(help="Scale the step counts to this time.", min=0.1)] = None,
    first: Annotated[str | None, typer.Option("--from", help="First stage to run.")] = None,
    last: Annotated[str | None, typer.Option("--until", help="Last stage to run.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Stage to leave out; repeatable.")] = None,
    dry_run: DryRunOpt = False,
) -> None:
    """Run every stage of a recipe that is not done yet; run it again after an interruption and it goes on."""
    chosen = pipeline.load(recipe, run=run, seed=seed, minutes=minutes)
    chosen = pipeline.select(chosen, first=first, last=last, skip=tuple(skip or ()))
    if dry_run:
        show_plan(chosen, out)
        return
    outcome = follow(chosen, out)
    if out.json_mode:
        out.json({"run": chosen.run, "stages": outcome})
