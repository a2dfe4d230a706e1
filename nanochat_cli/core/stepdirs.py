"""Step folders of a stage: written beside, hashed, published by one rename, verified before use. No torch here.

`runs/<run>/<stage>/step-000200/` holds a `MANIFEST.json` with size and SHA-256 of every other file in it; `latest`
beside it names the newest. A folder without a fitting manifest is never read.
"""

from __future__ import annotations

import errno
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nanochat_cli import __version__
from nanochat_cli.core import faults, files, run_names, runs, unsafe
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, MissingArtifact, NanochatError, NewerVersion
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.runs import MANIFEST, STEP_DIR, checkpoint_steps

FORMAT = 1
WEIGHTS = "model.safetensors"
OPTIM = "optim.safetensors"
"""The optimizer's state; of several processes, each writes a file of its own whose name begins like this one's."""
ASIDE, FORMER = "aside-", "former-"
"""What a step folder's name begins with while another is to take its place, and once one has."""
ASIDE_DIR = re.compile(rf"{ASIDE}(step-\d{{6,}})-[0-9a-f]{{6}}")
BEST = "best.json"
"""Beside the steps: which one validated best."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints stay: the last ones, every so many steps one for good, and the best if one is marked."""

    last: int = 2
    every: int | None = None


class Hashed(Protocol):
    """Size and SHA-256 of a file that was just written."""

    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...


def step_dir(stage_dir: Path, step: int) -> Path:
    """Return the folder of one step."""
    return stage_dir / f"step-{step:06d}"


def step_of(path: Path) -> int:
    """Return the step that a step folder is named after. Raises ConfigError for any other name."""
    match = STEP_DIR.fullmatch(path.name)
    if not match:
        raise ConfigError(f"not a step folder: {path}")
    return int(match[1])


# ---- writing ---------------------------------------------------------------------------------------------------------


def require_space(stage_dir: Path, num_bytes: int) -> None:
    """Raise NanochatError if the disk cannot take `num_bytes` with a fifth to spare."""
    free = files.free_space(stage_dir)
    if free < 1.2 * num_bytes:
        raise NanochatError(
            f"not enough disk space for a checkpoint of {num_bytes / 1e6:,.1f} MB: {free / 1e6:,.1f} MB free",
            hint="free some space and resume; earlier checkpoints are intact",
        )


def seal(staged: Path, *, known: Mapping[str, Hashed] | None = None, **facts: Any) -> None:
    """Flush every file of a staged folder to the disk, then write the manifest over them.

    What is `known` of files was found out while they were written, and flushed; a size that differs raises OSError.
    """
    entries = {}
    for path in sorted(p for p in staged.rglob("*") if p.is_file()):
        name = path.relative_to(staged).as_posix()
        size, hashed = path.stat().st_size, (known or {}).get(name)
        if hashed is None:
            files.fsync_file(path)
        elif hashed.size != size:
            raise OSError(errno.EIO, f"{size} bytes of {hashed.size} are there", str(path))
        entries[name] = {"size": size, "sha256": hashed.sha256 if hashed else files.sha256_file(path)}
    if missing := set(known or {}) - set(entries):
        raise OSError(errno.ENOENT, "a part is missing", str(staged / min(missing)))
    manifest = {"format": FORMAT, "version": __version__, **facts, "created": time.time(), "files": entries}
    files.write_json(staged / MANIFEST, {**manifest, "sha256": files.sha256_json(manifest)})


def publish(staged: Path, final: Path) -> None:
    """Rename a sealed folder to its final name and point `latest` at it. What stood there before is kept beside it."""
    aside = set_aside(final) if final.exists() else None
    try:
        faults.at_phase("rename")
        files.publish_dir(staged, final)
    except BaseException:
        if aside is not None and not final.exists():
            aside.rename(final)
        raise
    faults.at_phase("renamed")
    if aside is not None:
        _settle(aside)
    files.write_atomic(final.parent / "latest", final.name + "\n")
    faults.at_phase("latest")


def mark_best(stage_dir: Path, step: int, metric: str, value: float) -> None:
    """Write down which checkpoint validated best: it stays."""
    files.write_json(stage_dir / BEST, {"step": step, "metric": metric, "value": value})


def best_step(stage_dir: Path) -> int | None:
    """Return the step that is marked as best; None if none is, or if the mark cannot be read."""
    path = stage_dir / BEST
    try:
        step = files.read_json(path, "the mark of the best checkpoint").get("step") if path.is_file() else None
    except NanochatError:
        return None
    return step if isinstance(step, int) else None


# ---- out of the way --------------------------------------------------------------------------------------------------


def set_aside(path: Path) -> Path:
    """Rename a step folder until another has taken its place (see `recover`), and return its new path."""
    return _renamed(path, f"{ASIDE}{path.name}")


def leave(path: Path) -> Path:
    """Rename a step folder for good, because training goes on from an earlier one, and return its new path.

    Nothing but `runs rm` touches it again: it is of a branch that nobody wants to go on with, and no leftover.
    """
    return _renamed(path, f"left-{path.name}")


def recover(stage_dir: Path) -> list[int]:
    """Bring back the steps that a killed save had set aside and not replaced, and return them.

    The caller holds the lock on the folder.
    """
    back = []
    for path in sorted(stage_dir.glob(f"{ASIDE}*")):
        if match := ASIDE_DIR.fullmatch(path.name):
            final = stage_dir / match[1]
            if not final.exists():
                path.rename(final)
                back.append(step_of(final))
            elif (final / MANIFEST).is_file():
                _settle(path)
    if back:
        files.fsync_dir(stage_dir)
    return back


def _settle(aside: Path) -> None:
    """Note in the name of what was set aside that something has taken its place: it is not to be brought back."""
    aside.rename(aside.with_name(FORMER + aside.name.removeprefix(ASIDE)))


def _renamed(path: Path, name: str) -> Path:
    new = path.with_name(f"{name}-{uuid.uuid4().hex[:6]}")
    path.rename(new)
    files.fsync_dir(path.parent)
    return new


# ---- reading ---------------------------------------------------------------------------------------------------------


def verify(path: Path, *, skip: Sequence[str] = ()) -> dict[str, Any]:
    """Return the manifest of a step folder after checking size and hash of every file but those named like `skip`.

    Raises DamagedArtifact naming the file, also for a pickle and for a manifest that points out of its folder, and
    NewerVersion for a form of checkpoint that this version does not know.
    """
    manifest = files.read_json(path / MANIFEST, "checkpoint manifest")
    entries = manifest.get("files")
    refuse_newer(manifest, path)
    if manifest.get("format") != FORMAT or not isinstance(entries, dict):
        raise DamagedArtifact(f"checkpoint manifest is damaged: {path / MANIFEST}")
    for name in entries:
        files.inside(path, name, "checkpoint")
    _verify_manifest(path, manifest)  # first: what it says of the other files must be true
    _refuse_unlisted(path, entries)
    for name, facts in entries.items():
        if not name.startswith(tuple(Path(left_out).stem for left_out in skip)):
            _verify_file(path, name, facts)
    return manifest


def refuse_newer(manifest: Mapping[str, Any], path: Path) -> None:
    """Raise NewerVersion for a checkpoint whose form is of a later version of this program."""
    found = manifest.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise NewerVersion(
            f"checkpoint was written by a newer nanochat ({manifest.get('version', 'version unknown')}), "
            f"this is {__version__}: {path}",
            hint="upgrade: pip install -U nanochat",
        )


def _refuse_unlisted(folder: Path, entries: dict[str, Any]) -> None:
    """Raise DamagedArtifact for a file that the manifest does not list; for a pickle also if it does."""
    parents = {parent.as_posix() for name in entries for parent in Path(name).parents}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if name not in parents:
                raise DamagedArtifact(f"checkpoint holds a folder that its manifest does not list: {path}")
            continue
        unsafe.refuse_file(path)
        if name != MANIFEST and name not in entries:
            raise DamagedArtifact(f"checkpoint holds a file that its manifest does not list: {path}")


def _verify_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Raise DamagedArtifact if a manifest was changed, or its folder renamed, since it was written.

    Manifests of the first versions have no hash of their own.
    """
    file = path / MANIFEST
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    if "sha256" in manifest and manifest["sha256"] != files.sha256_json(rest):
        raise DamagedArtifact(f"checkpoint manifest does not match its hash: {file}")
    if "sha256" in manifest and not file.read_bytes().endswith(b"}\n"):
        raise DamagedArtifact(f"checkpoint manifest is cut off: {file}")
    match = STEP_DIR.fullmatch(path.name)
    if match and manifest.get("step") not in (None, int(match[1])):
        raise DamagedArtifact(f"checkpoint is of step {manifest['step']}, not of the step its folder is named: {file}")


def _verify_file(folder: Path, name: str, facts: Any) -> None:
    file = files.inside(folder, name, "checkpoint")
    if any(part.is_symlink() for part in (file, *file.parents[: len(Path(name).parts)])):
        raise DamagedArtifact(f"checkpoint names a file outside its folder: {name}")
    if not isinstance(facts, dict) or not file.is_file():
        raise DamagedArtifact(f"checkpoint lacks a file: {file}")
    if file.stat().st_size != facts.get("size"):
        raise DamagedArtifact(f"checkpoint file has {file.stat().st_size} bytes, not {facts.get('size')}: {file}")
    if files.sha256_file(file) != facts.get("sha256"):
        raise DamagedArtifact(f"checkpoint file does not match its hash: {file}")


def newest_good(
    stage_dir: Path,
    step: int | None = None,
    log: Log = NULL,
    *,
    skip: Sequence[str] = (),
    at_most: int | None = None,
) -> Path:
    """Return the folder of `step`, or of the newest step that verifies; a warning says which was passed over and why.

    Raises MissingArtifact if there is none, DamagedArtifact if none that may be used verifies, and NewerVersion rather
    than go back behind what a newer version wrote.
    """
    known = [found for found in checkpoint_steps(stage_dir) if at_most is None or found <= at_most]
    if step is not None and step not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise MissingArtifact(f"no checkpoint of step {step}: {stage_dir}", hint=f"saved steps: {listed}")
    if not known:
        refuse_lost(stage_dir)
        raise MissingArtifact(f"no checkpoint in: {stage_dir}", hint="train this stage first")
    problem: NanochatError | None = None
    for candidate in [step] if step is not None else reversed(known):
        path = step_dir(stage_dir, candidate)
        try:
            verify(path, skip=skip)
        except NewerVersion:
            raise
        except NanochatError as found:
            problem = problem or found
            log.warning(f"step {candidate} cannot be used: {found}")
            continue
        lost = [] if step is not None else [late for late in unfinished(stage_dir) if late > candidate]
        for late in lost:
            named = step_dir(stage_dir, late) / MANIFEST
            log.warning(f"step {late} cannot be used: checkpoint manifest is missing: {named}")
        if problem is not None or lost:
            log.warning(f"going back to step {candidate}")
        return path
    earlier = [s for s in known if s != step]
    hint = f"try another step: {', '.join(map(str, earlier))}" if earlier else "train this stage again"
    raise DamagedArtifact(str(problem), hint=hint)


def unfinished(stage_dir: Path) -> list[int]:
    """Return the steps, ascending, whose folder has no manifest: none is ever published without, so it was lost."""
    if not stage_dir.is_dir():
        return []
    found = (child for child in stage_dir.iterdir() if STEP_DIR.fullmatch(child.name))
    return sorted(step_of(child) for child in found if not (child / MANIFEST).is_file())


def refuse_lost(stage_dir: Path) -> None:
    """Raise DamagedArtifact if there are step folders but none with a manifest: something was saved, and is damaged.

    Else going on would begin at the beginning, and prune what a person could still have saved.
    """
    lost = unfinished(stage_dir)
    if lost and not checkpoint_steps(stage_dir):
        named = ", ".join(step_dir(stage_dir, step).name for step in lost)
        raise DamagedArtifact(
            f"no checkpoint has its {MANIFEST} any more, so none can be used: {stage_dir} ({named})",
            hint=f"restore them from a copy, or put them out of the way: nanochat runs repair {stage_dir.parent.name}",
        )


# ---- finding ---------------------------------------------------------------------------------------------------------


def find(
    run: str | None = None,
    source: str | None = None,
    step: int | None = None,
    *,
    before: str | None = None,
    log: Log = NULL,
) -> Path:
    """Return the step folder to use: of `run` (None = most recent) and `source` (None = its last before `before`).

    `run` may also be RUN/STAGE, RUN/STAGE/STEP or a tag. Without a step it is the newest that verifies. Raises
    MissingArtifact that lists what there is.
    """
    name, stage, step = run_names.locate(run, source, step, before=before)
    return newest_good(runs.stage_dir(name, stage), step, log, skip=(OPTIM,))
