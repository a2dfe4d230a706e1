"""The evaluation bundle on disk: `core.yaml` with the tasks, tables of random baselines, and the questions as JSONL."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nanochat_cli.core import files
from nanochat_cli.core.errors import DataError, MissingArtifact
from nanochat_cli.core.eval import plain_yaml

Kind = Literal["multiple_choice", "schema", "language_modeling"]
FULL = 22
"""Tasks of the published CORE score."""
TABLES = {"v1": "eval_meta_data.csv", "v2": "eval_meta_data_v2.csv"}
"""Where the random baselines are. Published scores of nanochat use v1; v2 corrects some tasks' number of choices."""
_SHUFFLE_SEED, _DRAW_SEED = 1337, 1234
_FIELDS: dict[str, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"context_options": list, "continuation": str, "gold": int},
    "language_modeling": {"context": str, "continuation": str},
}
Item = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class IclTask:
    """One task of the bundle: questions asked after some worked examples."""

    label: str
    kind: Kind
    path: Path
    shots: int
    delimiter: str
    """What stands between a question and its answer."""
    baselines: Mapping[str, float]
    """Share right by chance, by the name of the table that says so."""

    def items(self, limit: int | None = None) -> list[Item]:
        """The questions in their fixed random order, `limit` of them at most.

        Raises DataError for a line that is no question of this kind, or a file without any.
        """
        found: list[Item] = list(_read(self))
        if not found:
            raise DataError(f"task {self.label} has no questions: {self.path}")
        random.Random(_SHUFFLE_SEED).shuffle(found)
        return found[:limit]

    def draw(self, items: Sequence[Item], i: int) -> list[Item]:
        """The worked examples for question `i`: other questions of the same list, fewer if there are not enough."""
        others = [k for k in range(len(items)) if k != i]
        chosen = random.Random(_DRAW_SEED + i).sample(others, min(self.shots, len(others)))
        return [items[k] for k in chosen]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """All tasks of a folder, and which tables of baselines it has."""

    folder: Path
    tasks: tuple[IclTask, ...]
    tables: tuple[str, ...]


def open_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`, or in the `eval_bundle` inside it.

    Raises MissingArtifact if there is none, DataError if its description cannot be read.
    """
    folder = folder / "eval_bundle" if (folder / "eval_bundle" / "core.yaml").is_file() else folder
    config = folder / "core.yaml"
    if not config.is_file():
        raise MissingArtifact(f"no evaluation bundle, which holds a core.yaml: {folder}", hint=FETCH)
    with files.explain_os_errors("the evaluation bundle"):
        described = plain_yaml.read(config.read_text(encoding="utf-8"), str(config))
    tables = {name: _baselines(folder / file) for name, file in TABLES.items() if (folder / file).is_file()}
    if not tables:
        raise MissingArtifact(f"the evaluation bundle lacks its random baselines: {folder / TABLES['v1']}", hint=FETCH)
    tasks = tuple(_task(entry, folder, tables) for entry in described.get("icl_tasks") or ())
    if not tasks:
        raise DataError(f"the evaluation bundle names no tasks: {config}")
    return Bundle(folder=folder, tasks=tasks, tables=tuple(tables))


FETCH = "nanochat data download eval-bundle, or name a folder: --bundle DIR"


def _task(entry: Any, folder: Path, tables: Mapping[str, Mapping[str, float]]) -> IclTask:
    try:
        label, kind, shots = entry["label"], entry["icl_task_type"], entry["num_fewshot"]
        shots = int(shots[0] if isinstance(shots, list) else shots)
        path = files.inside(folder / "eval_data", entry["dataset_uri"], "evaluation bundle")
    except (KeyError, TypeError, ValueError, IndexError) as problem:
        raise DataError(f"core.yaml describes a task that cannot be read: {entry}") from problem
    if kind not in get_args(Kind):
        raise DataError(f"task {label} is of an unknown kind: {kind}")
    unknown = [TABLES[name] for name, table in tables.items() if label not in table]
    if unknown:
        raise DataError(f"no random baseline for task {label}: {', '.join(unknown)}")
    if not path.is_file():
        raise MissingArtifact(f"the questions of task {label} are missing: {path}", hint=FETCH)
    return IclTask(
        label=label,
        kind=kind,
        path=path,
        shots=shots,
        delimiter=str(entry.get("continuation_delimiter", " ")),
        baselines={name: table[label] for name, table in tables.items()},
    )


def _baselines(path: Path) -> dict[str, float]:
    """Share right by chance of every task in a table, which gives it in per cent."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as problem:
        raise DataError(f"the table of random baselines cannot be read: {path}") from problem


def _read(task: IclTask) -> Iterator[Item]:
    with files.explain_os_errors("the evaluation bundle"):
        lines = task.path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        item: Any = None
        try:
            item = json.loads(line)
            whole = all(isinstance(item[key], kind) for key, kind in _FIELDS[task.kind].items())
        except (ValueError, KeyError, TypeError):
            whole = False
        options = item.get("choices", item.get("context_options")) if whole else None
        if not whole or (options is not None and not 0 <= item["gold"] < len(options)):
            raise DataError(f"not a {task.kind.replace('_', ' ')} question: {task.path}, line {number}")
        yield item
