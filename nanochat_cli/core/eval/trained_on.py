"""Which files a checkpoint was trained on, by what its stages recorded about their sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nanochat_cli.core import checkpoint, files, run_lineage, runs
from nanochat_cli.core.errors import NanochatError


def file_hashes(meta: checkpoint.Meta) -> frozenset[str]:
    """Return the SHA-256 of each file that a checkpoint, or one it comes from, was trained on, as far as is known."""
    return frozenset(sha for config in _configs(meta) for sha in _of_config(config))


def _configs(meta: checkpoint.Meta) -> Iterator[Mapping[str, Any]]:
    """What was recorded about a checkpoint and about each that it comes from, as long as they are there."""
    yield meta.config
    run, stage = meta.run, meta.stage
    passed = {(run, stage)}
    while (place := run_lineage.parent(run, stage)) is not None and place.present:
        run, stage = place.run, place.stage
        if (run, stage) in passed:
            return
        passed.add((run, stage))
        try:
            yield files.read_json(runs.stage_dir(run, stage) / f"step-{place.step:06d}" / "config.json", "the config")
        except NanochatError:
            return


def _of_config(config: Mapping[str, Any]) -> Iterator[str]:
    data, task = config.get("data"), config.get("task")
    sources = data.get("sources") if isinstance(data, Mapping) else None
    for facts in [*(sources or ()), task]:
        if isinstance(facts, Mapping):
            yield from (facts[key] for key in ("sha256", "questions_sha256") if isinstance(facts.get(key), str))
