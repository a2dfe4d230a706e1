"""Writing a corpus: documents in, parquet shards with a fixed validation split out, published whole or not at all.

Which side a document falls on depends on its content and the seed alone, so a text given twice can never be in both
splits. Layout: one `text` column, zstd, row groups of 1,024 documents.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from types import TracebackType
from typing import Any

from nanochat_cli.core import paths
from nanochat_cli.core.data.corpus import CHATS, FORMAT, MANIFEST, SPLITS, ChatFile, Corpus
from nanochat_cli.core.data.split_writer import SplitWriters
from nanochat_cli.core.data.staging import staged
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.files import (
    explain_os_errors,
    make_dir,
    publish_dir,
    replace_dir,
    restore_dir,
    sha256_file,
    write_json,
)

__all__ = ["Corpus", "CorpusWriter"]

SHARD_CHARS = 250_000_000
MIN_VAL_CHARS = 200_000  # below this bits per byte gets noisy ...
MAX_VAL_SHARE = 0.1  # ... but no more than this share of a small corpus is taken from training


class CorpusWriter:
    """Context manager that takes documents with `add` and publishes the corpus when the block ends without an error.

    `force` replaces an existing corpus of the same name, at the moment of publishing. `source` is kept in the manifest.
    Raises ConfigError if the name is taken, DataError on text that is empty or cannot be UTF-8.
    """

    def __init__(
        self,
        name: str,
        *,
        val_fraction: float = 0.01,
        seed: int = 0,
        force: bool = False,
        source: dict[str, Any] | None = None,
        shard_chars: int = SHARD_CHARS,
        log: Log = NULL,
    ) -> None:
        if not 0 < val_fraction <= 0.5:
            raise ConfigError(f"the validation share must be above 0 and at most 0.5: {val_fraction}")
        self.name, self.val_fraction, self.seed, self.log = name, val_fraction, seed, log
        self.final, self.force = paths.corpus_dir(name), force
        self.source = source or {}
        self.shard_chars = shard_chars
        self.chats: list[ChatFile] = []
        check_free(name, force)

    def __enter__(self) -> CorpusWriter:
        make_dir(self.final.parent, "the data folder")
        self._staging = staged(self.final)
        self.staged = self._staging.__enter__()
        limit = int(self.val_fraction * 2**64)
        self._splits = self._new_splits("", lambda key: key < limit)
        return self

    def add(self, text: str) -> None:
        """Add one document."""
        if not text:
            raise DataError("a document without text")
        self._splits.add(len(text), encode(text))

    def add_raw(self, chars: int, raw: bytes) -> None:
        """Add one document of so many characters that is known to be UTF-8 and not empty."""
        self._splits.add(chars, raw)

    def write_chats(self, stage: str, conversations: Iterable[dict[str, Any]]) -> int:
        """Write conversations (JSON objects with `messages`) as the corpus's chats for a stage; return their number."""
        path = make_dir(self.staged / CHATS, "chats") / f"{stage}.jsonl"
        count = 0
        with explain_os_errors(path.name), path.open("w", encoding="utf-8") as file:
            for conversation in conversations:
                count += 1
                file.write(json.dumps(conversation, ensure_ascii=False) + "\n")
        name = f"{CHATS}/{path.name}"
        self.chats.append(ChatFile(name, count, path.stat().st_size, sha256_file(path)))
        return count

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            self._splits.abandon()
            self._staging.__exit__(None, None, None)

    def _publish(self) -> None:
        with explain_os_errors(f"corpus {self.name}"):
            self._splits.close()
            if self._splits.val.chars < self._least_val():
                self._split_again()
            manifest = self._manifest()
            write_json(self.staged / MANIFEST, manifest)
            if self.force and self.final.exists():
                replace_dir(self.staged, self.final)
            else:
                check_free(self.name, force=False)  # another command may have published it in the meantime
                publish_dir(self.staged, self.final)
        self.corpus = Corpus(self.final, manifest)

    def _least_val(self) -> float:
        return min(MIN_VAL_CHARS, MAX_VAL_SHARE * self._splits.chars)

    def _split_again(self) -> None:
        """Rewrite the staged shards with a larger validation split: the usual share of a small corpus is too little."""
        first = self._splits
        sizes: dict[int, int] = {}
        for text in first.documents():
            key = self._key(encode(text))
            sizes[key] = sizes.get(key, 0) + len(text)
        if len(sizes) < 2:
            raise DataError(
                f"a corpus needs at least two different documents, one to train and one to validate on: {len(sizes)}",
                hint="add more text, or cut it finer with --split paragraph or --split line",
            )
        chosen = choose_val(sizes, self._least_val())
        self._splits = self._new_splits("again-", chosen.__contains__)
        for text in first.documents():
            self._splits.add(len(text), encode(text))
        self._splits.close()
        first.remove()
        self._splits.rename("again-")

    def _new_splits(self, prefix: str, is_val: Callable[[int], bool]) -> SplitWriters:
        return SplitWriters(self.staged, prefix, self.shard_chars, lambda raw: is_val(self._key(raw)))

    def _key(self, raw: bytes) -> int:
        return content_key(raw, self.seed)

    def _manifest(self) -> dict[str, Any]:
        content = {split: self._splits.of(split).content.hexdigest() for split in SPLITS}
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return {
            "format": FORMAT,
            "name": self.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "fingerprint": fingerprint,
            "split": {"by": "content hash", "seed": self.seed, "val_fraction": self.val_fraction},
            "source": self.source,
            "shards": [asdict(shard) for split in SPLITS for shard in self._splits.of(split).shards],
            "chats": [asdict(chat) for chat in self.chats],
        }


def content_key(raw: bytes, seed: int) -> int:
    """Return 64 bits that depend on content and seed only."""
    salt = seed.to_bytes(16, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8, salt=salt).digest(), "little")


def encode(text: str) -> bytes:
    """Return the text as UTF-8. Raises DataError for half a surrogate pair, which JSON escapes can produce."""
    try:
        return text.encode()
    except UnicodeEncodeError as problem:
        raise DataError(f"text that is not valid Unicode: half a surrogate pair at character {problem.start}") from None


def choose_val(sizes: dict[int, int], least: float) -> frozenset[int]:
    """Return the keys to validate on: in key order, until they reach `least` characters, and never much beyond.

    `sizes` maps the key of each different document to its characters; at least one key is chosen and one is left.
    """
    chosen: set[int] = set()
    total = 0
    for key in sorted(sizes):
        if total >= least or len(chosen) == len(sizes) - 1:
            break
        if total + sizes[key] <= 2 * least:
            chosen.add(key)
            total += sizes[key]
    return frozenset(chosen or {min(sizes, key=lambda key: (sizes[key], key))})


def check_free(name: str, force: bool) -> None:
    """Raise ConfigError if a corpus of this name exists and may not be replaced."""
    restore_dir(paths.corpus_dir(name))
    if paths.corpus_dir(name).exists() and not force:
        raise ConfigError(
            f"corpus {name} exists already", hint="choose another name with --name, or replace it with --force"
        )
