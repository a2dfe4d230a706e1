"""Turns a config with automatic values into one with numbers, and refuses what cannot work before anything starts.

Torch-free, so that `--dry-run` and mistakes answer at once.
"""

from __future__ import annotations

import ast
import dataclasses
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nanochat_cli.core import (
    config,
    files,
    horizon,
    launch,
    pairing,
    paths,
    placement,
    run_lineage,
    run_names,
    runs,
    scaling,
)
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, EnvironmentLacks, MissingArtifact
from nanochat_cli.core.mixtures import NEEDED, USUAL, is_here, missing, parse, split_weight
from nanochat_cli.core.models import shape
from nanochat_cli.core.settings import BaseTrainConfig, BatchSection, EvalConfig, MidTrainConfig, OptimSection, RlConfig
from nanochat_cli.core.units import many

C = TypeVar("C")
CPU_SEQ_LEN, GPU_SEQ_LEN = 256, 2048
_CHAT_CPU_BATCH = 8_192
CPU_BATCH = 16_384  # a step of more takes too long there
_LARGEST_SHRINK = 0.03  # of a weight in one step by decay: where the rule asks for more, a model is too small for it
_CPU_ROWS_TOKENS = 8_192  # tokens of one forward pass that stay cheap in memory


def with_values(config: C, section: str, **values: Any) -> C:
    """Return a config with some values of one section replaced."""
    changed = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **{section: changed})  # type: ignore[type-var]


def make(
    stage: str,
    cfg: Any,
    *,
    resume: bool = False,
    resume_step: int | None = None,
    typed: Iterable[str] = (),
    command: str | None = None,
) -> launch.Plan:
    """Return the plan of a stage with every automatic value settled. Raises ConfigError or MissingArtifact.

    `typed` holds the paths of the options given on the command line; a resume refuses those that would change the run.
    """
    cfg = placement.settle(cfg)
    _check_kernels(cfg.compute)
    options = frozenset(typed)
    if resume:
        run = _run_to_resume(stage, cfg, options)
        _check_step(stage, run, resume_step)
        started = _as_started(stage, run, cfg, options)
        return launch.plan(stage, run, started, resume=True, resume_step=resume_step, command=command)
    if stage == "base":
        cfg = horizon.as_typed(cfg, options)
    settled, run = _SETTLE[stage](cfg, stage)
    job = launch.plan(stage, run, settled, command=command)
    if stage != "eval":
        return job
    folder = paths.baselines_dir() / run if settled.what.model else job.dir
    return dataclasses.replace(job, dir=_where_one_may_write(folder, run))


def _check_step(stage: str, run: str, step: int | None) -> None:
    """Raise MissingArtifact for a step that is not there to go on from, before anything of the run is touched."""
    known = runs.checkpoint_steps(runs.stage_dir(run, stage))
    if step is not None and step not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise MissingArtifact(
            f"no checkpoint of step {step}: {runs.stage_dir(run, stage)}", hint=f"saved steps: {listed}"
        )


def _where_one_may_write(folder: Path, run: str) -> Path:
    """Return the folder for an evaluation's results, or a stand-in where the runs may only be read."""
    stand_ins = (folder, paths.cache_dir() / "eval" / run)
    temporary = Path(tempfile.gettempdir()) / f"nanochat-eval-{uuid.uuid4().hex[:12]}" / run
    return next((place for place in stand_ins if files.can_write(place)), temporary)


_GPU_KERNELS = ("fa2", "fa3", "fa4", "flex")


def _check_kernels(compute: Any) -> None:
    """Raise EnvironmentLacks for what was asked for and only a GPU has; the rest is found out by the workers."""
    if compute.gpus:
        return
    if compute.fp8 == "on":
        raise EnvironmentLacks("FP8 needs an NVIDIA GPU, and this trains on a CPU: --fp8 on", hint="leave it out")
    if compute.attention in _GPU_KERNELS:
        raise EnvironmentLacks(
            f"this attention kernel needs an NVIDIA GPU, and this trains on a CPU: {compute.attention}",
            hint="--attention auto takes the best there is",
        )


def _run_to_resume(stage: str, cfg: Any, typed: frozenset[str]) -> str:
    """Return the run named in the config, else the most recent one in which the stage was started."""
    if stage == "base":
        named = cfg.output.run
    elif "source.run" in typed and "output.into" not in typed:
        named = cfg.source.run and run_names.resolve(cfg.source.run).run
    else:
        named = cfg.output.into or (cfg.source.run and run_names.resolve(cfg.source.run).run)
    if named is not None:
        return paths.check_name("run", named)
    for run in runs.all_runs():
        if (runs.stage_dir(run, stage) / "config.json").is_file():
            return run
    raise MissingArtifact(f"nothing to resume: no run has started stage {stage}", hint=f"nanochat train {stage}")


_FREE_SECTIONS = ("eval", "save", "guard", "cluster")
_FREE_ON_RESUME = ("compute.procs", "compute.gpus", "compute.threads")


def _as_started(stage: str, run: str, asked: Any, typed: frozenset[str]) -> Any:
    """Return the config that the stage was started with; only where it computes may differ, and how often it reports.

    Raises ConfigError for an option typed now that would make it another run.
    """
    if not (runs.stage_dir(run, stage) / "config.json").is_file():
        raise MissingArtifact(f"nothing to resume: stage {stage} of run {run} was never started")
    saved = launch.saved_config(stage, run)
    before, now = (config.flatten(config.to_dict(c), "config") for c in (saved, asked))
    settled = with_values(_with_source_found(saved, run, stage), "compute", gpus=asked.compute.gpus)
    if hasattr(asked, "cluster"):
        settled = dataclasses.replace(settled, cluster=asked.cluster)
    if placement.find(settled.cluster if hasattr(asked, "cluster") else None).rank is not None:
        settled = with_values(settled, "compute", procs=asked.compute.procs)  # the launcher decides
    for path in sorted(typed):
        section, _, key = path.partition(".")
        if section in _FREE_SECTIONS or path in _FREE_ON_RESUME:
            settled = with_values(settled, section, **{key: getattr(getattr(asked, section), key)})
        elif path == "source.run" and now[path] in (run, before[path]):  # the run itself, or where it came from
            continue
        elif section != "output" and before[path] != now[path]:
            raise ConfigError(
                f"a resumed run keeps what it was started with, so {path} cannot become: {now[path]}",
                hint=f"it is {before[path]}; leave the option out, or start a new run",
            )
    return settled


def _with_source_found(saved: C, run: str, stage: str) -> C:
    """Return a stage's saved config with the place of its source now, should that run have been renamed since."""
    source = getattr(saved, "source", None)
    if source is None or source.run is None:
        return saved
    origin = run_lineage.parent(run, stage)
    if origin is None or not origin.present or origin.run == source.run:
        return saved
    return with_values(saved, "source", run=origin.run, source=origin.stage, step=origin.step)


# ---- base ------------------------------------------------------------------------------------------------------------


def settle_base(cfg: BaseTrainConfig, stage: str) -> tuple[BaseTrainConfig, str]:
    """Return the config of base training with names, shape, batch and steps as numbers, and the run's name."""
    corpus = cfg.corpus.data or _newest_corpus()
    check_corpus(corpus)
    tokenizer = cfg.corpus.tokenizer or _tokenizer_for(corpus)
    facts = tokenizer_facts(tokenizer)
    cfg = with_values(cfg, "corpus", data=corpus, tokenizer=tokenizer)
    on_gpu = num_gpus(cfg.compute) > 0
    seq_len = cfg.model.max_seq_len or (GPU_SEQ_LEN if on_gpu else CPU_SEQ_LEN)
    net = model_shape(cfg, vocab_size=facts["vocab_size"], max_seq_len=seq_len)
    cfg = with_values(cfg, "model", **{key: getattr(net, key) for key in _SHAPE})
    cfg = by_scaling_rules(cfg, net)
    run = cfg.output.run or f"{corpus}-d{cfg.model.depth}"
    cfg = with_values(cfg, "output", run=paths.check_name("run", run))
    later = [name for name in runs.STAGES[1:] if runs.checkpoint_steps(runs.stage_dir(run, name))]
    if later and not runs.checkpoint_steps(runs.stage_dir(run, "base")):
        raise ConfigError(
            f"run {run} has stages of another model: {', '.join(later)}", hint="choose a new name with --run"
        )
    return with_values(cfg, "horizon", num_iterations=num_iterations(cfg, net)), run


def by_scaling_rules(cfg: BaseTrainConfig, net: shape.ModelConfig) -> BaseTrainConfig:
    """Return the config with batch, weight decay and the scaling of rates settled.

    Runs on a CPU are much shorter than the horizon that the rule for rates was found at: at depth 4 and two million
    tokens, rates lowered for a small batch cost more than all that the modern recipe gains.
    """
    if cfg.optim.batch_scaling is None:
        cfg = with_values(cfg, "optim", batch_scaling=num_gpus(cfg.compute) > 0)
    cap = scaling.LARGEST_BATCH if num_gpus(cfg.compute) else CPU_BATCH
    best = scaling.total_batch_size(net, cap)
    batch = settle_batch(cfg.batch, net.max_seq_len, cfg.compute, cfg.cluster.nnodes or 1, best)
    cfg = dataclasses.replace(cfg, batch=batch)
    if cfg.optim.weight_decay is not None:
        return cfg
    total = batch.total_batch_size or cap
    rate = cfg.optim.matrix_lr * (scaling.rate_scale(total) if cfg.optim.batch_scaling else 1.0)
    decay = scaling.weight_decay(net, total, scaled_rates=bool(cfg.optim.batch_scaling))
    return with_values(cfg, "optim", weight_decay=round(min(decay, _LARGEST_SHRINK / max(rate, 1e-9)), 6))


_SHAPE = (
    "n_embd",
    "n_head",
    "n_kv_head",
    "head_dim",
    "max_seq_len",
    "window_pattern",
    "short_window",
    "rope_base",
    "softcap",
    "qk_scale",
    "value_embeds_every",
    "smear",
    "residual_scalars",
    "backout",
)
"""What `settings.ModelSection` and `ModelConfig` have in common, beside architecture and depth."""


def model_shape(cfg: BaseTrainConfig, *, vocab_size: int, max_seq_len: int) -> shape.ModelConfig:
    """Return the network's shape. Raises ConfigError that says which values do not fit."""
    given = {key: getattr(cfg.model, key) for key in _SHAPE} | {"max_seq_len": max_seq_len}
    return shape.from_depth(cfg.model.depth, vocab_size=vocab_size, arch=cfg.model.arch, **given)


def num_iterations(cfg: BaseTrainConfig, net: shape.ModelConfig) -> int:
    """Return the optimizer steps: as given, else from the FLOPs, else from tokens per parameter.

    Raises ConfigError if the budget does not pay for one step.
    """
    batch, asked = cfg.batch.total_batch_size or 1, cfg.horizon
    if asked.num_iterations is not None:
        return asked.num_iterations
    if asked.target_flops is not None:
        steps = round(asked.target_flops / (shape.flops_per_token(net) * batch))
        budget = f"target_flops {asked.target_flops:g}"
    else:
        counts = shape.count_params(net)
        counted = counts.total if asked.ratio_counts == "all" else counts.scaling
        steps = int(asked.target_param_data_ratio * counted // batch)
        budget = f"target_param_data_ratio {asked.target_param_data_ratio:g}"
    if steps < 1:
        raise ConfigError(
            f"the horizon is shorter than one step of {batch:,} tokens: {budget}",
            hint="give --num-iterations, or a smaller --total-batch-size",
        )
    return steps


def settle_batch(
    batch: BatchSection, seq_len: int, compute: Any, nnodes: int = 1, best: int | None = None
) -> BatchSection:
    """Return the batch with its sizes set, such that rows divide evenly; `best` is the automatic total.

    Only an automatic `device_batch_size` on a GPU stays open: the worker finds it out. Raises ConfigError with the
    nearest sizes that fit.
    """
    gpus = num_gpus(compute)
    on_gpu, procs = gpus > 0, nnodes * (gpus or compute.procs)
    unit = seq_len * procs
    total = batch.total_batch_size
    if total is None:
        total = max(unit, (best or (scaling.REFERENCE_BATCH if on_gpu else _CHAT_CPU_BATCH)) // unit * unit)
    if total % unit:
        near = [n for n in (total // unit * unit, (total // unit + 1) * unit) if n]
        raise ConfigError(
            f"total_batch_size {total:,} is not a multiple of max_seq_len x processes = {seq_len} x {procs}",
            hint=f"nearest that fit: {', '.join(f'{n:,}' for n in near)}",
        )
    rows = total // unit
    device = batch.device_batch_size
    if device is None and not on_gpu:
        most = max(1, _CPU_ROWS_TOKENS // seq_len)
        device = max(n for n in range(1, min(most, rows) + 1) if rows % n == 0)
    if device is not None and rows % device:  # None: `train.device_batch` tries on the GPU what fits
        fit = [n for n in range(1, rows + 1) if rows % n == 0]
        near_device = min(fit, key=lambda n: abs(n - device))
        raise ConfigError(
            f"device_batch_size {device} does not divide the {many(rows, 'row')} of a process per step "
            f"(total_batch_size {total:,} / max_seq_len {seq_len} / {many(procs, 'process', 'processes')})",
            hint=f"nearest that fits: {near_device}",
        )
    return BatchSection(total_batch_size=total, device_batch_size=device)


def num_gpus(compute: Any) -> int:
    """Return the GPUs to use on this machine."""
    return placement.num_gpus(compute)


def _newest_corpus() -> str:
    found = paths.newest(paths.corpora_dir(), "manifest.json")
    if found is None:
        raise MissingArtifact(
            "no corpus yet", hint="add text with `nanochat data add FILES… --name NAME`, or try `nanochat demo`"
        )
    return found.name


def check_corpus(name: str) -> None:
    """Raise MissingArtifact that lists the corpora if there is none of this name."""
    root = paths.corpora_dir()
    if (paths.corpus_dir(name) / "manifest.json").is_file():
        return
    known = sorted(p.name for p in root.iterdir() if (p / "manifest.json").is_file()) if root.is_dir() else []
    hint = f"corpora: {', '.join(known)}" if known else f"add text with `nanochat data add FILES… --name {name}`"
    raise MissingArtifact(f"no corpus named: {name}", hint=hint)


def _tokenizer_for(corpus: str) -> str:
    found = pairing.tokenizer_for(corpus)
    if found is None:
        raise MissingArtifact("no tokenizer yet", hint=f"nanochat tok train --input {corpus}")
    return found


def tokenizer_facts(name: str) -> dict[str, Any]:
    """Return what a tokenizer's file says about it (`vocab_size` and more), without loading it."""
    files.restore_dir(paths.tokenizer_dir(name))
    path = paths.tokenizer_dir(name) / "tokenizer.json"
    if not path.is_file():
        raise MissingArtifact(f"no tokenizer named: {name}", hint="nanochat tok train --input CORPUS")
    return files.read_json(path, "the tokenizer")


# ---- after base ------------------------------------------------------------------------------------------------------


def settle_source(cfg: C, before: str | None) -> tuple[C, dict[str, Any]]:
    """Return the config with run, stage and step of its source settled, and the source checkpoint's saved config."""
    source = cfg.source  # type: ignore[attr-defined]
    run, stage, step = run_names.locate(source.run, source.source, source.step, before=before)
    steps = runs.checkpoint_steps(runs.stage_dir(run, stage))
    step = steps[-1] if step is None else step
    if step not in steps:
        raise MissingArtifact(
            f"run {run} has no {stage} checkpoint of step: {step}", hint=f"steps: {', '.join(map(str, steps))}"
        )
    path = runs.stage_dir(run, stage) / f"step-{step:06d}" / "config.json"
    saved = files.read_json(path, "the checkpoint's config")
    if not isinstance(saved.get("model"), dict) or not isinstance((saved.get("config") or {}).get("optim"), dict):
        raise DamagedArtifact(f"checkpoint config lacks the model or its training: {path}")
    return with_values(cfg, "source", run=run, source=stage, step=step), saved


def with_rates(cfg: C, saved: Mapping[str, Any]) -> C:
    """Return the config with what was left open about the optimizer as it was for the checkpoint it starts from.

    An option that checkpoint's version did not know is one that it did without.
    """
    options = dataclasses.asdict(cfg.optim)  # type: ignore[attr-defined]
    trained = saved["config"]["optim"]
    inherited = {f.name for f in dataclasses.fields(OptimSection)} - {"grad_clip", "momentum_end"}
    left_open = [name for name, value in options.items() if value is None and name in inherited]
    return with_values(cfg, "optim", **{name: trained.get(name, _BEFORE.get(name)) for name in left_open})


_BEFORE = {
    "batch_scaling": False,
    "muon_eq": False,
    "muon_plus": False,
    "normuon": False,
    "normuon_beta2": 0.9,
    "polar": "express",
    "cautious_decay": False,
}


def settle_chat(cfg: MidTrainConfig, stage: str) -> tuple[MidTrainConfig, str]:
    """Return the config of mid-training or SFT with source, data and batch settled, and the run's name."""
    cfg, saved = settle_source(cfg, stage)
    seq_len = saved["model"]["max_seq_len"]
    cfg = with_rates(cfg, saved)
    cfg = dataclasses.replace(cfg, batch=settle_batch(cfg.batch, seq_len, cfg.compute, cfg.cluster.nnodes or 1))
    return with_chats(cfg, stage), _written_run(cfg, stage)


def _written_run(cfg: MidTrainConfig | RlConfig, stage: str) -> str:
    """Return the run that a stage after pretraining writes into. Raises ConfigError if that has a past of its own."""
    into = paths.check_name("run", cfg.output.into or cfg.source.run or "")
    earlier = runs.STAGES[: runs.STAGES.index(stage)]
    own = [name for name in earlier if runs.checkpoint_steps(runs.stage_dir(into, name))]
    if into != cfg.source.run and own:
        raise ConfigError(
            f"run {into} has stages of its own ({', '.join(own)}), which this {stage} would not follow",
            hint="choose a new name with --into, or start from that run with --run",
        )
    return into


def settle_rl(cfg: RlConfig, stage: str) -> tuple[RlConfig, str]:
    """Return the config of reinforcement learning with source and replay data settled, and the run's name."""
    cfg, saved = settle_source(cfg, stage)
    cfg = with_rates(cfg, saved)
    cfg = with_values(cfg, "rl", task=_own_file(cfg.rl.task), questions=_question_file(cfg.rl.questions))
    needs_questions = cfg.rl.questions is None and _is_function(cfg.rl.task)
    if cfg.rl.replay or (":" in cfg.rl.task and cfg.rl.questions is None):
        cfg = _with_replay(cfg)
    if needs_questions and not cfg.chats.data:
        raise MissingArtifact(
            f"a reward function needs questions to ask: {cfg.rl.task.rpartition(':')[2]}",
            hint=f"nanochat train {stage} --task FILE.py:NAME --questions FILE, or chats with --data FILE",
        )
    return cfg, _written_run(cfg, stage)


def _with_replay(cfg: RlConfig) -> RlConfig:
    """Return the config with what is mixed in settled: what is given or usual, without what was not downloaded."""
    try:
        return with_chats(cfg, "sft")
    except MissingArtifact:
        if cfg.chats.data or cfg.chats.task:
            raise
        here = tuple(text for text in USUAL["sft"] if is_here(parse(text).name))
        fetched = any(NEEDED.get(parse(text).name) for text in here)
        return with_values(cfg, "chats", task=here if fetched else ())  # generated words alone keep no other skill


def _is_function(task: str) -> bool:
    """Return whether a user's task is a plain function by the text of its file, which is not run for that."""
    where, colon, name = task.rpartition(":")
    if not colon or not where.endswith(".py"):
        return False
    try:
        body = ast.parse(Path(where).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return False  # told when it is imported
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in body)


def _own_file(task: str) -> str:
    """Return a task's name with the path of a user's file made absolute; `module:NAME` may mean a file here, too."""
    where, colon, name = task.rpartition(":")
    if not colon:
        return task
    path = Path(where if where.endswith(".py") else f"{where.replace('.', '/')}.py").expanduser()
    if path.is_file():
        return f"{path.absolute()}:{name}"
    if where.endswith(".py"):
        raise MissingArtifact(f"no such file: {path}", hint="--task FILE.py:FUNCTION")
    return task


def _question_file(given: str | None) -> str | None:
    if given is None:
        return None
    path = Path(given).expanduser()
    if not path.is_file():
        raise MissingArtifact(f"no such file of questions: {path}")
    return str(path.absolute())


def settle_eval(cfg: EvalConfig, stage: str) -> tuple[EvalConfig, str]:
    """Return the config of an evaluation with its source settled, and the run's name."""
    what = cfg.what
    if what.bundle:
        cfg = with_values(cfg, "what", bundle=str(Path(what.bundle).absolute()))
    if what.model:
        cfg = with_values(cfg, "what", model=f"hf:{_folder_of(what.model)}")
        return cfg, _name_of(what.model)
    cfg, _ = settle_source(cfg, None)
    return cfg, cfg.source.run or ""


def _folder_of(model: str) -> Path:
    """Return the folder that `hf:FOLDER` names. Raises ConfigError for another form, MissingArtifact if it is none."""
    kind, _, place = model.partition(":")
    if kind != "hf" or not place:
        raise ConfigError(f"a model to compare with is named by its folder: {model}", hint="--model hf:FOLDER")
    folder = Path(place).expanduser().absolute()
    if not (folder / "config.json").is_file():
        raise MissingArtifact(
            f"no transformers model, which has a config.json: {folder}", hint="give the folder it was downloaded to"
        )
    return folder


def _name_of(model: str) -> str:
    """Return a name for a model of another's: its folder's, without what no name may hold."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in _folder_of(model).name)
    return name if paths.is_name(name) else f"model-{files.sha256_json(name)[:8]}"


def chat_file(name: str, stage: str) -> Path | None:
    """Return the chats of a corpus for one stage, or None if it has none."""
    path = paths.corpus_dir(name) / "chats" / f"{stage}.jsonl"
    return path if path.is_file() else None


def with_chats(cfg: C, stage: str) -> C:
    """Return the config with files and tasks to train on settled: what is given, else the chats of the base model's

    corpus, else the usual mixture of the stage. Raises MissingArtifact naming what to download for that.
    """
    chats, source = cfg.chats, cfg.source  # type: ignore[attr-defined]
    if chats.data or chats.task:
        tasks = tuple(map(_absolute, chats.task))
        return with_values(cfg, "chats", data=chat_sources(chats.data, stage), task=tasks)
    corpus = _base_corpus(source.run or "")
    if corpus is not None and chat_file(corpus, stage) is not None:
        return with_values(cfg, "chats", data=chat_sources((corpus,), stage))
    if absent := missing(stage):
        fetch = "; ".join(f"nanochat data download {name}" for name in absent)
        raise MissingArtifact(
            f"no chats to train on: corpus {corpus or '(unknown)'} has none for {stage}, and the usual mixture lacks: "
            + ", ".join(absent),
            hint=f"{fetch}; or your own: nanochat train {stage} --data chats.json, or --task NAME",
        )
    return with_values(cfg, "chats", task=USUAL[stage])


def chat_sources(given: tuple[str, ...], stage: str) -> tuple[str, ...]:
    """Return the chat files to read as `PATH:weight`, from paths or the names of corpora."""
    found = []
    for text in given:
        name, weight = split_weight(text)
        path = Path(name)
        if not path.is_file():
            known = "/" not in name and not name.startswith(".") and chat_file(name, stage)
            if not known:
                raise MissingArtifact(
                    f"no chat file or corpus with chats: {name}", hint="give a .json or .jsonl file of conversations"
                )
            path = known
        found.append(f"{path.absolute()}:{weight:g}")
    return tuple(found)


def _absolute(task: str) -> str:
    """Return a task as given, a file of conversations with its whole path: a resume may be started elsewhere."""
    name = parse(task).name
    is_path = ("/" in name or "." in name) and Path(name).is_file()
    return f"{Path(name).absolute()}{task.removeprefix(name)}" if is_path else task


def _base_corpus(run: str) -> str | None:
    """Return the corpus that a run's base stage was trained on, if that is known."""
    base = runs.stage_dir(run_lineage.base_run(run), "base") / "config.json"
    return files.read_json(base, "the base stage's config")["config"]["corpus"]["data"] if base.is_file() else None


_SETTLE: dict[str, Callable[[Any, str], tuple[Any, str]]] = {
    "base": settle_base,
    "probe": settle_base,
    "mid": settle_chat,
    "sft": settle_chat,
    "rl": settle_rl,
    "eval": settle_eval,
}
