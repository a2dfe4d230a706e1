"""`nanochat report`: writes the report card of a run."""

from pathlib import Path
from typing import Annotated

import typer

from nanochat_cli.commands._options import App, DryRunOpt, leaf
from nanochat_cli.core import paths, run_names, runs
from nanochat_cli.core.errors import MissingArtifact
from nanochat_cli.output import Output

app = App("Write a run's report as Markdown and HTML.", single=True)


@app.command("report")
@leaf
def report(
    out: Output,
    run: Annotated[
        str | None, typer.Option("--run", "-g", help="Run to report on (automatic: the most recent).")
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the two files (automatic: the run's own).")
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Print the Markdown instead of where the files are.")] = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Write report.md and report.html: curves, stages, scores, samples, settings and how to repeat it all."""
    from nanochat_cli.core.report.card import write_report

    written = write_report(find_run(run), into, dry_run=dry_run)
    if dry_run:
        out.note("would write these files")
    if show and not dry_run and not out.json_mode:
        out.text(written.markdown.read_text(encoding="utf-8"), end="")
    else:
        out.result({"markdown": str(written.markdown), "html": str(written.html)})


def find_run(name: str | None) -> Path:
    """Return the folder of a run, or of the most recent one. Raises MissingArtifact that says what there is."""
    known = runs.all_runs()
    if name is None:
        if not known:
            raise MissingArtifact("no run yet", hint="`nanochat demo` trains a small model in minutes")
        with_model = (name for name in known if runs.stages_with_model(name))  # others only failed so far
        return paths.run_dir(next(with_model, known[0]))
    return paths.run_dir(run_names.resolve(name).run)
