"""Deleting runs, stages and checkpoints: all that stands against it is told first, and a crash leaves nothing half."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from nanochat_cli.core import files, paths, run_lineage, run_state, run_tags, runlock, runs
from nanochat_cli.core.errors import ConfigError, NanochatError
from nanochat_cli.core.run_names import Ref


@dataclass(frozen=True)
class Removal:
    """A run, stage or checkpoint that may be deleted, and what that frees and breaks."""

    ref: Ref
    path: Path
    size_bytes: int
    tags: list[run_tags.Tag]
    children: list[run_lineage.Place]


def plan(refs: list[Ref], *, force: bool = False) -> list[Removal]:
    """Return what would be deleted. Raises NanochatError for what is running, linked, tagged or started from.

    The latter two yield to `force`. What is deleted together does not protect each other.
    """
    _refuse_nested(refs)
    found = [_look(ref) for ref in refs]
    doomed = {ref.run for ref in refs if ref.stage is None} | {
        f"{r.run}/{r.stage}" for r in refs if r.step is None and r.left is None
    }
    for item in found:
        left = [child for child in item.children if not {child.run, f"{child.run}/{child.stage}"} & doomed]
        if left and not force:
            raise NanochatError(
                f"other stages were started from {item.ref}: {', '.join(map(str, left))}",
                hint="they work on, but cannot be resumed or retraced; --force deletes it all the same",
            )
        if item.tags and not force:
            raise NanochatError(
                f"tagged, so it is kept: {', '.join(f'{tag.name} is {tag.target}' for tag in item.tags)}",
                hint=f"nanochat runs tag --delete {item.tags[0].name}, or --force",
            )
    return found


def _refuse_nested(refs: list[Ref]) -> None:
    names = [str(ref) for ref in refs]
    for name in names:
        if names.count(name) > 1 or any(name.startswith(f"{other}/") for other in names):
            raise ConfigError(f"named twice: {name}")


def _look(ref: Ref) -> Removal:
    path = folder_of(ref)
    _refuse_links(path)
    for folder in _worked_in(ref):
        if who := runlock.holder(folder):
            raise NanochatError(f"{ref} is being worked on: {folder} ({who})", hint="wait for it, or stop it first")
    tags = [
        tag
        for tag in run_tags.of_run(ref.run)
        if ref.left is None and ref.stage in (None, tag.stage) and ref.step in (None, tag.step) and tag.dangling is None
    ]
    children = run_lineage.children(ref.run, ref.stage, ref.step) if ref.left is None else []
    return Removal(ref, path, run_state.tree_size(path), tags, children)


def folder_of(ref: Ref) -> Path:
    """Return the folder of a run, a stage or a checkpoint."""
    folder = paths.run_dir(ref.run) if ref.stage is None else runs.stage_dir(ref.run, ref.stage)
    if ref.left is not None:
        return folder / ref.left
    return folder if ref.step is None else folder / f"step-{ref.step:06d}"


def _refuse_links(path: Path) -> None:
    """Raise NanochatError if a folder on the way from the runs to `path` is a link: it may lead anywhere."""
    for part in (path, *path.parents):
        if part == paths.runs_dir():
            return
        if part.is_symlink():
            raise NanochatError(
                f"a symbolic link is not followed: {part} -> {os.readlink(part)}",
                hint=f"remove the link by hand, then what it leads to: rm {part}",
            )


def _worked_in(ref: Ref) -> list[Path]:
    """The folders that have a lock of their own and lose something."""
    if ref.stage is not None:
        return [runs.stage_dir(ref.run, ref.stage)]
    root = paths.run_dir(ref.run)
    inside = (child for child in sorted(root.iterdir()) if child.is_dir() and not child.is_symlink())
    return [root, *(child for child in inside if (child / runlock.LOCK).exists() or child.name in runs.STAGES)]


def carry_out(item: Removal) -> int:
    """Delete what was planned and return the bytes that this freed.

    It is renamed first, so whatever happens then, no half run is left; what a crash leaves is swept later.
    """
    path, folder = item.path, item.path.parent
    away = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with files.explain_os_errors(f"to {folder}"), contextlib.ExitStack() as held:
        for own in _worked_in(item.ref):
            held.enter_context(runs.lock(own, wait_s=1.0, takeover=None))
        _refuse_links(path)
        path.rename(away)
        files.fsync_dir(folder)
        if item.ref.step is not None:
            point_to_newest(folder)
        for tag in item.tags:
            if item.ref.stage is not None:
                run_tags.delete(tag.name, tag.run)
    with files.explain_os_errors(f"to {folder}"):
        shutil.rmtree(away)
    return item.size_bytes


def sweep() -> None:
    """Delete what an earlier removal was killed over."""
    if os.access(paths.runs_dir(), os.W_OK):
        files.sweep_staging(paths.runs_dir())


def point_to_newest(stage_dir: Path) -> bool:
    """Let `latest` name the newest checkpoint of a stage, and return whether it did not."""
    steps, pointer = runs.checkpoint_steps(stage_dir), stage_dir / "latest"
    wanted = f"step-{steps[-1]:06d}\n" if steps else None
    try:
        told = pointer.read_text(encoding="utf-8") if pointer.exists() else None
    except (OSError, ValueError):
        told = ""
    if told == wanted:
        return False
    if wanted is None:
        pointer.unlink(missing_ok=True)
    else:
        files.write_atomic(pointer, wanted)
    return True
