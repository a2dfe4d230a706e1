"""`nanochat runs ls | show | diff | tag | rm | repair`: what was trained, how far it came, and what lies where."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from nanochat_cli.commands import _runs_views as views
from nanochat_cli.commands._options import App, DryRunOpt, YesOpt, leaf
from nanochat_cli.commands.report import find_run
from nanochat_cli.core import paths, run_details, run_names, run_state, run_tags, runs
from nanochat_cli.core.errors import ConfigError, NanochatError
from nanochat_cli.core.run_names import Ref
from nanochat_cli.output import Output, size

app = App("Runs and their checkpoints.")
_NAME = "RUN, RUN/STAGE, RUN/STAGE/STEP or a tag"
_FORCE = typer.Option("--force", help="Also what is tagged, or what other stages were started from.")


@app.callback()
def _group() -> None:
    """Runs and their checkpoints."""


@app.command("ls")
@leaf
def ls(out: Output) -> None:
    """List all runs with their stages, the most recently trained first."""
    stages = run_state.describe_all()
    if out.json_mode:
        out.json([asdict(info) | {"status": info.status} for info in stages])
    elif stages:
        views.table(stages, out)
        views.tell_dangling([tag for run in dict.fromkeys(i.run for i in stages) for tag in run_tags.of_run(run)], out)
    else:
        out.note("no run yet")
        out.hint("`nanochat demo` trains a small model in minutes")


@app.command("show")
@leaf
def show(
    out: Output,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[RUN[/STAGE]]", help="Run or stage to show (automatic: the most recent run)."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read every checkpoint and check all its hashes.")] = False,
) -> None:
    """Show one run: stages, checkpoints, where it came from, why it ended, and what differs from the defaults."""
    ref = Ref(find_run(None).name) if name is None else run_names.resolve(name)
    details = run_details.of_run(ref.run, ref.stage)
    if verify:
        _verify(details, out)
    if out.json_mode:
        out.json(details)
    else:
        views.run(details, [i for i in run_state.describe_run(ref.run) if ref.stage in (None, i.stage)], out)
    if verify and any(c["damage"] for stage in details["stages"] for c in stage["checkpoints"]):
        raise NanochatError(f"damaged checkpoints in run: {ref.run}", hint=f"nanochat runs repair {ref.run}")


def _verify(details: dict[str, list[dict[str, list[dict[str, object]]]]], out: Output) -> None:
    """Add to each checkpoint what is wrong with it, None if nothing is."""
    from nanochat_cli.core import stepdirs

    for stage in details["stages"]:
        for saved in stage["checkpoints"]:
            path = stepdirs.step_dir(runs.stage_dir(str(stage["run"]), str(stage["stage"])), int(str(saved["step"])))
            if out.verbose:
                out.note(f"reading {path}")
            try:
                stepdirs.verify(path)
                saved["damage"] = None
            except NanochatError as problem:
                saved["damage"] = str(problem)


@app.command("diff")
@leaf
def diff(
    out: Output,
    left: Annotated[str, typer.Argument(metavar="A", help=f"{_NAME}.")],
    right: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
) -> None:
    """Compare two runs, stages or checkpoints: settings that differ, what they were made with, and the results."""
    from nanochat_cli.core import run_diff

    found = run_diff.compare(run_names.resolve(left), run_names.resolve(right))
    if out.json_mode:
        out.json(views.diff_tree(found))
    else:
        views.diff(found, out)


@app.command("tag")
@leaf
def tag(
    out: Output,
    target: Annotated[
        str | None, typer.Argument(metavar="[RUN[/STAGE[/STEP]]]", help="Checkpoint to name (its newest, if open).")
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The name to give it.")] = None,
    delete: Annotated[str | None, typer.Option("--delete", metavar="NAME", help="Delete this tag.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Take the name from another checkpoint.")] = False,
) -> None:
    """Give a checkpoint a name, which works wherever a run is named and keeps it from being deleted.

    Without arguments, list all tags.
    """
    if delete is not None:
        if target is not None:
            raise ConfigError(f"--delete takes a tag and nothing else: {target}")
        for old in run_tags.delete(delete):
            out.note(f"tag {old.name} of {old.target} deleted")
    elif target is None:
        views.tags(run_tags.all_tags(), out)
    elif name is None:
        raise ConfigError(f"which name is it to have: {target}", hint=f"nanochat runs tag {target} NAME")
    else:
        run, stage, step = run_names.locate(target, None)
        if step is None:
            step = runs.checkpoint_steps(runs.stage_dir(run, stage))[-1]
        made = run_tags.add(name, run, stage, step, move=force)
        out.result({"tag": made.name, "checkpoint": made.target})


@app.command("rm")
@leaf
def rm(
    out: Output,
    names: Annotated[list[str], typer.Argument(metavar="RUN[/STAGE[/STEP]]...", help="What to delete.")],
    force: Annotated[bool, _FORCE] = False,
    yes: YesOpt = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Delete runs, stages or checkpoints, after showing what that frees."""
    from nanochat_cli.core import run_removal

    doomed = run_removal.plan([_to_delete(name) for name in names], force=force)
    if not dry_run:
        run_removal.sweep()
    shown = [{"name": str(d.ref), "path": str(d.path), "bytes": d.size_bytes} for d in doomed]
    total = sum(item.size_bytes for item in doomed)
    if not out.json_mode:
        out.table(("delete", "frees", "folder"), [(s["name"], size(float(str(s["bytes"]))), s["path"]) for s in shown])
    if not dry_run:
        if not yes:
            _ask(f"Delete {'all of it' if len(doomed) > 1 else doomed[0].ref} ({size(total)})?")
        for item in doomed:
            run_removal.carry_out(item)
    if out.json_mode:
        out.json({"deleted": [] if dry_run else shown, "would_delete": shown if dry_run else [], "bytes": total})
    else:
        out.note(f"{'would free' if dry_run else 'freed'} {size(total)}")


def _to_delete(name: str) -> Ref:
    """A tag is no name for something to delete: its checkpoint is, and is protected by it."""
    ref = run_names.resolve(name, left=True)
    if "/" not in name and ref.run != name:
        raise ConfigError(
            f"a tag is deleted with: nanochat runs tag --delete {name}", hint=f"its checkpoint is called {ref}"
        )
    return ref


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to be asked whether to delete", hint="-y deletes without asking")
    typer.confirm(question, abort=True, err=True)


@app.command("repair")
@leaf
def repair(
    out: Output,
    name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Run to repair (automatic: all of them).")] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete damaged checkpoints instead of renaming them.")
    ] = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Verify every checkpoint, put damaged ones aside, and clear away what killed processes have left.

    Fails if something is left that only a person can decide.
    """
    from nanochat_cli.core import run_removal, run_repair

    if not dry_run:
        run_removal.sweep()
    names = run_repair.repairable() if name is None else [paths.check_name("run", name)]
    if name is not None and not paths.run_dir(name).is_dir():
        run_names.resolve(name)
    found = [finding for run in names for finding in run_repair.repair(run, dry_run=dry_run, delete=delete)]
    views.findings(found, names, out, dry_run=dry_run)
    if left := [finding for finding in found if not finding.repaired]:
        raise NanochatError(
            f"cannot be repaired: {left[0].path}: {left[0].problem}"
            + (f" (and {len(left) - 1} more)" if len(left) > 1 else ""),
            hint=left[0].action if left[0].action != "left alone" else None,
        )
