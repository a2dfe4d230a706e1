"""Starting a training again when it dies or hangs, from its last good checkpoint, as long as that gets it further."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from nanochat_cli.core import events, launch, runs
from nanochat_cli.core.errors import (
    ConfigError,
    DamagedArtifact,
    DataError,
    Diverged,
    EnvironmentLacks,
    InUse,
    MissingArtifact,
    NanochatError,
)
from nanochat_cli.core.launch import Plan

_HOPELESS = (
    ConfigError,
    DamagedArtifact,
    DataError,
    Diverged,
    EnvironmentLacks,
    InUse,
    MissingArtifact,
    launch.Interrupted,
)
"""What would only happen again."""
_WITHOUT_PROGRESS = 2
"""So many restarts in a row that bring no new checkpoint are enough."""
_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0


def run(
    job: Plan,
    on_event: Callable[[events.Event], None],
    *,
    start: Callable[[Plan, Callable[[events.Event], None]], dict[str, Any]] = launch.run,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Do what `launch.run` does, and again after a failure; the result tells the `restarts`.

    Raises the last failure when there were too many, when two in a row brought no new checkpoint, or when starting
    again cannot help.
    """
    most = job.config.guard.max_restarts
    idle = 0
    for attempt in range(most + 1):
        before = _newest(job)
        try:
            outcome = start(dataclasses.replace(job, attempt=attempt), on_event)
            return {**outcome, "restarts": attempt} if attempt else outcome
        except NanochatError as problem:
            idle = 0 if _newest(job) > before or not attempt else idle + 1
            if attempt == most or isinstance(problem, _HOPELESS) or (job.dir / runs.STOP_FILE).exists():
                raise  # the last of these: somebody wants it to end
            if idle == _WITHOUT_PROGRESS:
                raise NanochatError(
                    f"given up: {idle} restarts in a row brought no new checkpoint; the last failure was: {problem}",
                    hint=problem.hint,
                ) from problem
            text = f"{problem}: starting again from {_where(job)} (restart {attempt + 1} of {most})"
            on_event({"kind": "warning", "time": time.time(), "text": text})
            events.FileLog(job.dir / "events.jsonl").warning(text)
        pause(min(_LONGEST_PAUSE_S, _PAUSE_S * 2**idle))
        job = dataclasses.replace(job, resume=True, resume_step=None)
    raise AssertionError("unreachable")


def _newest(job: Plan) -> int:
    return max(runs.checkpoint_steps(job.dir), default=-1)


def _where(job: Plan) -> str:
    newest = _newest(job)
    return f"step {newest}" if newest >= 0 else "the beginning"
