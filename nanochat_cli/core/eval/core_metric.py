"""The CORE score of a base model: tasks of the evaluation bundle, each centered on its random baseline, then averaged.

Source: DCLM, arXiv 2406.11794; tasks and prompts of nanochat's bundle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.eval import icl
from nanochat_cli.core.eval.bundle import FULL, TABLES, Bundle, IclTask
from nanochat_cli.core.eval.intervals import centered, mean_centered, wilson
from nanochat_cli.core.eval.kept import Kept, Line
from nanochat_cli.core.eval.nets import Codec, Net
from nanochat_cli.core.eval.scoring import Result, score
from nanochat_cli.core.events import NULL, Log


def answer_tasks(
    net: Net,
    codec: Codec,
    bundle: Bundle,
    folder: Path,
    dist: Dist,
    *,
    limit: int | None = None,
    log: Log = NULL,
    between: Callable[[], None] = lambda: None,
) -> list[tuple[dict[str, Any], list[Line]]]:
    """For each task its counts and every single answer. Answers in `folder` from an earlier attempt are taken over.

    `between` is called between batches and may raise to stop. Answers so far stay in `folder`.
    """
    found = []
    for number, task in enumerate(bundle.tasks, 1):
        began = time.perf_counter()
        if dist.is_main:
            icl.questions(task, codec, limit)  # into the cache, for all
        dist.barrier()
        asked = icl.questions(task, codec, limit)
        kept = Kept(folder, task.label, dist)
        label = f"{task.label} ({number} of {len(bundle.tasks)})"
        _answer(net, codec, task, asked, kept, label, log, between)
        lines = kept.all()
        counts = _counts(task, asked, lines, codec, limit)
        if counts["cropped"]:
            log.note(
                f"{task.label}: {counts['cropped']} of {counts['total']} questions were longer than the model's context"
                f" of {net.context} tokens and lost their beginning"
            )
        found.append((counts | {"seconds": round(time.perf_counter() - began, 2)}, lines))
    return found


def _answer(
    net: Net,
    codec: Codec,
    task: IclTask,
    asked: icl.Questions,
    kept: Kept,
    label: str,
    log: Log,
    between: Callable[[], None],
) -> None:
    mine = kept.left(range(len(asked.spans)))
    done, total = len(kept.done), len(kept.done) + len(mine)
    cropped = {i: [span.cropped(net.context) for span in asked.spans[i]] for i in mine}
    between()
    for batch in score(net, [cropped[i] for i in mine]):
        lines = []
        for number, results in batch:
            i = mine[number]
            lost = max(len(s.ids) for s in asked.spans[i]) - max(len(s.ids) for s in cropped[i])
            lines.append({"item": i, **judge(task, results, asked.gold[i], codec), "cropped": lost})
        kept.add(lines)
        done += len(lines)
        log.progress(label, done, total, "questions")
        between()


def judge(task: IclTask, results: Sequence[Result], gold: int, codec: Codec) -> Line:
    """What the model chose and whether that is right.

    Choices: the lowest loss per token wins, the first one of equals. Language modelling: every token must be the one
    that greedy decoding would write.
    """
    if task.kind == "language_modeling":
        (only,) = results
        return {"correct": only.greedy, "said": codec.decode(only.best), "nats": round(only.nats, 6)}
    means = [result.mean for result in results]
    chosen = means.index(min(means))
    return {"correct": chosen == gold, "chosen": chosen, "gold": gold, "nats": [round(mean, 6) for mean in means]}


def _counts(task: IclTask, asked: icl.Questions, lines: list[Line], codec: Codec, limit: int | None) -> dict[str, Any]:
    correct, total = sum(line["correct"] for line in lines), len(lines)
    low, high = wilson(correct, total)
    share = correct / total
    return {
        "task": task.label,
        "kind": task.kind,
        "correct": correct,
        "total": total,
        "accuracy": round(share, 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "baselines": dict(task.baselines),
        "centered": {name: round(centered(share, base), 6) for name, base in task.baselines.items()},
        "shots": min(task.shots, len(asked.spans) - 1),
        "limit": limit if limit is not None and len(task.items()) > total else None,
        "cropped": sum(line["cropped"] > 0 for line in lines),
        "unaligned": asked.unaligned,
    }


def summarise(counts: Sequence[dict[str, Any]], tables: Sequence[str]) -> dict[str, Any]:
    """What is stored: the score by each table of baselines, and the counts of all tasks."""
    scores: dict[str, dict[str, Any]] = {}
    for name in tables:
        mean, low, high = mean_centered([(c["correct"], c["total"], c["baselines"][name]) for c in counts])
        scores[name] = {"core": round(mean, 6), "low": round(low, 6), "high": round(high, 6)}
    record = {
        "scores": scores,
        "num_tasks": len(counts),
        "full_tasks": FULL,
        "limit": max((c["limit"] for c in counts if c["limit"]), default=None),
        "limited_tasks": sum(bool(c["limit"]) for c in counts),
        "cropped": sum(c["cropped"] for c in counts),
        "tasks": list(counts),
    }
    for name, values in scores.items():
        values["label"] = label(record, name)
    return record


def check_table(bundle: Bundle, name: str) -> None:
    """Raise ConfigError if the bundle lacks the table of baselines that is asked for."""
    if name not in bundle.tables:
        raise ConfigError(
            f"this evaluation bundle has no baselines {name}: {bundle.folder / TABLES[name]} is missing",
            hint=f"--baselines {bundle.tables[0]}",
        )


def label(record: dict[str, Any], table: str) -> str:
    """The name of a score, which says what is special about it: baselines, missing tasks, fewer questions, crops."""
    told = [f"{table} baselines"]
    if record["num_tasks"] != record["full_tasks"]:
        told.append(f"{record['num_tasks']} of {record['full_tasks']} tasks")
    if record["limit"]:
        some = record["limited_tasks"]
        told.append(f"at most {record['limit']} questions {_where(some, record['num_tasks'])}")
    if record["cropped"]:
        told.append(f"{record['cropped']} cropped")
    return f"CORE ({', '.join(told)})"


def _where(some: int, all: int) -> str:
    return "a task" if some == all else f"in {some} of them"
