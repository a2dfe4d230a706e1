"""Recipes: a named list of stages, run one after the other from the first that is not done.

A recipe is a TOML file with a `[[stage]]` table per stage: the command it stands for, what it is for, and the
command's config tables. Everything a stage makes tells by itself whether the stage is done, so a recipe that was
interrupted, however, goes on where it was.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanochat_cli.core import config, events, files, launch, paths, placement, planning, runs
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.settings import COMMAND_CONFIGS, WORKER_CONFIGS, SynthConfig, TokTrainConfig

C = TypeVar("C")
_COMMANDS = (*(command for command in COMMAND_CONFIGS if command not in ("data add", "data synth-chats")), "report")

FULL_MINUTES = 8.0
"""Time that the step counts of a recipe are made for, on a machine of the recipe's `tokens_per_s`."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a recipe. `options` holds the command's config tables."""

    name: str
    command: str
    purpose: str
    options: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe with its names settled: the run, and the corpus and tokenizer that bear the same name."""

    name: str
    about: str
    run: str
    seed: int
    minutes: float | None
    tokens_per_s: float | None
    least_scale: float
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """Return a stage by name. Raises ConfigError that lists the names."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ConfigError(f"no stage in recipe {self.name}: {name}", hint=f"stages: {', '.join(names(self))}")


def names(recipe: Recipe) -> list[str]:
    """Return the names of a recipe's stages in order."""
    return [stage.name for stage in recipe.stages]


def recipe_names() -> list[str]:
    """Return the recipes that come with the package."""
    return sorted(path.stem for path in config.recipes_dir().glob("*.toml"))


def load(name: str, *, run: str | None = None, seed: int = 0, minutes: float | None = None) -> Recipe:
    """Return a recipe by name or path. The run is called as the recipe, with the seed if it is not 0."""
    path = config.find_config_file(name)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read recipe {path}: {problem}") from problem
    if not isinstance(tree.get("stage"), list):
        raise ConfigError(f"not a recipe, it has no [[stage]]: {path}")
    _check_top_level(tree, path)
    stages = tuple(_stage(table, f"{path}, stage {i}") for i, table in enumerate(tree["stage"], start=1))
    return Recipe(
        name=path.stem,
        about=tree.get("about", ""),
        run=paths.check_name("run", run or (path.stem if seed == 0 else f"{path.stem}-s{seed}")),
        seed=seed,
        minutes=minutes,
        tokens_per_s=tree.get("tokens_per_s"),
        least_scale=tree.get("least_scale", 0.0),
        stages=stages,
    )


def _check_top_level(tree: dict[str, Any], path: Path) -> None:
    """Raise ConfigError for a key beside the stages that is unknown or has a value that cannot be."""
    for key, value in tree.items():
        if key not in ("about", "tokens_per_s", "least_scale", "stage"):
            raise ConfigError(f"unknown key in recipe {path}: {key}", hint="known: about, tokens_per_s, least_scale")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (key == "tokens_per_s" and not (number and value > 0)) or (
            key == "least_scale" and not (number and 0 <= value <= 1)
        ):
            raise ConfigError(f"{key} cannot be {value!r} in recipe {path}")


def _stage(table: Any, where: str) -> Stage:
    """Return a stage from its table. Raises ConfigError for a command or key that is unknown, before anything runs."""
    for key in ("name", "command", "purpose"):
        if not isinstance(table, dict) or not isinstance(table.get(key), str):
            raise ConfigError(f"a recipe's stage needs name, command and purpose: {where} has no {key}")
    for key, value in table.items():
        if not isinstance(value, dict) and key not in ("name", "command", "purpose"):
            raise ConfigError(f"unknown key in {where}: {key}", hint="an option belongs into a table of its section")
    command, options = table["command"], {key: value for key, value in table.items() if isinstance(value, dict)}
    if command not in _COMMANDS:
        raise ConfigError(f"unknown command in {where}: {command}", hint=f"choose one of: {', '.join(_COMMANDS)}")
    if command != "report":
        config.from_dict(COMMAND_CONFIGS[command], options, where)
    return Stage(name=table["name"], command=command, purpose=table["purpose"], options=options)


def select(recipe: Recipe, *, first: str | None = None, last: str | None = None, skip: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe with only the stages from `first` to `last` that are not in `skip`."""
    order = names(recipe)
    for name in (first, last, *skip):
        if name is not None:
            recipe.stage(name)
    start = order.index(first) if first else 0
    stop = order.index(last) if last else len(order) - 1
    kept = tuple(s for s in recipe.stages[start : stop + 1] if s.name not in skip)
    return dataclasses.replace(recipe, stages=kept)


# ---- running ---------------------------------------------------------------------------------------------------------


def run(recipe: Recipe, on_event: Callable[[events.Event], None]) -> dict[str, Any]:
    """Run every stage that is not done and return {stage: result}; stops early if asked to (`{"stopped": stage}`)."""
    if not placement.find().alone:
        raise ConfigError(
            f"a recipe runs as one command on one machine, not as several at once: {recipe.name}",
            hint=f"`nanochat run {recipe.name} --dry-run` lists its commands; start those that train on all machines",
        )
    log = events.Listener(on_event)
    outcome: dict[str, Any] = {}
    for stage in recipe.stages:
        if is_done(recipe, stage):
            log.note(f"{stage.name}: done before")
            continue
        try:
            outcome[stage.name] = _run_stage(recipe, stage, log, on_event)
        except _StopAsked:
            return {**outcome, "stopped": stage.name}
        asked = outcome[stage.name].pop("asked_to_stop", False)
        if asked or "stopped" in outcome[stage.name]:  # the stop file may also have been put there by hand
            return {**outcome, "stopped": stage.name}
    return outcome


class _StopAsked(Exception):
    """The user asked to stop during the measurement before a stage."""


def is_done(recipe: Recipe, stage: Stage) -> bool:
    """Return whether what the stage makes is there, whole."""
    match stage.command.split():
        case ["data", "synth"]:
            return (paths.corpus_dir(recipe.run) / "manifest.json").is_file()
        case ["tok", "train"]:
            return (paths.tokenizer_dir(recipe.run) / "tokenizer.json").is_file()
        case ["train", name]:
            return runs.is_finished(runs.stage_dir(recipe.run, name))
        case ["eval"]:
            return _is_graded(recipe.run, stage.options.get("source", {}).get("source", runs.STAGES[-1]))
        case ["report"]:
            return _report_is_newest(paths.run_dir(recipe.run))
        case _:
            raise ConfigError(f"recipe {recipe.name} has an unknown command: {stage.command}")


def _is_graded(run: str, stage: str) -> bool:
    """Whether the last checkpoint of a stage has answered its questions."""
    record = runs.stage_dir(run, "eval") / f"{stage}.json"
    steps = runs.checkpoint_steps(runs.stage_dir(run, stage))
    if not record.is_file() or not steps:
        return False
    found = files.read_json(record, "the evaluation")
    return bool(found.get("tasks")) and found.get("step") == steps[-1]


def _report_is_newest(folder: Path) -> bool:
    page = folder / "report.html"
    graded = max((path.stat().st_mtime for path in (folder / "eval").glob("*.json")), default=0.0)
    return page.is_file() and page.stat().st_mtime >= max(runs.touched(folder), graded)


def equivalent(recipe: Recipe, stage: Stage) -> str:
    """Return the command that does the same as the stage, to type by hand."""
    words = ["nanochat", *stage.command.split()]
    if stage.command == "report":
        return shlex.join([*words, "--run", recipe.run])
    words += ["--config", recipe.name]
    if source := stage.options.get("source", {}).get("source"):
        words += ["--source", source]
    if stage.command in ("data synth", "tok train"):
        words += ["--name", recipe.run]
    else:
        words += ["--run", recipe.run]
    if stage.command == "tok train":
        words += ["--input", recipe.run]
    if stage.command == "train base":
        words += ["--data", recipe.run]
    if recipe.seed and stage.command != "tok train":
        words += ["--seed", str(recipe.seed)]
    return shlex.join(words)


def _run_stage(
    recipe: Recipe, stage: Stage, log: events.Log, on_event: Callable[[events.Event], None]
) -> dict[str, Any]:
    words = stage.command.split()
    if words[0] in ("train", "eval"):
        return _run_worker(recipe, stage, words[-1], on_event)
    log.emit("stage", name=stage.name, purpose=stage.purpose, run=recipe.run)
    if words == ["data", "synth"]:
        from nanochat_cli.core.data import synth

        want = _resolve(SynthConfig, recipe, stage, {"synth.name": recipe.run, "synth.seed": recipe.seed}).synth
        corpus = synth.write(
            want.name,
            documents=want.documents,
            chats=want.chats,
            seed=want.seed,
            val_fraction=want.val_fraction,
            log=log,
        )
        return {"documents": corpus.num_documents("train")}
    if words == ["tok", "train"]:
        from nanochat_cli.core.data import vocabulary

        tok = _resolve(TokTrainConfig, recipe, stage, {}).tok
        plan = vocabulary.plan_of(dataclasses.replace(tok, input=(recipe.run,), name=recipe.run))
        return vocabulary.train(plan, resume=plan.can_resume(), log=log)
    from nanochat_cli.core import report

    return {"report": [str(path) for path in report.write(recipe.run, log=log)]}


def _resolve(cls: type[C], recipe: Recipe, stage: Stage, flags: dict[str, Any]) -> C:
    """Return a stage's config: the recipe's tables, then what the run itself decides; the rest as for any command."""
    own = {f"{section}.{key}": value for section, table in stage.options.items() for key, value in table.items()}
    # The folder one happens to stand in must not change a recipe: no project file; the environment may.
    nowhere = Path(os.devnull)
    return config.resolve(cls, command=stage.command, recipe=own, flags=flags, project_file=nowhere).config


def _run_worker(recipe: Recipe, stage: Stage, name: str, on_event: Callable[[events.Event], None]) -> dict[str, Any]:
    cfg = stage_config(recipe, stage, name)
    command = equivalent(recipe, stage)
    if name in runs.STAGES and (scale := _scale(recipe, on_event)) != 1:
        cfg = _scaled(cfg, name, scale)
        section = cfg.rl if name == "rl" else cfg.horizon
        command += f" --num-iterations {section.num_iterations}" if section.num_iterations else ""
    resume = name in runs.STAGES and bool(runs.checkpoint_steps(runs.stage_dir(recipe.run, name)))
    job = planning.make(name, cfg, resume=resume, command=command)
    return launch.run(job, on_event)


def stage_config(recipe: Recipe, stage: Stage, name: str) -> Any:
    """Return the config of a stage that runs in a worker."""
    flags: dict[str, Any] = {"compute.seed": recipe.seed}
    if name == "base":
        flags |= {"output.run": recipe.run, "corpus.data": recipe.run, "corpus.tokenizer": recipe.run}
    else:
        flags["source.run"] = recipe.run
        if name in runs.STAGES:
            flags["output.into"] = recipe.run
    return _resolve(WORKER_CONFIGS[name], recipe, stage, flags)


def _scale(recipe: Recipe, on_event: Callable[[events.Event], None]) -> float:
    """Return the share of the recipe's steps that are done here; settled once per run, then kept, so a rerun agrees."""
    folder = runs.create(recipe.run)
    facts = files.read_json(folder / "run.json", "the run's facts")
    if "scale" in facts:
        before = facts.get("minutes")
        if recipe.minutes is not None and recipe.minutes != before:
            raise ConfigError(
                f"run {recipe.run} was started with another length: --minutes {recipe.minutes:g}",
                hint=f"it was {f'{before:g}' if before else 'not given'}; choose a new name with --run",
            )
        return facts["scale"]
    measured = None
    if recipe.tokens_per_s:
        base = next(s for s in recipe.stages if s.command == "train base")
        job = planning.make("probe", stage_config(recipe, base, "base"), command="nanochat demo")
        result = launch.run(job, on_event)
        if result.get("asked_to_stop"):
            raise _StopAsked
        measured = result["tokens_per_s"]
    scale = share_of_steps(recipe, measured)
    if measured and recipe.tokens_per_s and scale != 1:
        minutes = FULL_MINUTES * scale * max(1.0, recipe.tokens_per_s / measured)
        events.Listener(on_event).note(
            f"this machine trains {measured:,.0f} tokens/s; the recipe is made for {recipe.tokens_per_s:,.0f}: "
            f"{scale:.0%} of its steps, about {minutes:.0f} minutes"
        )
    facts |= {"scale": scale, "recipe": recipe.name, "seed": recipe.seed, "minutes": recipe.minutes}
    facts["measured_tokens_per_s"] = measured
    files.write_json(folder / "run.json", facts)
    return scale


def share_of_steps(recipe: Recipe, measured: float | None) -> float:
    """Return the share of the recipe's steps that fit the time at `measured` tokens per second.

    A slower machine does fewer, but without `minutes` not fewer than `least_scale`: the model is what a user waits for.
    """
    pace = min(1.0, measured / recipe.tokens_per_s) if measured and recipe.tokens_per_s else 1.0
    if recipe.minutes is not None:
        return round(recipe.minutes / FULL_MINUTES * pace, 3)
    return round(max(pace, recipe.least_scale), 3)


def _scaled(cfg: Any, name: str, scale: float) -> Any:
    section = "rl" if name == "rl" else "horizon"
    steps = getattr(cfg, section).num_iterations
    return planning.with_values(cfg, section, num_iterations=max(2, round(steps * scale))) if steps else cfg


def plan_rows(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Yield (stage, state, equivalent command) for a dry run."""
    for stage in recipe.stages:
        yield stage.name, "done" if is_done(recipe, stage) else "to do", equivalent(recipe, stage)
