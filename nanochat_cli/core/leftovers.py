"""What a stage leaves behind that failed before it did anything: nothing, so that a second try finds a clean place.

Only folders that the failed command made itself are taken away, and only if nothing came of them: no checkpoint, no
step, no measurement. A failure whose reason is in the workers' log keeps that log, and with it the folder.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from types import TracebackType

from nanochat_cli.core import errors, events, paths, runs
from nanochat_cli.core.errors import Diverged, NanochatError

_WORK = ("step", "eval", "sample", "saved", "resumed", "stopped", "done")
"""Kinds of events that only work leaves."""


class Leftovers:
    """Notes which folders of a stage are there before it starts, and clears away the others after a failed start.

    Make it before anything is created; `leave` is an exit function for a context, to be called while the stage's lock
    is still held.
    """

    def __init__(self, run: str, stage_dir: Path, log_path: Path) -> None:
        self._dir, self._log = stage_dir, log_path
        self._new_stage = not stage_dir.exists()
        self._run_dir = paths.run_dir(run) if paths.runs_dir() in stage_dir.parents else None
        self._new_run = self._run_dir is not None and not self._run_dir.exists()

    def leave(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear away what was made for nothing, if there is a problem that tells all there is to know."""
        if not self._new_stage or not _tells_all(problem, self._log) or _has_come_to_something(self._dir):
            return
        shutil.rmtree(self._dir, ignore_errors=True)
        if self._new_run and self._run_dir is not None:
            left = {path.name for path in self._run_dir.iterdir()} if self._run_dir.is_dir() else set[str]()
            if left <= {"run.json"}:
                (self._run_dir / "run.json").unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # another command has put something there in this moment
                    self._run_dir.rmdir()


def _tells_all(problem: BaseException | None, log_path: Path) -> bool:
    """Whether an error says in one line what was wrong; a bug's traceback and a killed worker's words are in the log.

    Who left at once by Ctrl-C, or whose training diverged, was not refused: what there is stays.
    """
    if not isinstance(problem, NanochatError) or isinstance(problem, Diverged):
        return False
    if problem.exit_code in (errors.EXIT_BUG, errors.EXIT_INTERRUPTED):
        return False
    return str(log_path) not in f"{problem} {problem.hint or ''}"


def _has_come_to_something(folder: Path) -> bool:
    if runs.checkpoint_steps(folder) or runs.is_finished(folder):
        return True
    return any(event["kind"] in _WORK for event in events.read(folder / "events.jsonl"))
