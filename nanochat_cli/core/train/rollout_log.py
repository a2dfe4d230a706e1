"""What was sampled and what it earned, with its text, as lines of JSON in the stage's folder: bounded in size."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat_cli.core import files
from nanochat_cli.core.events import Log

FILE = "rollouts.jsonl"
OLDER = "rollouts.1.jsonl"
MAX_BYTES = 32 << 20
"""Of each of the two files: when one is full it becomes the older one, and what was older goes."""
_LONGEST = 4000


class RolloutLog:
    """Appends the answers of each step, up to so many, the best and the worst of each group among them.

    A disk that is full ends the logging with a warning, not the training.
    """

    def __init__(self, folder: Path, per_step: int, log: Log, *, resumed_at: int | None = None) -> None:
        self._path, self._per_step, self._log = folder / FILE, per_step, log
        self._off = per_step < 1
        if resumed_at is None:
            for name in (FILE, OLDER):
                (folder / name).unlink(missing_ok=True)
        elif self._path.is_file():
            self._forget_after(resumed_at)

    def add(self, step: int, groups: Sequence[Sequence[Any]]) -> None:
        """Write rollouts of update `step` (counted from 1), which have a question, text, reward and reply."""
        if self._off:
            return
        lines = "".join(_line(step, number, rollout) for number, rollout in _chosen(groups, self._per_step))
        try:
            if self._path.is_file() and self._path.stat().st_size + len(lines) > MAX_BYTES:
                self._path.replace(self._path.with_name(OLDER))
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(lines)
        except OSError as problem:
            self._off = True
            self._log.warning(f"sampled answers are no longer logged: {problem}")

    def _forget_after(self, step: int) -> None:
        """Drop the lines of steps that are done again."""
        kept = [line for line in self._path.read_text(encoding="utf-8").splitlines() if 0 < _step(line) <= step]
        files.write_atomic(self._path, "".join(f"{line}\n" for line in kept))


def _chosen(groups: Sequence[Sequence[Any]], limit: int) -> list[tuple[int, Any]]:
    """Up to `limit` (number of group, rollout): from each group in turn its best, its worst, then those between."""
    queues = []
    for group in groups:
        ranked = sorted(group, key=lambda rollout: -rollout.reward)
        queues.append(ranked[:1] + ranked[-1:] * (len(ranked) > 1) + ranked[1:-1])
    deepest = max(map(len, queues), default=0)
    in_turn = [(n, queue[depth]) for depth in range(deepest) for n, queue in enumerate(queues) if depth < len(queue)]
    return in_turn[:limit]


def _line(step: int, group: int, rollout: Any) -> str:
    facts = {
        "step": step,
        "group": group,
        "reward": rollout.reward,
        "tokens": len(rollout.reply),
        "question": rollout.question[:_LONGEST],
        "text": rollout.text[:_LONGEST],
    }
    return json.dumps(facts, ensure_ascii=False) + "\n"


def _step(line: str) -> int:
    with contextlib.suppress(ValueError):
        facts = json.loads(line)
        if isinstance(facts, dict) and isinstance(facts.get("step"), int):
            return facts["step"]
    return 0
