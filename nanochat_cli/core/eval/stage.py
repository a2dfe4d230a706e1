"""The evaluation of one checkpoint: bits per byte of its corpus, graded replies to tasks, the CORE score.

Writes `runs/<run>/eval/<stage>.json` with all counts, and beside it `<stage>.jsonl` with every single reply and
`<stage>-core/` with every answer to CORE's questions. What is answered on the way is kept until all is, in `partial/`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from nanochat_cli.core import checkpoint, files, machine, run_lineage, runs
from nanochat_cli.core.checkpoint import Meta
from nanochat_cli.core.data import packing, tokens
from nanochat_cli.core.data.corpus import SPLITS, Corpus
from nanochat_cli.core.data.holdout import EVERY
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.engine.generate import generate
from nanochat_cli.core.errors import ConfigError, EnvironmentLacks, MissingArtifact, NanochatError
from nanochat_cli.core.eval import (
    bpb,
    chat,
    chat_core,
    core_stage,
    hf,
    letters,
    lm_eval,
    merging,
    picking,
    trained_on,
)
from nanochat_cli.core.eval.bundle import Bundle
from nanochat_cli.core.eval.chat import Prediction
from nanochat_cli.core.eval.kept import Kept
from nanochat_cli.core.eval.nets import OwnCodec, OwnNet
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.settings import EvalConfig
from nanochat_cli.core.tasks import customjson
from nanochat_cli.core.tasks.base import Task, is_file, names, open_task, task_class
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")
BPB_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """The model that is examined, and the corpus its run began with (None if that is gone)."""

    model: LanguageModel
    tokenizer: Tokenizer
    meta: Meta
    corpus: Corpus | None

    @property
    def end(self) -> int:
        """The token that ends a reply."""
        return self.tokenizer.special("assistant_end")

    @property
    def precision(self) -> str:
        """Dtype of the arithmetic, in a word."""
        return str(self.model.precision).removeprefix("torch.")


class _Stopped(Exception):
    """The user asked to stop."""


def run(cfg: EvalConfig, context: runs.RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Measure one checkpoint and return the headline figures; `{"stopped": step}` if asked to stop on the way."""
    step = cfg.source.step or 0
    try:
        if cfg.what.model:
            return _measure_other(cfg, context, dist, log)
        subject = _load(cfg, dist, log)
        step = subject.meta.step
        return _measure(subject, cfg, context, dist, log)
    except _Stopped:
        text = "stopped: no result yet; the same command goes on with the answers it has"
        log.emit("stopped", step=step, text=text)
        return {"stopped": step}


def _measure(subject: _Subject, cfg: EvalConfig, context: runs.RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    began = time.time()
    meta = subject.meta
    record: dict[str, Any] = {
        "format": 1,
        "run": meta.run,
        "stage": meta.stage,
        "step": meta.step,
        "created": began,
        "command": context.command,
        "num_params": subject.model.num_params(),
        "weights_sha256": meta.hash,
        "precision": subject.precision,
    }
    predictions: list[dict[str, Any]] | None = None
    only, left_out = cfg.what.only, _LeftOut(log)
    # Tasks first: that one is unknown, or none fits, should be told before minutes of other work.
    asked = _fitting_tasks(subject, cfg, dist, left_out) if only in ("all", "chat") else []
    bundle = _fitting_bundle(subject, cfg, left_out) if only in ("all", "core") else None
    if only in ("all", "bpb"):
        record |= _compression(subject, cfg, context.dir, dist, left_out)
    if asked:  # else what was asked of these weights before stays on record
        record["tasks"], predictions = _ask(subject, asked, cfg, context.dir, dist, log)
        if score := chat_core.summarise(record["tasks"], merging.baselines()):
            record["chat_core"] = score
    if bundle is not None:
        record["core"] = core_stage.measure(
            OwnNet(subject.model),
            OwnCodec(subject.tokenizer),
            bundle,
            cfg.what,
            context.dir,
            dist,
            log,
            name=meta.stage,
            weights=meta.hash,
            precision=subject.precision,
            between=lambda: _obey(context.dir, dist),
        )
    if only == "lm-eval":
        record["lm_eval"] = _lm_eval(subject, cfg, dist, log)
    record["notes"] = left_out.notes
    record["seconds"] = round(time.time() - began, 2)
    if dist.is_main:
        _publish(context.dir, record, predictions, log)
    return _headline(record, context.dir)


class _LeftOut:
    """What was not measured, and why: said at once, and recorded."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.log.note(text)


def _measure_other(cfg: EvalConfig, context: runs.RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Measure a transformers model: the CORE score, which needs neither our corpus nor our chat format."""
    began = time.time()
    if cfg.what.only not in ("all", "core"):
        raise ConfigError(
            f"of a model that is not ours, only the CORE score is measured: {cfg.what.only}",
            hint="nanochat eval core --model hf:FOLDER",
        )
    bundle = core_stage.find_bundle(cfg.what)
    left_out = _LeftOut(log)
    if cfg.what.only == "all":
        left_out.note("bits per byte and chat tasks are left out: they need a run's corpus and chat format")
    folder = Path((cfg.what.model or "").partition(":")[2])
    precision = cfg.compute.precision
    if precision == "auto":
        precision = _natural_precision("bf16", dist.device)
    net, codec, weights = hf.load(folder, dist.device, precision)
    core = core_stage.measure(
        net,
        codec,
        bundle,
        cfg.what,
        context.dir,
        dist,
        log,
        name="model",
        weights=weights,
        precision=precision,
        between=lambda: _obey(context.dir, dist),
    )
    record = {
        "format": 1,
        "model": str(folder),
        "run": context.run,
        "stage": "model",
        "step": None,
        "created": began,
        "command": context.command,
        "num_params": sum(p.numel() for p in net.model.parameters()),
        "weights_sha256": weights,
        "precision": precision,
        "core": core,
        "notes": left_out.notes,
        "seconds": round(time.time() - began, 2),
    }
    if dist.is_main:
        _publish(context.dir, record, None, log)
    return _headline(record, context.dir)


def _lm_eval(subject: _Subject, cfg: EvalConfig, dist: Dist, log: Log) -> dict[str, Any]:
    if dist.world > 1:
        raise ConfigError(f"lm-eval works in one process: {dist.world}", hint="--procs 1, or --gpus 1")
    what = cfg.what
    limit = None if what.limit == "all" else what.limit
    return lm_eval.run(subject.model, subject.tokenizer, what.task, limit=limit, batch_size=what.batch_size, log=log)


def _load(cfg: EvalConfig, dist: Dist, log: Log) -> _Subject:
    source = cfg.source
    path = checkpoint.find(source.run, source.source, source.step, log=log)
    model, tokenizer, meta = checkpoint.load_model(path, dist.device)
    model.eval()
    model.set_precision(_precision(cfg, meta, dist.device))
    return _Subject(model=model, tokenizer=tokenizer, meta=meta, corpus=_corpus_of(meta.run, log))


def _precision(cfg: EvalConfig, meta: Meta, device: torch.device) -> str:
    """As asked for, else as in training, unless this machine would only emulate it."""
    if cfg.compute.precision != "auto":
        return cfg.compute.precision
    return _natural_precision((meta.config.get("execution") or {}).get("dtype", "fp32"), device)


def _natural_precision(trained: str, device: torch.device) -> str:
    """The precision that a model was trained in, unless this machine would only emulate it."""
    if device.type == "cuda":
        emulated = trained == "bf16" and torch.cuda.get_device_capability(device) < (8, 0)
    else:
        emulated = trained != "bf16" or not machine.cpu_flags() & {"avx512_bf16", "amx_bf16"}
    return "fp32" if emulated else trained


def _corpus_of(run: str, log: Log) -> Corpus | None:
    """The corpus that the run's base stage was trained on, if it is still there."""
    saved = runs.stage_dir(run_lineage.base_run(run), "base") / "config.json"
    try:
        name = files.read_json(saved, "the base stage's config")["config"]["corpus"]["data"]
        return Corpus.open(name)
    except (NanochatError, KeyError, TypeError) as problem:
        log.note(f"no corpus to measure on: {problem}")
        return None


# ---- bits per byte ---------------------------------------------------------------------------------------------------


def _compression(subject: _Subject, cfg: EvalConfig, folder: Path, dist: Dist, left_out: _LeftOut) -> dict[str, Any]:
    """Bits per byte of both splits, in the model's own context length, and which corpus that was."""
    corpus, log = subject.corpus, left_out.log
    if corpus is None:
        if cfg.what.only == "bpb":
            raise NanochatError(
                f"the corpus that run {subject.meta.run} was trained on is gone",
                hint="nanochat data list",
            )
        left_out.note("bits per byte are left out: the corpus the run was trained on is gone")
        return {}
    if dist.is_main:
        tokens.ensure(corpus, subject.tokenizer, log)
    dist.barrier()
    token_set = tokens.ensure(corpus, subject.tokenizer, log, verify=False)
    seq_len = subject.model.config.max_seq_len
    found = {}
    for split in SPLITS:
        rows = packing.pack_documents(token_set.split(split), seq_len + 1)
        limit = min(rows.num_rows, max(1, cfg.what.tokens // seq_len))
        batches = bpb.row_batches(rows, BPB_ROWS, limit=limit, rank=dist.rank, world=dist.world, device=dist.device)
        told = _with_progress(batches, -(-limit // dist.world), f"bits per byte, {split}", log)
        told = _until_stopped(told, folder, dist)
        sums = bpb.measure(subject.model, told, subject.tokenizer.token_bytes(), dist)
        if sums.bytes:
            found[split] = {"bpb": sums.bpb, "loss": sums.nats_per_token, "bytes": sums.bytes, "tokens": sums.tokens}
    return {"bpb": found, "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint}}


def _until_stopped(batches: Iterator[T], folder: Path, dist: Dist) -> Iterator[T]:
    for batch in batches:
        _obey(folder, dist)
        yield batch


def _obey(folder: Path, dist: Dist) -> None:
    """Raise if the command was asked to stop. Several processes do not look: they could not agree on when."""
    if dist.world == 1 and (folder / runs.STOP_FILE).exists():
        raise _Stopped


def _with_progress(
    batches: Iterator[tuple[Tensor, Tensor]], num_rows: int, task: str, log: Log
) -> Iterator[tuple[Tensor, Tensor]]:
    done = 0
    for x_BT, y_BT in batches:
        yield x_BT, y_BT
        done += len(x_BT)
        log.progress(task, done, num_rows, "rows")


# ---- tasks -----------------------------------------------------------------------------------------------------------


def _fitting_tasks(subject: _Subject, cfg: EvalConfig, dist: Dist, left_out: _LeftOut) -> list[Task]:
    """The tasks asked for, else those that suit what the model was trained on; every held-out split of each."""
    if cfg.what.task:
        chosen = list(cfg.what.task)
    elif subject.meta.stage == "base":
        if cfg.what.only == "chat":
            raise ConfigError(
                f"a base model has not learned to chat: {subject.meta.run}/base",
                hint="train it on chats (nanochat train sft), or name a --task to ask anyway",
            )
        left_out.note("chat tasks are left out: a base model has not learned to chat (name a --task to ask anyway)")
        return []
    else:
        source = subject.corpus.manifest.get("source", {}) if subject.corpus else {}
        chosen = [name for name in names() if task_class(name).suits(source)]
        if not chosen:
            made = f" ({source['version']})" if source.get("version") else ""
            left_out.note(f"no task of this version of nanochat fits what this model was trained on{made}")
    first = [open_task(name) for name in chosen]  # that one is unknown, or not here, is told before any is asked
    known = trained_on.file_hashes(subject.meta) if any(map(is_file, chosen)) else frozenset()
    found: list[Task] = []
    for name, task in zip(chosen, first, strict=True):
        if is_file(name):
            found.append(_own_file(name, known, left_out))
        else:
            found += [open_task(name, split=split) for split in task.held_out]
    return _with_sandbox(found, cfg, dist, left_out)


def _own_file(name: str, known: Set[str], left_out: _LeftOut) -> Task:
    """A user's file as a task: what of it tells something about the model."""
    task = customjson.to_measure(name, trained_on=files.sha256_file(Path(name)) in known)
    if task.split == "val":
        left_out.note(f"{name} was trained on: asked is only what was held out of it, every {EVERY}th conversation")
    elif not task.is_held_out:
        left_out.note(f"all of {name} was trained on: its answers do not tell what the model makes of new questions")
    return task


def _with_sandbox(tasks: Sequence[Task], cfg: EvalConfig, dist: Dist, left_out: _LeftOut) -> list[Task]:
    """The tasks, less those that run programs where no sandbox holds: found out before any question is asked.

    Raises EnvironmentLacks instead if tasks were asked for by name.
    """
    found, warned = [], False
    for task in tasks:
        if not hasattr(task, "sandbox_mode"):
            found.append(task)
            continue
        setattr(task, "sandbox_mode", cfg.what.sandbox)  # noqa: B010 - only tasks that run programs have it
        problem, warning = None, None
        try:
            warning = getattr(task, "sandbox").warning  # noqa: B009 - the same
        except EnvironmentLacks as lack:
            if cfg.what.task:
                raise
            problem = lack
        if dist.any(problem is not None):  # all processes ask the same
            why = f"{problem} ({problem.hint})" if problem else "another process has no sandbox"
            left_out.note(f"{task.name} is left out: {why}")
            continue
        if warning and not warned:
            left_out.log.warning(warning)
            warned = True
        found.append(task)
    return found


def _fitting_bundle(subject: _Subject, cfg: EvalConfig, left_out: _LeftOut) -> Bundle | None:
    """The evaluation bundle, if CORE was asked for (also by naming a bundle), or it is here and fits the model."""
    if cfg.what.only == "core" or cfg.what.bundle:
        return core_stage.find_bundle(cfg.what)
    source = subject.corpus.manifest.get("source", {}) if subject.corpus else {}
    if cfg.what.task:
        return None  # only these were asked for
    if subject.meta.stage != "base":
        left_out.note("core is left out: it is made for base models (nanochat eval core measures it anyway)")
    elif isinstance(source, Mapping) and source.get("generator"):
        left_out.note(
            "core is left out: a model of generated text knows nothing of it (nanochat eval core asks anyway)"
        )
    else:
        try:
            return core_stage.find_bundle(cfg.what)
        except MissingArtifact as problem:
            left_out.note(f"core is left out: {problem} ({problem.hint})")
    return None


def _ask(
    subject: _Subject, tasks: Sequence[Task], cfg: EvalConfig, folder: Path, dist: Dist, log: Log
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Counts for every task, and every prediction as it is written to disk."""
    answer = _engine(subject, cfg)

    def ask(prompts: list[list[int]], longest: int) -> list[list[int]]:
        _obey(folder, dist)
        return answer(prompts, longest)

    def choose(prompts: list[list[int]], allowed: list[list[int]]) -> list[int | None]:
        _obey(folder, dist)
        return letters.likeliest(subject.model, prompts, allowed, batch_size=cfg.what.batch_size)

    what, limit = cfg.what, picking.how_many(cfg.what.limit)
    chosen = [picking.pick(task, limit) for task in tasks]
    pairs = list(zip(tasks, chosen, strict=True))
    partial = core_stage.partial_dir(
        folder,
        weights=subject.meta.hash,
        precision=subject.precision,
        longest=what.max_new_tokens,
        tasks=[(t.name, t.split, t.seed, len(t), t.notes(), picking.fingerprint(t, items)) for t, items in pairs],
    )
    summaries, lines = [], []
    for number, (task, items) in enumerate(pairs):
        kept = Kept(partial, f"{number}-{Path(task.name).name}-{task.split}", dist)
        mine, done = kept.left(items), len(kept.done)
        for start in range(0, len(mine), chat.CHUNK):
            answered = chat.predict(task, mine[start : start + chat.CHUNK], subject.tokenizer, ask, NULL, choose=choose)
            kept.add(vars(prediction) for prediction in answered)
            done += len(answered)
            log.progress(f"{task.name} ({task.split})", done, len(kept.done) + len(mine), "questions")
        everyone = [Prediction(**line) for line in kept.all()]
        asked = {"limit": limit if len(items) < len(task) else None, "limit_of": "family" if task.endless else "task"}
        summaries.append(chat.summarise(task, everyone, by_letters=True) | asked)
        lines += [json.loads(line) for line in chat.to_lines(task, everyone).splitlines()]
    if dist.is_main:
        core_stage.clear(partial)
    return summaries, lines


def _engine(subject: _Subject, cfg: EvalConfig) -> chat.Generate:
    """Greedy replies from the model, cut where its context ends; a prompt that leaves no room gets none."""
    room = subject.model.config.max_seq_len

    def replies(prompts: list[list[int]], longest: int) -> list[list[int]]:
        fitting = [k for k, prompt in enumerate(prompts) if len(prompt) < room]
        found: list[list[int]] = [[] for _ in prompts]
        with torch.no_grad():
            written = generate(
                subject.model,
                [prompts[k] for k in fitting],
                max_new_tokens=longest if cfg.what.max_new_tokens is None else min(longest, cfg.what.max_new_tokens),
                stop_ids={subject.end, subject.tokenizer.bos_id},
                batch_size=cfg.what.batch_size,
                tools=subject.tokenizer,
            )
        for k, ids in zip(fitting, written, strict=True):
            found[k] = ids[: room - len(prompts[k])]
        return found

    return replies


# ---- the result ------------------------------------------------------------------------------------------------------


def _publish(folder: Path, record: dict[str, Any], predictions: list[dict[str, Any]] | None, log: Log) -> None:
    """Write the record, and what an earlier evaluation of the same weights measured besides or more fully."""
    target = folder / f"{record['stage']}.json"
    before = merging.earlier(target, record["weights_sha256"])
    if predictions is not None:
        stays = merging.staying(before.get("tasks"), record["tasks"], merging.task_key, log)
        now = {merging.task_key(counts) for counts in record["tasks"]} - stays
        known = {merging.task_key(counts) for counts in before.get("tasks") or ()} - now
        lines = merging.merge_lines(target.with_suffix(".jsonl"), predictions, known.__contains__)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        files.write_atomic(target.with_suffix(".jsonl"), text)
    files.write_json(target, merging.merge(before, record))


def _headline(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the command shows, and the full record for `--json`."""
    found: dict[str, Any] = {"evaluated": record["stage"], "step": record["step"]}
    for split, values in (record.get("bpb") or {}).items():
        found[f"{split}_bpb"] = values["bpb"]
    for task in record.get("tasks") or ():
        whole = task["all"]
        found[f"{task['task']}_{task['split']}"] = f"{whole['correct']} of {whole['total']}"
    if score := record.get("chat_core"):
        found[score["label"]] = score["chat_core"]
    if core := record.get("core"):
        found |= {values["label"]: values["core"] for values in core["scores"].values()}
    found["file"] = str(folder / f"{record['stage']}.json")
    found["record"] = dict(record)
    return found
