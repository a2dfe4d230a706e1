"""A set of chats on disk: a folder among the corpora with files for training, and a record of how they were made.

`train mid --data NAME` and `train sft --data NAME` find the files by that name. It holds no documents, so it is no
corpus, and never taken for the newest one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat_cli.core import files, paths
from nanochat_cli.core.data.synthchats.answer import Turn
from nanochat_cli.core.data.synthchats.topic import Topic
from nanochat_cli.core.errors import ConfigError, NanochatError

RECORD = "chats.json"
STAGES = ("mid", "sft")


def check_free(name: str, topic: Topic, *, force: bool) -> None:
    """Raise ConfigError if the name is taken by something else than an unfinished set of the same topic."""
    folder = paths.corpus_dir(name)
    files.restore_dir(folder)
    if not folder.exists() or force:
        return
    record = read(folder)
    if record is not None and record.get("complete") is False and record.get("topic", {}).get("sha256") == topic.sha256:
        return
    raise ConfigError(
        f"{name} exists already: {folder}", hint="choose another name with --name, or replace it with --force"
    )


def read(folder: Path) -> dict[str, Any] | None:
    """Return a set's record; None if the folder holds none."""
    try:
        return files.read_json(folder / RECORD, "the record of a set of chats")
    except NanochatError:
        return None


def publish(name: str, topic: Topic, found: Sequence[Sequence[Turn]], facts: dict[str, Any]) -> Path:
    """Write a set whole, in the place of an earlier one of that name, and return its folder."""
    final = paths.corpus_dir(name)
    files.make_dir(final.parent, "the data folder")
    staged = files.staging_dir(final)
    try:
        text = "".join(json.dumps({"messages": list(turns)}, ensure_ascii=False) + "\n" for turns in found)
        hashes = {}
        for stage in STAGES:
            path = files.make_dir(staged / "chats", "chats") / f"{stage}.jsonl"
            files.write_atomic(path, text)
            hashes[f"chats/{path.name}"] = files.sha256_file(path)
        record = {
            "format": 1,
            "name": name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "topic": {"name": topic.name, "sha256": topic.sha256},
            "conversations": len(found),
            **facts,
            "files": hashes,
        }
        files.write_json(staged / RECORD, record)
        if final.exists():
            files.replace_dir(staged, final)
        else:
            files.publish_dir(staged, final)
    finally:
        if staged.exists():
            shutil.rmtree(staged, ignore_errors=True)
    return final


def all_sets() -> list[tuple[str, dict[str, Any]]]:
    """Return (name, record) of every set in the base directory, sorted."""
    root = paths.corpora_dir()
    folders = sorted(p for p in root.iterdir() if not p.name.startswith(".")) if root.is_dir() else []
    records = [(folder.name, read(folder)) for folder in folders if (folder / RECORD).is_file()]
    return [(name, record) for name, record in records if record is not None]
