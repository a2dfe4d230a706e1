"""Shuffling more text than fits in memory, in two passes, with an order that depends on nothing but seed and input.

Every document gets a key, a hash of (seed, file, number in the file); the new order is the order of the keys. Pass 1
writes each input's documents into a spool file, in runs: a run is sorted by bucket, a range of keys, and by key within.
Pass 2 gathers one bucket from all runs, which fits in memory, and sorts it. How many buckets and processes there are
changes nothing in the order. Without a shuffle the key is the place itself, and each run is a bucket of its own.

A spool file is a row of segments, one per run and bucket: keys uint64 [n], characters uint32 [n], bytes uint32 [n],
then the texts, packed by zstd. Its index says where they are. Documents for validation have buckets of their own.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from nanochat_cli.core.data import inputs
from nanochat_cli.core.data.inputs import Document, Tally
from nanochat_cli.core.data.shards import content_key
from nanochat_cli.core.data.workers import Tell
from nanochat_cli.core.errors import DamagedArtifact
from nanochat_cli.core.files import explain_os_errors, sha256_file

RUN_BYTES = 128 << 20  # text that a process of pass 1 gathers before it writes a run
RUN_DOCUMENTS = 1 << 20
BUCKET_BYTES = 128 << 20  # text that a bucket should have
MAX_BUCKETS = 2048
INDEX = np.dtype(
    [
        ("run", "<u4"),
        ("val", "<u1"),
        ("bucket", "<u4"),
        ("documents", "<u4"),
        ("at", "<u8"),
        ("packed", "<u8"),
        ("raw", "<u8"),
        ("check", "<u4"),
    ]
)
_META_BYTES = 16  # of a document in a segment


@dataclass(frozen=True)
class Scatter:
    """How documents are given keys and buckets. `val_limit`: content hashes below it are for validation."""

    shuffle: bool
    seed: int
    buckets: int
    val_buckets: int
    val_limit: int

    def key(self, document: Document) -> int:
        """Return the 64 bits that decide where a document goes."""
        if not self.shuffle:
            return document.file << 40 | document.number
        place = struct.pack("<QQ", document.file, document.number)
        digest = hashlib.blake2b(place, digest_size=8, key=self.seed.to_bytes(8, "little")).digest()
        return int.from_bytes(digest, "little")

    def is_val(self, raw: bytes) -> bool:
        """Return whether a document is for validation, which depends on its content and the seed."""
        return bool(self.val_limit) and content_key(raw, self.seed) < self.val_limit


def num_buckets(text_bytes: float) -> int:
    """Return how many buckets so much text needs."""
    return max(1, min(MAX_BUCKETS, round(text_bytes / BUCKET_BYTES + 0.5)))


# ---- pass 1 ----------------------------------------------------------------------------------------------------------


def scatter(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Write the documents of a job's files into a spool file; return its name and index with hashes, and tallies."""
    how = Scatter(**job["scatter"])
    tallies: list[Tally] = []
    path = Path(job["folder"]) / f"{uuid.uuid4().hex}.spool"
    index = path.with_suffix(".index")
    try:
        with explain_os_errors("the shuffled documents"), path.open("wb") as file:
            spool = _Spool(file, how)
            for document in inputs.documents(job["inputs"], job["field"], job["cut"], tallies, tell):
                spool.add(document)
            spool.flush()
            index.write_bytes(np.array(spool.index, INDEX).tobytes())
    except BaseException:
        path.unlink(missing_ok=True)
        index.unlink(missing_ok=True)
        raise
    hashes = {name.name: sha256_file(name) for name in (path, index)}
    return {"spool": path.name, "index": index.name, "files": hashes, "tallies": [asdict(t) for t in tallies]}


class _Spool:
    """Gathers documents and writes them in runs."""

    def __init__(self, file: BinaryIO, how: Scatter) -> None:
        self._file, self._how = file, how
        self.index: list[tuple[int, ...]] = []
        self._run = 0
        self._clear()

    def _clear(self) -> None:
        self._keys: list[int] = []
        self._val: list[bool] = []
        self._chars: list[int] = []
        self._raw: list[bytes] = []
        self._bytes = 0

    def add(self, document: Document) -> None:
        self._keys.append(self._how.key(document))
        self._val.append(self._how.is_val(document.raw))
        self._chars.append(document.chars)
        self._raw.append(document.raw)
        self._bytes += len(document.raw)
        if self._bytes >= RUN_BYTES or len(self._raw) >= RUN_DOCUMENTS:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered as a run."""
        if not self._raw:
            return
        keys, val = np.array(self._keys, np.uint64), np.array(self._val, np.uint8)
        buckets = self._buckets(keys, val)
        order = np.lexsort((keys, buckets, val))
        meta = np.array([self._chars, list(map(len, self._raw))], np.uint32)
        starts = np.flatnonzero(np.diff(buckets[order].astype(np.int64) * 2 + val[order], prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(order)]):
            here = order[start:end]
            self._write(int(val[here[0]]), int(buckets[here[0]]), keys[here], meta[:, here], here)
        self._run += 1
        self._clear()

    def _buckets(self, keys: np.ndarray, val: np.ndarray) -> np.ndarray:
        if not self._how.shuffle:
            return np.zeros(len(keys), np.uint64)
        count = np.where(val == 1, np.uint64(self._how.val_buckets), np.uint64(self._how.buckets))
        return ((keys >> np.uint64(32)) * count) >> np.uint64(32)

    def _write(self, val: int, bucket: int, keys: np.ndarray, meta: np.ndarray, rows: np.ndarray) -> None:
        text = b"".join([self._raw[row] for row in rows])
        head = keys.astype("<u8").tobytes() + meta[0].astype("<u4").tobytes() + meta[1].astype("<u4").tobytes()
        body = pa.Codec("zstd", compression_level=1).compress(text, asbytes=True)
        at, check = self._file.tell(), zlib.crc32(body, zlib.crc32(head))
        self._file.write(head + body)
        self.index.append((self._run, val, bucket, len(rows), at, len(body), len(text), check))


# ---- pass 2 ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """Where some documents of a bucket are."""

    path: str
    documents: int
    at: int
    packed: int
    raw: int
    check: int

    def heads(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the documents' keys uint64 [n], characters uint32 [n] and bytes uint32 [n]."""
        with open(self.path, "rb") as file:
            file.seek(self.at)
            return self._parse(file.read(_META_BYTES * self.documents))

    def load(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, bytes]:
        """Return keys, characters, bytes and the texts one after another. Raises DamagedArtifact if they changed."""
        with open(self.path, "rb") as file:
            file.seek(self.at)
            stored = file.read(_META_BYTES * self.documents + self.packed)
        if zlib.crc32(stored) != self.check:
            raise DamagedArtifact(
                f"the documents of an unfinished shuffle changed on the disk: {self.path}",
                hint=f"start anew: rm -r {Path(self.path).parent}",
            )
        body = memoryview(stored)[_META_BYTES * self.documents :]
        text = pa.Codec("zstd").decompress(body, decompressed_size=self.raw, asbytes=True)
        return *self._parse(stored[: _META_BYTES * self.documents]), text

    def _parse(self, head: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = self.documents
        if len(head) != _META_BYTES * n:
            raise DamagedArtifact(f"the documents of an unfinished shuffle are cut short: {self.path}")
        sizes = np.frombuffer(head, "<u4", offset=8 * n)
        return np.frombuffer(head, "<u8", count=n), sizes[:n], sizes[n:]


Bucket = list[Segment]


def buckets(spools: Sequence[tuple[Path, Path]], shuffle: bool) -> dict[str, list[Bucket]]:
    """Return the buckets of both splits in the new order, from (spool, index) in the order of the inputs."""
    found: dict[str, dict[tuple[int, ...], Bucket]] = {"train": {}, "val": {}}
    for number, (spool, index) in enumerate(spools):
        for row in np.frombuffer(index.read_bytes(), INDEX):
            place = (int(row["bucket"]),) if shuffle else (number, int(row["run"]))
            fields = {name: int(row[name]) for name in ("documents", "at", "packed", "raw", "check")}
            found["val" if row["val"] else "train"].setdefault(place, []).append(Segment(str(spool), **fields))
    return {split: [held[place] for place in sorted(held)] for split, held in found.items()}


def order_of(keys: Sequence[np.ndarray]) -> np.ndarray:
    """Return the order of a bucket's documents, int64; equal keys stay in the order of the input."""
    return np.argsort(np.concatenate(keys), kind="stable")


def load(bucket: Bucket, first: int, last: int) -> Iterator[tuple[bytes, int]]:
    """Yield documents first .. last - 1 of a bucket in its order, each with its number of characters."""
    loaded = [segment.load() for segment in bucket]
    order = order_of([keys for keys, _, _, _ in loaded])[first:last]
    counts = [segment.documents for segment in bucket]
    owners = np.repeat(np.arange(len(loaded)), counts)[order].tolist()
    within = (order - (np.cumsum(counts) - counts)[owners]).tolist()
    ends = [np.cumsum(lengths, dtype=np.int64) for _, _, lengths, _ in loaded]
    for owner, at in zip(owners, within, strict=True):
        _, chars, lengths, text = loaded[owner]
        end = int(ends[owner][at])
        yield text[end - int(lengths[at]) : end], int(chars[at])
