"""Step folders of a stage: written beside, hashed, published by one rename, verified before use. No torch here.

`runs/<run>/<stage>/step-000200/` holds a `MANIFEST.json` with size and SHA-256 of every other file in it; `latest`
beside it names the newest. A folder without a fitting manifest is never read.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat_cli.core import files, runs
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, MissingArtifact, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.runs import MANIFEST, STEP_DIR, checkpoint_steps

FORMAT = 1


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


def seal(staged: Path, **facts: Any) -> None:
    """Flush every file of a staged folder to the disk, then write the manifest over them."""
    entries = {}
    for path in sorted(p for p in staged.rglob("*") if p.is_file()):
        files.fsync_file(path)
        entries[path.relative_to(staged).as_posix()] = {"size": path.stat().st_size, "sha256": files.sha256_file(path)}
    files.write_json(staged / MANIFEST, {"format": FORMAT, **facts, "created": time.time(), "files": entries})


def publish(staged: Path, final: Path) -> None:
    """Rename a sealed folder to its final name and point `latest` at it. What stood there before is set aside."""
    if final.exists():
        _set_aside(final)
    files.publish_dir(staged, final)
    files.write_atomic(final.parent / "latest", final.name + "\n")


def prune(stage_dir: Path, newest: int, keep_last: int) -> list[int]:
    """Delete all but the last `keep_last` steps up to `newest` and return them; raises if `newest` does not verify."""
    doomed = [step for step in checkpoint_steps(stage_dir) if step <= newest][:-keep_last]
    if doomed:
        verify(step_dir(stage_dir, newest))
    for step in doomed:
        # Renamed first: a folder half deleted by a crash must not look like a damaged checkpoint.
        trash = stage_dir / f".step-{step:06d}.{uuid.uuid4().hex[:8]}.tmp"
        step_dir(stage_dir, step).rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
    return doomed


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"aside-{path.name}-{uuid.uuid4().hex[:6]}")
    path.rename(aside)
    files.fsync_dir(path.parent)
    return aside


# ---- reading ---------------------------------------------------------------------------------------------------------


def verify(path: Path, *, skip: Sequence[str] = ()) -> dict[str, Any]:
    """Return the manifest of a step folder after checking size and hash of every file but those in `skip`.

    Raises DamagedArtifact naming the file, also for a manifest that points out of its folder.
    """
    manifest = files.read_json(path / MANIFEST, "checkpoint manifest")
    entries = manifest.get("files")
    if manifest.get("format") != FORMAT or not isinstance(entries, dict):
        raise DamagedArtifact(f"checkpoint manifest is damaged or of another version: {path / MANIFEST}")
    if unlisted := sorted(file.name for file in path.iterdir() if file.name not in {MANIFEST, *_tops(entries)}):
        raise DamagedArtifact(f"checkpoint holds a file that its manifest does not list: {path / unlisted[0]}")
    for name, facts in entries.items():
        if name not in skip:
            _verify_file(path, name, facts)
    return manifest


def _tops(entries: dict[str, Any]) -> set[str]:
    """The names at the top of a folder that a manifest speaks of."""
    return {Path(name).parts[0] for name in entries if name}


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


def newest_good(stage_dir: Path, step: int | None = None, log: Log = NULL, *, skip: Sequence[str] = ()) -> Path:
    """Return the folder of `step`, or of the newest step that verifies; a warning says which was passed over and why.

    Raises MissingArtifact if there is none, DamagedArtifact if none that may be used verifies.
    """
    known = checkpoint_steps(stage_dir)
    if step is not None and step not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise MissingArtifact(f"no checkpoint of step {step}: {stage_dir}", hint=f"saved steps: {listed}")
    if not known:
        raise MissingArtifact(f"no checkpoint in: {stage_dir}", hint="train this stage first")
    problem: NanochatError | None = None
    for candidate in [step] if step is not None else reversed(known):
        path = step_dir(stage_dir, candidate)
        try:
            verify(path, skip=skip)
        except NanochatError as found:
            problem = problem or found
            log.warning(f"step {candidate} cannot be used: {found}")
            continue
        if problem is not None:
            log.warning(f"going back to step {candidate}")
        return path
    earlier = [s for s in known if s != step]
    hint = f"try another step: {', '.join(map(str, earlier))}" if earlier else "train this stage again"
    raise DamagedArtifact(str(problem), hint=hint)


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

    Without a step it is the newest that verifies. Raises MissingArtifact that lists what there is.
    """
    name, stage = runs.find_source(run, source, before=before)
    return newest_good(runs.stage_dir(name, stage), step, log, skip=("optim.safetensors",))
