"""The evaluation of one checkpoint: bits per byte of its corpus, and graded replies to tasks.

Writes `runs/<run>/eval/<stage>.json` with all counts, and beside it `<stage>.jsonl` with every single reply.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from nanochat_cli.core import checkpoint, files, machine, run_lineage, runs
from nanochat_cli.core.checkpoint import Meta
from nanochat_cli.core.data import packing, tokens
from nanochat_cli.core.data.corpus import SPLITS, Corpus
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.engine.generate import generate
from nanochat_cli.core.errors import ConfigError, NanochatError
from nanochat_cli.core.eval import bpb, chat
from nanochat_cli.core.eval.chat import Prediction
from nanochat_cli.core.events import Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.settings import EvalConfig
from nanochat_cli.core.tasks.base import Task, names, open_task
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")
BPB_ROWS = 32
DEFAULT_LIMIT = 200


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


class _Stopped(Exception):
    """The user asked to stop."""


def run(cfg: EvalConfig, context: runs.RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Measure one checkpoint and return the headline figures; `{"stopped": step}` if asked to stop on the way."""
    subject = _load(cfg, dist, log)
    try:
        return _measure(subject, cfg, context, dist, log)
    except _Stopped:
        step = subject.meta.step
        log.emit("stopped", step=step, text="stopped: nothing was written, an evaluation begins anew next time")
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
        "precision": str(subject.model.precision).removeprefix("torch."),
    }
    predictions: list[dict[str, Any]] | None = None
    # Tasks first: that one is unknown, or none fits, should be told before minutes of other work.
    asked = _fitting_tasks(subject, cfg, log) if cfg.what.only in ("all", "chat") else []
    if cfg.what.only in ("all", "bpb"):
        record |= _compression(subject, cfg, context.dir, dist, log)
    if asked:  # else what was asked of these weights before stays on record
        record["tasks"], predictions = _ask(subject, asked, cfg, context.dir, dist, log)
    record["seconds"] = round(time.time() - began, 2)
    if dist.is_main:
        _publish(context.dir, record, predictions)
    return _headline(record, context.dir)


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
    trained = (meta.config.get("execution") or {}).get("dtype", "fp32")
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


def _compression(subject: _Subject, cfg: EvalConfig, folder: Path, dist: Dist, log: Log) -> dict[str, Any]:
    """Bits per byte of both splits, in the model's own context length, and which corpus that was."""
    corpus = subject.corpus
    if corpus is None:
        if cfg.what.only == "bpb":
            raise NanochatError(
                f"the corpus that run {subject.meta.run} was trained on is gone",
                hint="nanochat data list",
            )
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


def _fitting_tasks(subject: _Subject, cfg: EvalConfig, log: Log) -> list[Task]:
    """The tasks asked for, else those that suit what the model was trained on; every held-out split of each."""
    if cfg.what.task:
        chosen = list(cfg.what.task)
    elif subject.meta.stage == "base":
        log.note("a base model has not learned to chat: only its text is measured (name a --task to ask anyway)")
        return []
    else:
        source = subject.corpus.manifest.get("source", {}) if subject.corpus else {}
        chosen = [name for name in names() if open_task(name).suits(source)]
        if not chosen:
            made = f" ({source['version']})" if source.get("version") else ""
            log.note(f"no task of this version of nanochat fits what this model was trained on{made}")
    first = [open_task(name) for name in chosen]
    return [open_task(task.name, split=split) for task in first for split in task.held_out]


def _ask(
    subject: _Subject, tasks: Sequence[Task], cfg: EvalConfig, folder: Path, dist: Dist, log: Log
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Counts for every task, and every prediction as it is written to disk."""
    answer = _engine(subject, cfg)

    def ask(prompts: list[list[int]], longest: int) -> list[list[int]]:
        _obey(folder, dist)
        return answer(prompts, longest)

    summaries, lines = [], []
    for task in tasks:
        items = pick(task, cfg.what.limit or DEFAULT_LIMIT)
        mine = chat.predict(task, items[dist.rank :: dist.world], subject.tokenizer, ask, log)
        everyone = _gather(mine, folder, dist)
        summaries.append(chat.summarise(task, everyone) | {"limit": cfg.what.limit or DEFAULT_LIMIT})
        lines += [json.loads(line) for line in chat.to_lines(task, everyone).splitlines()]
    return summaries, lines


def pick(task: Task, limit: int) -> list[int]:
    """The first `limit` items of each family, in order. Raises ConfigError for a task without items."""
    taken: dict[str, int] = {}
    items = []
    for i in range(len(task)):
        family = task.family(i)
        if taken.get(family, 0) < limit:
            taken[family] = taken.get(family, 0) + 1
            items.append(i)
    if not items:
        raise ConfigError(f"task has no questions: {task.name}")
    return items


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
                max_new_tokens=min(longest, cfg.what.max_new_tokens),
                stop_ids={subject.end, subject.tokenizer.bos_id},
                batch_size=cfg.what.batch_size,
            )
        for k, ids in zip(fitting, written, strict=True):
            found[k] = ids[: room - len(prompts[k])]
        return found

    return replies


def _gather(mine: list[Prediction], folder: Path, dist: Dist) -> list[Prediction]:
    """The predictions of all processes, by item; each writes its part to a file that all read."""
    if dist.world == 1:
        return mine
    part = folder / f"part-{dist.rank}.json"
    files.write_json(part, [vars(prediction) for prediction in mine])
    dist.barrier()
    found = []
    for rank in range(dist.world):
        records = json.loads((folder / f"part-{rank}.json").read_text(encoding="utf-8"))
        found += [Prediction(**record) for record in records]
    dist.barrier()
    part.unlink()
    return sorted(found, key=lambda prediction: prediction.item)


# ---- the result ------------------------------------------------------------------------------------------------------


def _publish(folder: Path, record: dict[str, Any], predictions: list[dict[str, Any]] | None) -> None:
    """Write the record; what an earlier evaluation of the same weights measured besides is kept."""
    target = folder / f"{record['stage']}.json"
    try:
        before = files.read_json(target, "the earlier evaluation")
    except NanochatError:
        before = {}
    if before.get("weights_sha256") == record["weights_sha256"]:
        record = before | record
    if predictions is not None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in predictions)
        files.write_atomic(target.with_suffix(".jsonl"), text)
    files.write_json(target, record)


def _headline(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the command shows, and the full record for `--json`."""
    found: dict[str, Any] = {"evaluated": record["stage"], "step": record["step"]}
    for split, values in (record.get("bpb") or {}).items():
        found[f"{split}_bpb"] = values["bpb"]
    for task in record.get("tasks") or ():
        whole = task["all"]
        found[f"{task['task']}_{task['split']}"] = f"{whole['correct']} of {whole['total']}"
    found["file"] = str(folder / f"{record['stage']}.json")
    found["record"] = dict(record)
    return found
