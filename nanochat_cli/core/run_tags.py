"""Tags: names that people give to checkpoints. A run keeps its own in `tags.json`, so they move with its folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core import files, paths, runs
from nanochat_cli.core.errors import ConfigError, MissingArtifact, NanochatError
from nanochat_cli.core.run_lineage import weights_hash

FILE = "tags.json"


@dataclass(frozen=True)
class Tag:
    """A name for one checkpoint. `weights_sha256` tells whether what lies there now is what was tagged."""

    name: str
    run: str
    stage: str
    step: int
    weights_sha256: str | None = None
    created: float | None = None

    @property
    def target(self) -> str:
        """The checkpoint as it is typed."""
        return f"{self.run}/{self.stage}/{self.step}"

    @property
    def dangling(self) -> str | None:
        """Why the tag points at nothing; None if its checkpoint is there."""
        if self.step not in runs.checkpoint_steps(runs.stage_dir(self.run, self.stage)):
            return "its checkpoint is gone"
        same = self.weights_sha256 in (None, weights_hash(self.run, self.stage, self.step))
        return None if same else "another checkpoint lies in its place"


def of_run(run: str) -> list[Tag]:
    """Return the tags of a run by name. A damaged file of tags counts as none: see `runs repair`."""
    path = paths.run_dir(run) / FILE
    if not path.is_file():
        return []
    try:
        listed = files.read_json(path, "the run's tags").get("tags")
    except NanochatError:
        return []
    found = (_tag(name, run, facts) for name, facts in sorted(listed.items())) if isinstance(listed, dict) else ()
    return [tag for tag in found if tag is not None]


def _tag(name: str, run: str, facts: Any) -> Tag | None:
    if not isinstance(facts, dict) or facts.get("stage") not in runs.STAGES or not isinstance(facts.get("step"), int):
        return None
    return Tag(name, run, facts["stage"], facts["step"], facts.get("weights_sha256"), facts.get("created"))


def all_tags() -> list[Tag]:
    """Return the tags of all runs."""
    return [tag for run in runs.all_runs() for tag in of_run(run)]


def find(name: str) -> list[Tag]:
    """Return the tags of this name: one at most, unless run folders were brought together from elsewhere."""
    return [tag for tag in all_tags() if tag.name == name]


def steps_of(stage_dir: Path) -> set[int]:
    """Return the tagged steps of a stage folder, which are neither pruned nor removed."""
    run = stage_dir.parent
    if not paths.is_name(run.name) or run.parent != paths.runs_dir():
        return set()
    return {tag.step for tag in of_run(run.name) if tag.stage == stage_dir.name}


def add(name: str, run: str, stage: str, step: int, *, move: bool = False) -> Tag:
    """Name a checkpoint and return its tag; `move` takes the name away from another one.

    Raises ConfigError if the name means something already.
    """
    paths.check_name("tag", name)
    if name in runs.all_runs():
        raise ConfigError(f"a run has this name, so it cannot be a tag: {name}", hint="choose another name")
    tag = Tag(name, run, stage, step, weights_hash(run, stage, step), time.time())
    for old in find(name):
        if (old.run, old.stage, old.step) != (run, stage, step) and not move:
            raise ConfigError(
                f"tag {name} names another checkpoint already: {old.target}",
                hint="--force moves it, or choose another name",
            )
    with files.explain_os_errors("the run's tags"), runs.lock(paths.run_dir(run), takeover=None):
        _write(run, {other.name: other for other in of_run(run)} | {name: tag})
    for old in find(name):
        if old.run != run:
            delete(name, old.run)
    return tag


def delete(name: str, run: str | None = None) -> list[Tag]:
    """Delete a tag, of one run if given, and return what it named. Raises MissingArtifact if there is none."""
    found = [tag for tag in find(name) if run in (None, tag.run)]
    if not found:
        raise (
            runs.unknown("tag", name, [tag.name for tag in all_tags()])
            if all_tags()
            else MissingArtifact(f"no tag named: {name}", hint="nanochat runs tag RUN NAME gives one")
        )
    for tag in found:
        with files.explain_os_errors("the run's tags"), runs.lock(paths.run_dir(tag.run), takeover=None):
            _write(tag.run, {other.name: other for other in of_run(tag.run) if other.name != name})
    return found


def _write(run: str, tags: dict[str, Tag]) -> None:
    listed = {
        name: {"stage": t.stage, "step": t.step, "weights_sha256": t.weights_sha256, "created": t.created}
        for name, t in sorted(tags.items())
    }
    files.write_json(paths.run_dir(run) / FILE, {"format": 1, "tags": listed})
