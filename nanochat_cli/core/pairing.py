"""Which tokenizer goes with a corpus if none is named: one that was trained on it, as tokenizers record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat_cli.core import files, paths
from nanochat_cli.core.errors import NanochatError

_INFO, _MANIFEST = "tokenizer.json", "manifest.json"


def tokenizer_for(corpus: str | None) -> str | None:
    """Return the tokenizer to use with a corpus; None if there is none at all.

    First those that were trained on it: on its text as it is now, then on an earlier text of that name; and of several
    the newest. Then the one that bears its name, as older ones do not know their corpus; then the newest.
    """
    trained: list[tuple[bool, int, str]] = []
    newest = paths.newest(paths.tokenizers_dir(), _INFO)
    if corpus is None or newest is None:
        return newest.name if newest else None
    fingerprint = _read(paths.corpus_dir(corpus) / _MANIFEST).get("fingerprint")
    for path in paths.tokenizers_dir().glob(f"[!.]*/{_INFO}"):
        entries = [entry for entry in _corpora(_read(path)) if entry.get("name") == corpus]
        if entries:
            same = fingerprint is not None and any(entry.get("fingerprint") == fingerprint for entry in entries)
            trained.append((same, path.stat().st_mtime_ns, path.parent.name))
    if trained:
        return max(trained)[2]
    return corpus if (paths.tokenizer_dir(corpus) / _INFO).is_file() else newest.name


def _corpora(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The corpora that a tokenizer's description names."""
    training = info.get("training")
    found = training.get("corpora") if isinstance(training, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _read(path: Path) -> dict[str, Any]:
    """A description, or nothing: one that is damaged is complained of once it is used."""
    try:
        return files.read_json(path, path.name)
    except NanochatError:
        return {}
