"""The CORE score as a part of an evaluation: where the bundle is, what is kept on the way, where the answers go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nanochat_cli import __version__
from nanochat_cli.core import files
from nanochat_cli.core.data import downloaded, sources
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError, MissingArtifact
from nanochat_cli.core.eval import core_metric, merging
from nanochat_cli.core.eval.bundle import FETCH, Bundle, open_bundle
from nanochat_cli.core.eval.nets import Codec, Net
from nanochat_cli.core.events import Log
from nanochat_cli.core.settings import EvalWhat

UNASKED_LIMIT = 50
"""Questions per task on a CPU where CORE was not asked for by name: all of them would take hours."""


def find_bundle(what: EvalWhat) -> Bundle:
    """The bundle that was named, else the downloaded one. Raises MissingArtifact with the command that fetches it."""
    if what.bundle:
        found = open_bundle(Path(what.bundle))
    else:
        try:
            found = open_bundle(downloaded.folder_of(sources.get("eval-bundle")))
        except MissingArtifact as problem:
            raise MissingArtifact("the evaluation bundle is not here", hint=FETCH) from problem
    core_metric.check_table(found, what.baselines)
    return _only(found, what.task) if what.only == "core" else found


def _only(bundle: Bundle, names: Iterable[str]) -> Bundle:
    """The bundle with the tasks named, or all of them if none is. Raises ConfigError for one it does not have."""
    wanted, known = list(names), [task.label for task in bundle.tasks]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"the evaluation bundle has no task: {name}", hint=f"choose from: {', '.join(known)}")
    tasks = tuple(task for task in bundle.tasks if not wanted or task.label in wanted)
    return Bundle(folder=bundle.folder, tasks=tasks, tables=bundle.tables)


def partial_dir(folder: Path, **facts: Any) -> Path:
    """Where answers are kept until an evaluation is whole, by everything they depend on."""
    return folder / "partial" / files.sha256_json({"version": __version__, **facts})[:16]


def measure(
    net: Net,
    codec: Codec,
    bundle: Bundle,
    what: EvalWhat,
    folder: Path,
    dist: Dist,
    log: Log,
    *,
    name: str,
    weights: str,
    precision: str,
    between: Callable[[], None],
) -> dict[str, Any]:
    """Answer the bundle's tasks and return what is to be stored in `folder/NAME.json`.

    Every answer goes to `folder/NAME-core/TASK.jsonl`, unless that holds a fuller result of the same weights.
    """
    limit = None if what.limit == "all" else what.limit
    if what.limit is None and what.only == "all" and net.device.type == "cpu":
        limit = UNASKED_LIMIT
        log.note(f"core: at most {limit} questions a task, as this runs on a CPU (all of them: nanochat eval core)")
    asked = {task.label: files.sha256_file(task.path) for task in bundle.tasks}
    kept = partial_dir(
        folder, weights=weights, tokenizer=codec.hash, precision=precision, context=net.context, limit=limit, data=asked
    )
    if dist.is_main and any(kept.glob("*.jsonl")):
        log.note("core: going on with the answers of an earlier attempt")
    found = core_metric.answer_tasks(net, codec, bundle, kept, dist, limit=limit, log=log, between=between)
    for counts, _ in found:
        counts["data"] = asked[counts["task"]]
    if dist.is_main:
        before = merging.earlier(folder / f"{name}.json", weights).get("core", {}).get("tasks")
        stays = merging.staying(before, [counts for counts, _ in found], merging.core_key, log)
        for counts, lines in found:
            if merging.core_key(counts) in stays:
                continue
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            files.make_dir(folder / f"{name}-core", "the evaluation folder")
            files.write_atomic(folder / f"{name}-core" / f"{counts['task']}.jsonl", text)
        clear(kept)
    order = [what.baselines, *(table for table in bundle.tables if table != what.baselines)]
    return core_metric.summarise([counts for counts, _ in found], order)


def clear(kept: Path) -> None:
    """Take away what was kept on the way, now that it is stored whole."""
    shutil.rmtree(kept, ignore_errors=True)
    if kept.parent.is_dir() and not any(kept.parent.iterdir()):
        kept.parent.rmdir()
