"""Downloaded shards as a corpus: a manifest over files that stay where they arrived, replaced when more come."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from nanochat_cli.core.data import downloaded
from nanochat_cli.core.data.corpus import DOWNLOADED, FORMAT, MANIFEST, SPLITS, TOKENS, Corpus, Shard
from nanochat_cli.core.data.downloaded import Entry
from nanochat_cli.core.data.sources import Source
from nanochat_cli.core.errors import DamagedArtifact, MissingArtifact
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.files import sha256_json, write_json


def num_train(source: Source) -> int:
    """Return how many shards the corpus trains on as it is, 0 if there is none."""
    if not (source.dir / MANIFEST).is_file():
        return 0
    return len(Corpus.open(source.dir).shards_of("train"))


def publish(source: Source, number: int, log: Log = NULL) -> Corpus:
    """Make the first `number` shards and the validation shard a corpus and return it; no file is moved or copied.

    A corpus that has more keeps them. Its fingerprint is a hash of the shards' hashes in order, so that equal shards
    give equal fingerprints everywhere. Raises MissingArtifact if a shard is not recorded as here.
    """
    with downloaded.locked(source.dir):
        record = downloaded.read(source)
        number = max(number, num_train(source))
        names = [*map(source.shard, range(number)), source.val_shard]
        if lost := [name for name in names if not downloaded.here(source, record, name)]:
            raise MissingArtifact(
                f"shards are missing: {', '.join(lost[:5])}", hint=f"nanochat data repair {source.name}"
            )
        shards = [_shard(source, name, record.files[name]) for name in names]
        fingerprint = sha256_json({split: [s.sha256 for s in shards if s.split == split] for split in SPLITS})
        old = Corpus.open(source.dir) if (source.dir / MANIFEST).is_file() else None
        if old is not None and old.fingerprint == fingerprint:
            return old
        write_json(source.dir / MANIFEST, _manifest(source, shards, fingerprint))
    if old is not None and (old.dir / TOKENS).is_dir():
        log.note(
            f"{source.name} grew to {number} shards; tokens of what it was stay, for runs that read them, in"
            f" {old.dir / TOKENS}"
        )
    return Corpus.open(source.dir)


def _shard(source: Source, name: str, entry: Entry) -> Shard:
    if entry.rows is None or entry.chars is None or entry.text_bytes is None:
        raise DamagedArtifact(f"download record is damaged, no counts for {name}: {source.dir / downloaded.RECORD}")
    return Shard(
        name=name,
        split="val" if name == source.val_shard else "train",
        rows=entry.rows,
        chars=entry.chars,
        text_bytes=entry.text_bytes,
        bytes=entry.size,
        sha256=entry.sha256,
    )


def _manifest(source: Source, shards: list[Shard], fingerprint: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": source.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fingerprint": fingerprint,
        "split": {"by": "the last shard of the data set", "val": source.val_shard},
        "source": {"kind": DOWNLOADED, "dataset": source.repo, "licence": source.licence},
        "shards": [asdict(shard) for shard in shards],
        "chats": [],
    }
