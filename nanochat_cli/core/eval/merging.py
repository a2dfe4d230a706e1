"""What one evaluation adds to an earlier one of the same weights: task by task, and never a poorer answer for a fuller.

Whoever asks one task again, or a few questions of each, must not lose the hours that all of them took.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat_cli.core import files
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.eval import chat_core, core_metric
from nanochat_cli.core.events import Log
from nanochat_cli.core.tasks.base import names, task_class

Counts = Mapping[str, Any]
Key = tuple[Any, ...]


def merge(before: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The record to store: all that was measured, with scores of all tasks. `before` is of the same weights, or {}."""
    merged = {**before, **record}
    if "core" in before and "core" in record:
        tasks = union(before["core"].get("tasks"), record["core"]["tasks"], core_key)
        tables = [t for t in record["core"]["scores"] if all(t in counts["baselines"] for counts in tasks)]
        merged["core"] = core_metric.summarise(tasks, tables)
    if "tasks" in before and "tasks" in record:
        merged["tasks"] = union(before["tasks"], record["tasks"], task_key)
        merged.pop("chat_core", None)
        if score := chat_core.summarise(merged["tasks"], baselines()):
            merged["chat_core"] = score
    return merged


def union(before: Any, now: Sequence[Counts], key: Callable[[Counts], Key]) -> list[Any]:
    """The counts of both, one of each key: those of now, unless those from before are of more questions."""
    found = {key(counts): counts for counts in _readable(before)}
    for counts in now:
        if not stays(found.get(key(counts)), counts):
            found[key(counts)] = counts
    return list(found.values())


def stays(before: Counts | None, now: Counts) -> bool:
    """Whether counts from before are of more questions than those of now, which asks only some of the same data."""
    if before is None or now.get("limit") is None:
        return False
    if before.get("data") and now.get("data") and before["data"] != now["data"]:
        return False
    return total(before) > total(now)


def total(counts: Counts) -> int:
    """Number of questions, of CORE's tasks and of ours."""
    return int(counts["all"]["total"] if "all" in counts else counts["total"])


def staying(before: Any, now: Iterable[Counts], key: Callable[[Counts], Key], log: Log) -> set[Key]:
    """Keys of counts from before that stay although the same was asked now, each of them told."""
    known = {key(counts): counts for counts in _readable(before)}
    found = set()
    for counts in now:
        old = known.get(key(counts))
        if old is not None and stays(old, counts):
            found.add(key(counts))
            name = " ".join(map(str, key(counts)))
            log.note(f"{name}: the earlier result of {total(old):,} questions stays on record; now {total(counts):,}")
    return found


def earlier(path: Path, weights: str) -> dict[str, Any]:
    """The stored record, if it can be read and is of the same weights; else {}."""
    try:
        before = files.read_json(path, "the earlier evaluation")
    except NanochatError:
        return {}
    return before if before.get("weights_sha256") == weights else {}


def merge_lines(path: Path, lines: Sequence[Counts], keep: Callable[[Key], bool]) -> list[Counts]:
    """Lines to store: those of a file whose task `keep` wants, then those of `lines` whose task it does not."""
    old = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            if keep(task_key(line)):
                old.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    there = {task_key(line) for line in old}
    return old + [line for line in lines if task_key(line) not in there]


def core_key(counts: Counts) -> Key:
    """What makes two tasks of CORE the same."""
    return (counts["task"],)


def task_key(counts: Counts) -> Key:
    """What makes two of our tasks the same."""
    return counts["task"], counts["split"]


def baselines() -> dict[str, float]:
    """The share right by chance in each task of ChatCORE."""
    return {name: task_class(name).baseline for name in names() if name in chat_core.NAMES}


def _readable(before: Any) -> list[Counts]:
    """Counts of a stored record; what an older version or another hand wrote differently is dropped."""
    found = []
    for counts in before if isinstance(before, list) else ():
        core = isinstance(counts, dict) and {"task", "correct", "total", "baselines", "limit", "cropped"} <= set(counts)
        ours = isinstance(counts, dict) and {"task", "split", "all"} <= set(counts) and "total" in counts["all"]
        if core or ours:
            found.append(counts)
    return found
