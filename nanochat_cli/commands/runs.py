"""`nanochat runs ls | show`: what was trained, how far it came, and where it lies."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from nanochat_cli.commands._options import App, leaf
from nanochat_cli.commands.report import find_run
from nanochat_cli.core import config, files, runs
from nanochat_cli.core.settings import WORKER_CONFIGS
from nanochat_cli.output import Output, size

app = App("Runs and their checkpoints.")


@app.callback()
def _group() -> None:
    """Runs and their checkpoints."""


@app.command("ls")
@leaf
def ls(out: Output) -> None:
    """List all runs with their stages, the most recent first."""
    stages = [info for run in runs.all_runs() for info in _stages(run)]
    if out.json_mode:
        out.json([asdict(info) for info in stages])
    elif stages:
        _table(stages, out)
    else:
        out.note("no run yet")
        out.hint("`nanochat demo` trains a small model in minutes")


@app.command("show")
@leaf
def show(
    out: Output, run: Annotated[str | None, typer.Argument(help="Run to show (automatic: the most recent).")] = None
) -> None:
    """Show one run: its stages, checkpoints, results and the settings that differ from the defaults."""
    folder = find_run(run)
    stages = _stages(folder.name)
    details = {info.stage: _details(folder.name, info.stage) for info in stages}
    if out.json_mode:
        shown = [asdict(info) | details[info.stage] for info in stages]
        out.json({"run": folder.name, "dir": str(folder), "stages": shown})
        return
    out.text(f"{folder.name}: {folder}")
    _table(stages, out)
    for stage, facts in details.items():
        changed = ", ".join(f"{path}={value}" for path, value in facts["settings"].items()) or "all at their defaults"
        steps = ", ".join(map(str, facts["checkpoints"])) or "none"
        out.text(f"\n{stage}\n  started with  {facts['command']}\n  checkpoints   {steps}\n  settings      {changed}")


def _stages(run: str) -> list[runs.StageInfo]:
    return [info for stage in runs.STAGES if (info := runs.describe_stage(run, stage)) is not None]


def _table(stages: list[runs.StageInfo], out: Output) -> None:
    rows = [
        (
            info.run,
            info.stage,
            "-" if info.step is None else f"{info.step:,}" + (f"/{info.num_steps:,}" if info.num_steps else ""),
            info.val_bpb,
            info.status,
            size(info.size_bytes),
            datetime.fromtimestamp(info.updated).strftime("%Y-%m-%d %H:%M"),
        )
        for info in stages
    ]
    out.table(("run", "stage", "step", "val bpb", "status", "size", "updated"), rows)


def _details(run: str, stage: str) -> dict[str, Any]:
    """How a stage was started, what it saved, and which settings were not left at their defaults."""
    folder = runs.stage_dir(run, stage)
    saved = files.read_json(folder / "config.json", "the stage's config")
    values = config.flatten(saved.get("config", {}), "config.json")
    defaults = config.flatten(config.to_dict(WORKER_CONFIGS[stage]()), "defaults")
    return {
        "command": saved.get("command", ""),
        "checkpoints": runs.checkpoint_steps(folder),
        "settings": {path: value for path, value in values.items() if value != defaults.get(path)},
        "result": runs.result(folder) if runs.is_finished(folder) else None,
    }
