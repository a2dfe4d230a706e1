"""Brings a run back into order after kills, full disks and bad sectors: good checkpoints stay, damaged ones step aside.

Nothing that could still be of use is deleted unless that is asked for; what is running is left alone.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from nanochat_cli import __version__
from nanochat_cli.core import files, paths, run_removal, run_tags, runlock, runs, stepdirs
from nanochat_cli.core.errors import DamagedArtifact, MissingArtifact, NanochatError, NewerVersion
from nanochat_cli.core.run_details import made_with

DAMAGED = "damaged-"
_STOP = "stop"


@dataclass(frozen=True)
class Finding:
    """One thing that was out of order, and what was done about it. `repaired` False: it needs a person."""

    run: str
    stage: str | None
    path: Path
    problem: str
    action: str
    repaired: bool = True


class _Repair:
    """One pass over a run; a dry one only tells."""

    def __init__(self, run: str, *, dry_run: bool, delete: bool) -> None:
        self.run, self.dry_run, self.delete = run, dry_run, delete
        self.found: list[Finding] = []

    def note(
        self, path: Path, problem: str, action: str, do: Callable[[], object] | None = None, *, repaired: bool = True
    ) -> None:
        """Do something about a problem, unless this is a dry run, and write it down."""
        stage = path.relative_to(paths.run_dir(self.run)).parts[:1]
        if do is not None and not self.dry_run:
            with files.explain_os_errors(str(path)):
                do()
        named = stage[0] if stage and stage[0] in runs.STAGES else None
        self.found.append(Finding(self.run, named, path, problem, action, repaired))

    def out_of_the_way(self, path: Path, problem: str) -> None:
        """Rename something damaged, or delete it if that was asked for."""
        if self.delete:
            self.note(path, problem, "deleted", lambda: _delete(path))
            return
        away = path.with_name(f"{DAMAGED}{path.name}-{uuid.uuid4().hex[:6]}")
        self.note(path, problem, f"renamed to {away.name}", lambda: path.rename(away))


def repair(run: str, *, dry_run: bool = False, delete: bool = False) -> list[Finding]:
    """Put a run in order and return what was found; an entry with `repaired` False is left for a person.

    `delete` also deletes damaged checkpoints, instead of only renaming them.
    """
    work = _Repair(run, dry_run=dry_run, delete=delete)
    folder = paths.run_dir(run)
    for stage in runs.STAGES:
        if (place := folder / stage).is_dir() and not place.is_symlink():
            _stage_alone(work, place)
    _leftovers(work, folder)
    _run_record(work)
    _tags(work)
    return work.found


def _stage_alone(work: _Repair, folder: Path) -> None:
    if who := runlock.holder(folder):
        work.note(folder, f"is being worked on ({who})", "left alone")
        return
    if runlock.has_stale_mark(folder):
        work.note(folder / runlock.MARK, "a lock whose holder is gone", "deleted")  # taking the lock does it
    with contextlib.ExitStack() as held:
        if not work.dry_run:
            with files.explain_os_errors("the stage folder"):
                held.enter_context(runs.lock(folder, wait_s=1.0, takeover=None))
        _stage(work, folder)


def _stage(work: _Repair, folder: Path) -> None:
    had = bool(_step_folders(folder)) or runs.is_finished(folder)
    _leftovers(work, folder)
    if (folder / _STOP).exists():
        work.note(folder / _STOP, "a request to stop that nobody waits for", "deleted", (folder / _STOP).unlink)
    bad = _steps(work, folder)
    good = [step for step in runs.checkpoint_steps(folder) if step not in bad]
    good += _set_aside(work, folder, good)
    if had and not good:
        work.note(folder, "no good checkpoint is left", "train this stage again", repaired=False)
    if work.dry_run:
        wanted = f"step-{max(good):06d}" if good else ""
        if _text(folder / "latest") != wanted:
            work.note(folder / "latest", "does not name the newest good checkpoint", "rewritten")
    elif run_removal.point_to_newest(folder):
        work.note(folder / "latest", "does not name the newest good checkpoint", "rewritten")
    _records(work, folder, good)


def _step_folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if runs.STEP_DIR.fullmatch(child.name))


def _steps(work: _Repair, folder: Path) -> set[int]:
    """Verify every step, put the damaged ones out of the way and return which those were."""
    bad: set[int] = set()
    for path in _step_folders(folder):
        try:
            if path.is_symlink():
                raise DamagedArtifact("a symbolic link, which is not followed")
            stepdirs.verify(path)
        except NewerVersion as problem:
            work.note(path, str(problem), "left alone", repaired=False)
        except (DamagedArtifact, MissingArtifact) as problem:
            bad.add(stepdirs.step_of(path))
            work.out_of_the_way(path, str(problem))
        except NanochatError as problem:  # a file that may not be read is not known to be damaged
            work.note(path, str(problem), "left alone", repaired=False)
    if work.delete:
        for path in sorted(folder.glob(f"{DAMAGED}*")):
            work.note(path, "set aside as damaged earlier", "deleted", lambda path=path: _delete(path))
    return bad


def _set_aside(work: _Repair, folder: Path, good: Iterable[int]) -> list[int]:
    """Bring back what a killed save had set aside and not replaced; delete it where its step is good.

    What was left on purpose is only told of: brought back, it would be taken for the newest.
    """
    back: list[int] = []
    for path in runs.left_steps(folder):
        work.note(path, "training was taken back from it to an earlier step", "left alone")
    former = [path for path in sorted(folder.glob(f"{stepdirs.FORMER}*")) if path.is_dir()]
    for path in sorted(folder.glob(f"{stepdirs.ASIDE}*")):
        match = stepdirs.ASIDE_DIR.fullmatch(path.name)
        if match is None:
            continue
        name, step = match[1], int(match[1].removeprefix("step-"))
        if step in (*good, *back):
            former.append(path)
        elif _verifies(path):
            final = folder / name
            work.note(
                path, "set aside by a save that was killed", f"restored as {name}", lambda p=path, f=final: p.rename(f)
            )
            back.append(step)
        else:
            work.out_of_the_way(path, "set aside, and damaged")
    for path in former:
        work.note(path, "the former content of a step that was saved again", "deleted", lambda p=path: _delete(p))
    return back


def _verifies(path: Path) -> bool:
    try:
        stepdirs.verify(path)
    except NanochatError:
        return False
    return True


def _leftovers(work: _Repair, folder: Path) -> None:
    for path in sorted(folder.glob(".*.tmp")):
        work.note(path, "left behind by a process that was killed", "deleted", lambda path=path: _delete(path))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---- the records beside the checkpoints ------------------------------------------------------------------------------


def _records(work: _Repair, folder: Path, good: list[int]) -> None:
    if _is_damaged(folder / "result.json"):
        work.out_of_the_way(folder / "result.json", "the stage's result is damaged")
    path = folder / "config.json"
    damaged = _is_damaged(path)
    if not damaged and (path.exists() or not good):
        return
    made = made_with(work.run, folder.name, max(good)) if good else {}
    if not isinstance(made.get("config"), dict):
        work.note(path, "the stage's config is damaged", "start the stage anew", repaired=False)
        return
    record = {"format": 1, "version": made.get("version", __version__), "stage": folder.name, "run": work.run}
    record |= {"resume": False, "command": made.get("command", ""), "config": made["config"]}
    problem = "the stage's config is damaged" if damaged else "the stage's config is missing"
    work.note(path, problem, f"written anew from step {max(good)}", lambda: files.write_json(path, record))


def _run_record(work: _Repair) -> None:
    path = paths.run_dir(work.run) / "run.json"
    if path.exists() and not _is_damaged(path):
        return
    problem = "the run's record is damaged" if path.exists() else "the run's record is missing"
    created = runs.last_worked(paths.run_dir(work.run)) or time.time()
    record = {"format": 1, "name": work.run, "created": created, "repaired": time.time()}
    work.note(path, problem, "written anew", lambda: files.write_json(path, record))


def _tags(work: _Repair) -> None:
    path = paths.run_dir(work.run) / run_tags.FILE
    if _is_damaged(path):
        work.out_of_the_way(path, "the run's tags are damaged")
    for tag in run_tags.of_run(work.run):
        if tag.dangling:
            work.note(path, f"tag {tag.name} of {tag.target}: {tag.dangling}", f"nanochat runs tag --delete {tag.name}")


def _is_damaged(path: Path) -> bool:
    try:
        if path.is_file():
            files.read_json(path, "the record")
    except DamagedArtifact:
        return True
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def repairable() -> list[str]:
    """Return every folder among the runs that is one, also without the record that makes it listed."""
    root = paths.runs_dir()
    if not root.is_dir():
        return []
    found = (child for child in sorted(root.iterdir()) if paths.is_name(child.name) and not child.is_symlink())
    return [c.name for c in found if (c / "run.json").exists() or any((c / stage).is_dir() for stage in runs.STAGES)]
