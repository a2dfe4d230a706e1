"""What a person types to name a model: RUN, RUN/STAGE, RUN/STAGE/STEP or a tag."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat_cli.core import paths, run_tags, runs, unsafe
from nanochat_cli.core.errors import ConfigError, MissingArtifact


@dataclass(frozen=True)
class Ref:
    """A run, or one stage of it, or one checkpoint."""

    run: str
    stage: str | None = None
    step: int | None = None
    left: str | None = None
    """The folder of a checkpoint that training was taken back from; its step is None, it is none of the stage's."""

    def __str__(self) -> str:
        return "/".join(str(part) for part in (self.run, self.stage, self.step, self.left) if part is not None)


def resolve(text: str, *, left: bool = False) -> Ref:
    """Return what a name means. Raises ConfigError or MissingArtifact that lists what it could have meant.

    `left` also takes the folder name of a checkpoint that training was taken back from (`stepdirs.leave`).
    """
    if not (paths.is_name(text) and paths.run_dir(text).is_dir()):
        unsafe.refuse_as_name(text)
    parts = text.split("/")
    if text.startswith(("/", ".", "~")):
        raise ConfigError(f"not a run name: {text!r}", hint="give a run's name, not its path: nanochat runs ls")
    paths.check_name("run", parts[0])
    if len(parts) == 1:
        return _run_or_tag(text)
    if len(parts) > 3:
        raise ConfigError(f"not the name of a run or checkpoint: {text}", hint="write RUN, RUN/STAGE or RUN/STAGE/STEP")
    run = _run(parts[0])
    stage = _stage(run, parts[1])
    if left and len(parts) == 3 and parts[2] in [path.name for path in runs.left_steps(runs.stage_dir(run, stage))]:
        return Ref(run, stage, left=parts[2])
    return Ref(run, stage, _step(run, stage, parts[2]) if len(parts) == 3 else None)


def _run_or_tag(text: str) -> Ref:
    tags, is_run = run_tags.find(text), paths.run_dir(text).is_dir()
    if len(tags) + is_run > 1:
        means = ", ".join([*([f"run {text}"] if is_run else []), *(f"tag of {tag.target}" for tag in tags)])
        stages = runs.stages_with_model(text) if is_run else []
        first = f"{text}/{stages[-1]}" if stages else tags[0].target
        raise ConfigError(f"{text} has more than one meaning: {means}", hint=f"write the whole name, such as {first}")
    if is_run or not tags:
        return Ref(_run(text))
    if why := tags[0].dangling:
        raise MissingArtifact(
            f"tag {text} points at nothing, {why}: {tags[0].target}", hint=f"nanochat runs tag --delete {text}"
        )
    return Ref(tags[0].run, tags[0].stage, tags[0].step)


def _run(name: str) -> str:
    if paths.run_dir(name).is_dir():
        return name
    raise runs.unknown("run", name, [*runs.all_runs(), *(tag.name for tag in run_tags.all_tags())])


def _stage(run: str, name: str) -> str:
    if name in runs.STAGES and runs.stage_dir(run, name).is_dir():
        return name
    raise runs.unknown("stage", name, [s for s in runs.STAGES if runs.stage_dir(run, s).is_dir()])


def _step(run: str, stage: str, text: str) -> int:
    steps = runs.checkpoint_steps(runs.stage_dir(run, stage))
    match = runs.STEP_DIR.fullmatch(text)
    if text == "latest" and steps:
        return steps[-1]
    digits = match[1] if match else text
    if digits.isdigit() and int(digits) in steps:
        return int(digits)
    nearest = f"nearest: {min(steps, key=lambda s: abs(s - int(digits)))}; " if steps and digits.isdigit() else ""
    raise MissingArtifact(
        f"{run}/{stage} has no checkpoint of step: {text}",
        hint=f"{nearest}saved steps: {', '.join(map(str, steps)) or 'none'}",
    )


def locate(
    run: str | None, source: str | None, step: int | None = None, *, before: str | None = None
) -> tuple[str, str, int | None]:
    """Return (run, stage, step) of the model to use; a step of None is the newest.

    `run` may be any name that `resolve` knows; None takes the most recently trained run. Raises as `resolve`, and
    ConfigError if the name says otherwise than `source` or `step`.
    """
    if run is None:
        return *runs.find_source(None, source, before=before), step
    ref = resolve(run)
    for option, asked, named in (("--source", source, ref.stage), ("--step", step, ref.step)):
        if None not in (asked, named) and asked != named:
            raise ConfigError(
                f"{run} and {option} name two different checkpoints: {asked}", hint="leave one of them out"
            )
    name, stage = runs.find_source(ref.run, source or ref.stage, before=before)
    return name, stage, ref.step if step is None else step
