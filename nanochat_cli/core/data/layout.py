"""Corpora written anew as shards of one size, shuffled or not: the layout that the public nanochat data has.

Names shard_00000.parquet and so on; a shard ends at the first full row group at which it has its characters; zstd 3, no
dictionary, no statistics; what is for validation comes last. The last shard may be smaller: no document is dropped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from nanochat_cli.core.data import shuffle
from nanochat_cli.core.data.corpus import FORMAT, SPLITS, Shard
from nanochat_cli.core.data.shuffle import Bucket, Segment
from nanochat_cli.core.data.workers import Tell
from nanochat_cli.core.errors import DamagedArtifact, DataError
from nanochat_cli.core.files import explain_os_errors, sha256_file, sha256_json

SCHEMA = pa.schema([("text", pa.string())])
GROUP_LIMIT = 1 << 30  # bytes: Arrow's strings end at 2 GiB


@dataclass(frozen=True)
class Layout:
    """How large shards and row groups are."""

    shard_chars: int = 250_000_000
    row_group: int = 1024


@dataclass
class Cut:
    """One shard to be: pieces (number of the bucket, first document, one past the last) in order."""

    split: str
    pieces: list[tuple[int, int, int]]
    rows: int = 0
    chars: int = 0


def plan(buckets: list[Bucket], split: str, layout: Layout) -> Iterator[Cut]:
    """Yield the shards of a split. Only the documents' lengths are read, one bucket at a time."""
    cut = Cut(split, [])
    for number, bucket in enumerate(buckets):
        heads = [segment.heads() for segment in bucket]
        order = shuffle.order_of([keys for keys, _, _ in heads])
        chars = np.cumsum(np.concatenate([counts for _, counts, _ in heads])[order], dtype=np.int64)
        first, before = 0, 0
        for end in range(layout.row_group - cut.rows % layout.row_group, len(order) + 1, layout.row_group):
            if cut.chars + int(chars[end - 1]) - before < layout.shard_chars:
                continue
            _extend(cut, number, first, end, int(chars[end - 1]) - before)
            yield cut
            cut, first, before = Cut(split, []), end, int(chars[end - 1])
        if first < len(order):
            _extend(cut, number, first, len(order), int(chars[-1]) - before)
    if cut.rows:
        yield cut


def _extend(cut: Cut, bucket: int, first: int, last: int, chars: int) -> None:
    cut.pieces.append((bucket, first, last))
    cut.rows += last - first
    cut.chars += chars


def as_job(cut: Cut, name: str, buckets: list[Bucket], layout: Layout, folder: Path) -> dict[str, Any]:
    """Return a shard as plain values, as `write` reads them."""
    pieces = [
        {"segments": [asdict(segment) for segment in buckets[number]], "first": first, "last": last}
        for number, first, last in cut.pieces
    ]
    return {
        "name": name,
        "folder": str(folder),
        "split": cut.split,
        "pieces": pieces,
        "row_group": layout.row_group,
        "rows": cut.rows,
        "chars": cut.chars,
    }


def write(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Write one shard; return what the manifest says about it, and the hash of its documents."""
    path = Path(job["folder"]) / job["name"]
    beside = path.with_suffix(".writing")
    content = hashlib.sha256()
    rows = chars = text_bytes = 0
    with explain_os_errors(path.name):
        options: dict[str, Any] = {"compression": "zstd", "compression_level": 3}
        with parquet.ParquetWriter(beside, SCHEMA, use_dictionary=False, write_statistics=False, **options) as file:
            for group, group_chars in _groups(job):
                content.update(b"".join(len(raw).to_bytes(8, "little") for raw in group) + b"".join(group))
                column = pa.array(group, type=pa.string())
                file.write_table(pa.table([column], schema=SCHEMA), row_group_size=len(group))
                rows, chars = rows + len(group), chars + group_chars
                text_bytes += sum(map(len, group))
                tell(chars)
        if (rows, chars) != (job["rows"], job["chars"]):
            raise DamagedArtifact(f"{rows} documents instead of {job['rows']} came out of the shuffle: {path.name}")
        beside.replace(path)
    sha256 = sha256_file(path)
    shard = Shard(path.name, job["split"], rows, chars, text_bytes, path.stat().st_size, sha256)
    return {"files": {path.name: sha256}, "shard": asdict(shard), "content": content.hexdigest()}


def _groups(job: dict[str, Any]) -> Iterator[tuple[list[bytes], int]]:
    """Yield the row groups of a shard with their characters; one closes early only where memory would not hold it."""
    group: list[bytes] = []
    size = chars = 0
    for piece in job["pieces"]:
        bucket = [Segment(**entry) for entry in piece["segments"]]
        for raw, count in shuffle.load(bucket, piece["first"], piece["last"]):
            group.append(raw)
            size, chars = size + len(raw), chars + count
            if len(group) == job["row_group"] or size >= GROUP_LIMIT:
                yield group, chars
                group, size, chars = [], 0, 0
    if group:
        yield group, chars


def named(cuts: Sequence[Cut], val_shard: bool) -> list[tuple[str, Cut]]:
    """Return the shards with their names. With `val_shard` the last one becomes the validation split.

    Raises DataError where one of the splits would be empty.
    """
    if val_shard:
        if len(cuts) < 2:
            raise DataError(
                f"the last shard cannot be for validation where there is only one: {len(cuts)}",
                hint="choose smaller shards with --shard-chars, or a share with --val-fraction",
            )
        cuts = [*cuts[:-1], Cut("val", cuts[-1].pieces, cuts[-1].rows, cuts[-1].chars)]
    for split in SPLITS:
        if not any(cut.split == split for cut in cuts):
            raise DataError(f"no document was left for this split: {split}", hint="choose another --val-fraction")
    return [(f"shard_{number:05d}.parquet", cut) for number, cut in enumerate(cuts)]


def manifest(
    name: str, results: Sequence[dict[str, Any]], split: dict[str, Any], source: dict[str, Any]
) -> dict[str, Any]:
    """Return the manifest of the corpus; its fingerprint follows from the documents and where shards end."""
    content = {part: [result["content"] for result in results if result["shard"]["split"] == part] for part in SPLITS}
    return {
        "format": FORMAT,
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fingerprint": sha256_json(content),
        "split": split,
        "source": source,
        "shards": [result["shard"] for result in results],
        "chats": [],
    }
