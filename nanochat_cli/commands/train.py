"""`nanochat train base | mid | sft | rl`: resolve the config, start the worker, show how it goes."""

import dataclasses
import shlex
from typing import Annotated, Any

import typer

from nanochat_cli.commands import _mixture_view
from nanochat_cli.commands._options import App, DryRunOpt, leaf, options_from
from nanochat_cli.commands._sizes import show_derived
from nanochat_cli.core import config, launch, placement, plan, planning, runs, supervise
from nanochat_cli.core.errors import ConfigError, MissingArtifact
from nanochat_cli.core.settings import BaseTrainConfig, MidTrainConfig, RlConfig, SftConfig
from nanochat_cli.output import Output

app = App("Train a model: base, mid, sft, rl.")

ResumeOpt = Annotated[
    str | None,
    typer.Option(
        "--resume",
        help="Go on from the newest good checkpoint of this run and stage, or from this step; auto: or start it.",
        metavar="[auto|STEP]",
        rich_help_panel="Common",
    ),
]
TakeoverOpt = Annotated[
    bool,
    typer.Option(
        "--takeover",
        help="Work in a run that a machine which is gone for good still seems to hold.",
        rich_help_panel="Common",
    ),
]


@app.command("base")
@leaf
@options_from(BaseTrainConfig, "train base")
def base(
    cfg: BaseTrainConfig,
    out: Output,
    resolved: config.Resolved[BaseTrainConfig],
    resume: ResumeOpt = None,
    takeover: TakeoverOpt = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Pretrain a model on a corpus: it learns to guess each next token."""
    run_stage("base", cfg, out, resolved.typed, resume=resume, takeover=takeover, dry_run=dry_run)


@app.command("mid")
@leaf
@options_from(MidTrainConfig, "train mid")
def mid(
    cfg: MidTrainConfig,
    out: Output,
    resolved: config.Resolved[MidTrainConfig],
    resume: ResumeOpt = None,
    takeover: TakeoverOpt = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Teach a base model the form of a conversation: every token of the chats is a target."""
    run_stage("mid", cfg, out, resolved.typed, resume=resume, takeover=takeover, dry_run=dry_run)


@app.command("sft")
@leaf
@options_from(SftConfig, "train sft")
def sft(
    cfg: SftConfig,
    out: Output,
    resolved: config.Resolved[SftConfig],
    resume: ResumeOpt = None,
    takeover: TakeoverOpt = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Fine-tune on conversations: only the assistant's tokens are targets."""
    run_stage("sft", cfg, out, resolved.typed, resume=resume, takeover=takeover, dry_run=dry_run)


@app.command("rl")
@leaf
@options_from(RlConfig, "train rl")
def rl(
    cfg: RlConfig,
    out: Output,
    resolved: config.Resolved[RlConfig],
    resume: ResumeOpt = None,
    takeover: TakeoverOpt = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Reinforce right answers on a task whose answers can be checked."""
    run_stage("rl", cfg, out, resolved.typed, resume=resume, takeover=takeover, dry_run=dry_run)


def run_stage(
    stage: str,
    cfg: Any,
    out: Output,
    typed: frozenset[str] = frozenset(),
    *,
    resume: str | None = None,
    takeover: bool = False,
    dry_run: bool = False,
    command: str | None = None,
) -> dict[str, Any] | None:
    """Plan one training stage, run it and show the result; return the result, or None after a dry run."""
    job = _planned(stage, cfg, resume, typed, command)
    resuming = job.resume
    job = dataclasses.replace(job, takeover=takeover)
    if stage == "base" and not resuming:
        plan.refuse_what_cannot_fit(job.config, cfg)
        if job.place.leads and (text := plan.slow_steps(job.config)):
            out.warning(text)
    if dry_run:
        show_plan(job, out)
        return None
    if stage != "base" and not resuming:
        from nanochat_cli.core.train import mixture

        mixture.check(job.config.chats.task)  # what is missing should be told before a model is loaded
    if resuming and job.resume_step is None and runs.is_finished(job.dir):
        if not job.place.leads:
            return None
        out.note(f"stage {stage} of run {job.run} is finished already")
        outcome = runs.result(job.dir)
    else:
        if job.place.leads:
            out.note(f"run {job.run}, stage {stage}: {job.dir}")
        with out.watch() as watcher:
            run = supervise.run if job.config.guard.supervise else launch.run
            outcome = run(job, watcher.on_event)
        if not job.place.leads:  # the command that leads shows the result
            return None
        outcome.pop("asked_to_stop", None)
    if "stopped" in outcome:
        out.hint(f"nanochat train {stage} --run {job.run} --resume")
    shown = {key: value for key, value in outcome.items() if out.json_mode or not isinstance(value, dict | list)}
    out.result({"run": job.run, "stage": stage, **shown})
    if "stopped" not in outcome:
        out.hint(NEXT[stage].format(run=job.run))
    return outcome


def _planned(stage: str, cfg: Any, resume: str | None, typed: frozenset[str], command: str | None) -> launch.Plan:
    """The plan of a stage; with `--resume auto` of its resume if it was started before, else of its start."""
    step = _step_to_resume(resume)
    if resume == "auto":
        try:
            return planning.make(stage, cfg, resume=True, typed=typed, command=command)
        except MissingArtifact:
            resume = None
    return planning.make(stage, cfg, resume=resume is not None, resume_step=step, typed=typed, command=command)


def _step_to_resume(text: str | None) -> int | None:
    """The step behind `--resume`; None for the newest."""
    if text is None or text in ("auto", "newest"):
        return None
    if not text.isdigit():
        raise ConfigError(f"--resume takes a step, or auto: {text}", hint="runs show RUN lists the steps")
    return int(text)


NEXT = {
    "base": "teach it to chat: nanochat train sft --run {run} --data CHATS.json, or --task NAME",
    "mid": "nanochat train sft --run {run}",
    "sft": "nanochat chat --run {run}",
    "rl": "nanochat chat --run {run}",
}
"""What one does after a stage."""


def show_plan(job: launch.Plan, out: Output) -> None:
    """Show what a stage would do: where it writes, what follows from its sizes, what differs from the defaults, and

    the workers' command line.
    """
    values = config.to_dict(job.config)
    argv = job.argv
    derived = plan.derived(job.config) if job.stage == "base" else None
    chats = _mixture_view.of(job) if job.stage in ("mid", "sft") else None
    if out.json_mode:
        found = {"run": job.run, "stage": job.stage, "dir": str(job.dir), "config": values, "worker": argv}
        more = {"derived": derived, "mixture": chats}
        out.json(found | {name: value for name, value in more.items() if value is not None})
        return
    out.text(f"would run stage {job.stage} of run {job.run} in {job.dir}")
    if derived is not None:
        show_derived(derived, placement.world(job.config), out)
    if chats is not None:
        _mixture_view.show(chats, out)
    rows = [(path, value) for path, value in config.changed(job.config).items()]
    out.table(("option", "value that differs from the default"), rows)
    out.text(f"worker: {shlex.join(argv)}")
