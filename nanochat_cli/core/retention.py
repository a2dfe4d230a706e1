"""Which checkpoints of a stage stay. None is deleted before those that stay were read and found good."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path

from nanochat_cli.core import files, run_tags, stepdirs
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.runs import checkpoint_steps
from nanochat_cli.core.stepdirs import Keep

_SETTLED_NS = 1_000_000_000
"""A file changed within this time could change again without showing it in its times."""
Signature = tuple[tuple[str, int, int, tuple[int, int]], ...]
_known: dict[Path, Signature] = {}
"""Step folders that this process has read and found good, and what their files looked like then."""


def prune(stage_dir: Path, newest: int, keep: Keep) -> list[int]:
    """Delete the steps up to `newest` that need not stay and return them; raises if `newest` does not verify.

    A damaged step does not count among the last ones, and is left for `runs repair`.
    """
    steps = [step for step in checkpoint_steps(stage_dir) if step <= newest]
    marked = {stepdirs.best_step(stage_dir), *run_tags.steps_of(stage_dir)}
    stay = {step for step in steps if step in marked or (keep.every is not None and step % keep.every == 0)}
    if not set(steps[: -keep.last]) - stay:
        return []
    _check(stepdirs.step_dir(stage_dir, newest))
    good, doomed = 0, []
    for step in reversed(steps):
        if (good < keep.last or step not in stay) and _is_good(stepdirs.step_dir(stage_dir, step)):
            good += 1
            if good > keep.last:
                doomed.append(step)
    doomed = sorted(set(doomed) - stay)
    _delete([stepdirs.step_dir(stage_dir, step) for step in doomed])
    return doomed


def _delete(doomed: list[Path]) -> None:
    """Rename, then delete: a folder half deleted by a crash must not look like a damaged checkpoint."""
    trash = [path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp") for path in doomed]
    for path, away in zip(doomed, trash, strict=True):
        path.rename(away)
        _known.pop(path, None)
    if trash:
        files.fsync_dir(trash[0].parent)  # else the old name could come back after a power cut, with half its files
    for away in trash:
        shutil.rmtree(away, ignore_errors=True)


def _is_good(path: Path) -> bool:
    try:
        _check(path)
    except (NanochatError, OSError):
        return False
    return True


def _check(path: Path) -> None:
    """Raise as `stepdirs.verify` does; a folder is read again only if a file has changed since this process read it."""
    looks = _signature(path)
    if _known.get(path) == looks:
        return
    _known.pop(path, None)
    stepdirs.verify(path)
    if max(max(changed) for *_, changed in looks) < time.time_ns() - _SETTLED_NS:
        _known[path] = looks


def _signature(path: Path) -> Signature:
    found = sorted(path.rglob("*"))
    stats = [(entry.relative_to(path).as_posix(), entry.lstat()) for entry in found]
    return tuple((name, stat.st_size, stat.st_ino, (stat.st_mtime_ns, stat.st_ctime_ns)) for name, stat in stats)
