"""ChatCORE: one figure for a chat model, the mean of its tasks' accuracies, each centered on chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat_cli.core.eval.intervals import mean_centered

NAMES = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spellingbee")
"""The tasks of the published score. Of other tasks (a generated world's) no mean is taken."""


def summarise(tasks: Sequence[Mapping[str, Any]], baselines: Mapping[str, float]) -> dict[str, Any] | None:
    """The score over those of its tasks that were asked, with its 95 % interval; None if none was.

    `tasks` are the stored counts, `baselines` the share right by chance by name. Which tasks, and how many questions of
    each at most, is part of the result: a score of some tasks is not comparable with one of all.
    """
    asked = [t for t in tasks if t["task"] in NAMES and t.get("held_out") and t["all"]["total"]]
    if not asked:
        return None
    counts = [(t["all"]["correct"], t["all"]["total"], baselines[t["task"]]) for t in asked]
    mean, low, high = mean_centered(counts)
    record = {
        "chat_core": round(mean, 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "tasks": [t["task"] for t in asked],
        "full_tasks": len(NAMES),
        "limit": max((t.get("limit") or 0 for t in asked), default=0) or None,
    }
    return record | {"label": label(record)}


def label(record: Mapping[str, Any]) -> str:
    """The name of a score, which says what is special about it."""
    told = []
    if len(record["tasks"]) != record["full_tasks"]:
        told.append(f"{len(record['tasks'])} of {record['full_tasks']} tasks")
    if record["limit"]:
        told.append(f"at most {record['limit']} questions a task")
    return f"ChatCORE ({', '.join(told)})" if told else "ChatCORE"
