"""Where a run's text and tokens came from: the commands that made corpus and tokenizer, and what is known of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat_cli.core import files
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.report.gather import RunRecord
from nanochat_cli.core.report.text import count, size


def made_with(run: RunRecord) -> list[list[str]]:
    """The commands that made the corpus and the tokenizer of the base stage, as words; empty for what is gone."""
    found = []
    corpus, tokenizer = _name(run, "data"), _name(run, "tokenizer")
    if corpus and (words := _corpus_command(corpus, _manifest(run, corpus))):
        found.append(words)
    if tokenizer and (words := _tokenizer_command(tokenizer, corpus, _tokenizer_info(run, tokenizer))):
        found.append(words)
    return found


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """Sizes and fingerprints of corpus and tokenizer."""
    pairs = []
    corpus, tokenizer = _name(run, "data"), _name(run, "tokenizer")
    if corpus and (manifest := _manifest(run, corpus)):
        shards = [shard for shard in manifest.get("shards", []) if isinstance(shard, dict)]
        documents = sum(shard.get("rows", 0) for shard in shards)
        text = sum(shard.get("text_bytes", 0) for shard in shards)
        pairs.append(("corpus", f"{corpus}: {count(documents)} documents, {size(text)} of text"))
        pairs.append(("corpus fingerprint", str(manifest.get("fingerprint", "unknown"))[:16]))
    if tokenizer and (info := _tokenizer_info(run, tokenizer)):
        pairs.append(
            ("tokenizer", f"{tokenizer}: {info.get('vocab_size', '?')} tokens, hash {str(info.get('hash'))[:16]}")
        )
    return pairs


def _name(run: RunRecord, key: str) -> str | None:
    base = run.stage("base")
    config = base.saved.get("config") if base else None
    section = config.get("corpus") if isinstance(config, dict) else None
    name = section.get(key) if isinstance(section, dict) else None
    return name if isinstance(name, str) and "/" not in name else None


def _manifest(run: RunRecord, corpus: str) -> dict[str, Any]:
    return _read(_base_dir(run) / "data" / corpus / "manifest.json")


def _tokenizer_info(run: RunRecord, tokenizer: str) -> dict[str, Any]:
    return _read(_base_dir(run) / "tokenizers" / tokenizer / "tokenizer.json")


def _base_dir(run: RunRecord) -> Path:
    return run.folder.parent.parent


def _read(path: Path) -> dict[str, Any]:
    try:
        return files.read_json(path, path.name)
    except NanochatError:
        return {}


def _corpus_command(name: str, manifest: dict[str, Any]) -> list[str]:
    source = manifest.get("source")
    if not isinstance(source, dict):
        return []
    words = ["nanochat", "data"]
    if source.get("generator"):
        chats = [file.get("conversations", 0) for file in manifest.get("chats", []) if isinstance(file, dict)]
        words += ["synth", "--name", name, "--documents", str(source.get("documents"))]
        return [*words, "--chats", str(max(chats, default=0)), "--seed", str(source.get("seed", 0))]
    listed = [str(file.get("path")) for file in source.get("files") or [] if isinstance(file, dict)]
    return [*words, "add", *listed, "--name", name] if listed else []


def _tokenizer_command(name: str, corpus: str | None, info: dict[str, Any]) -> list[str]:
    pattern = info.get("pattern")
    if corpus is None or not isinstance(pattern, dict):
        return []
    given = ["--vocab", str(info.get("vocab_size")), "--pattern", str(pattern.get("name"))]
    return ["nanochat", "tok", "train", "--input", corpus, "--name", name, *given]
