"""Writing the parquet shards of a corpus under construction: both splits side by side, hashed on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from nanochat_cli.core.data.corpus import Shard, Split
from nanochat_cli.core.files import explain_os_errors, sha256_file

GROUP_ROWS = 1024
GROUP_BYTES = 64 << 20  # a row group closes early at this much text, so memory stays bounded with huge documents
SCHEMA = pa.schema([("text", pa.string())])


class SplitWriters:
    """The two split writers side by side."""

    def __init__(self, folder: Path, prefix: str, shard_chars: int, is_val: Callable[[bytes], bool]) -> None:
        self.train = SplitWriter(folder, "train", prefix, shard_chars)
        self.val = SplitWriter(folder, "val", prefix, shard_chars)
        self.folder, self._is_val = folder, is_val

    @property
    def chars(self) -> int:
        return self.train.chars + self.val.chars

    def of(self, split: Split) -> SplitWriter:
        return self.val if split == "val" else self.train

    def add(self, chars: int, raw: bytes) -> None:
        (self.val if self._is_val(raw) else self.train).add(chars, raw)

    def close(self) -> None:
        self.train.close()
        self.val.close()

    def abandon(self) -> None:
        self.train.abandon()
        self.val.abandon()

    def documents(self) -> Iterator[str]:
        """Yield what was written; order holds within each split."""
        for writer in (self.train, self.val):
            for shard in writer.shards:
                with parquet.ParquetFile(self.folder / shard.name) as file:
                    for index in range(file.num_row_groups):
                        yield from file.read_row_group(index).column(0).to_pylist()

    def remove(self) -> None:
        for shard in self.train.shards + self.val.shards:
            (self.folder / shard.name).unlink()

    def rename(self, prefix: str) -> None:
        for writer in (self.train, self.val):
            writer.shards = [self._renamed(shard, shard.name.removeprefix(prefix)) for shard in writer.shards]

    def _renamed(self, shard: Shard, name: str) -> Shard:
        (self.folder / shard.name).rename(self.folder / name)
        return replace(shard, name=name)


class SplitWriter:
    """Writes the shards of one split and hashes the documents on the way.

    A row group is hashed and packed in a thread while the next one is gathered; never more than one at a time.
    """

    def __init__(self, folder: Path, split: str, prefix: str, shard_chars: int) -> None:
        self.folder, self.split, self.prefix, self.shard_chars = folder, split, prefix, shard_chars
        self.shards: list[Shard] = []
        self.chars = 0
        self.content = hashlib.sha256()
        self._group: list[bytes] = []
        self._group_bytes = 0
        self._file: parquet.ParquetWriter | None = None
        self._rows = self._shard_chars = self._shard_bytes = 0
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def add(self, chars: int, raw: bytes) -> None:
        self._group.append(raw)
        self._group_bytes += len(raw)
        self._shard_chars += chars
        self.chars += chars
        if len(self._group) == GROUP_ROWS or self._group_bytes >= GROUP_BYTES:
            self._write_group()
            if self._shard_chars >= self.shard_chars:
                self._close_shard()

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.prefix}{self.split}-{len(self.shards):05d}.parquet"

    def _write_group(self) -> None:
        group, self._group = self._group, []
        self._rows += len(group)
        self._shard_bytes += self._group_bytes
        self._group_bytes = 0
        self._wait()
        self._writing = self._thread.submit(self._write, group)

    def _wait(self) -> None:
        """Wait until nothing is being written; raises what went wrong with it."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, group: list[bytes]) -> None:
        lengths = b"".join(len(raw).to_bytes(8, "little") for raw in group)
        self.content.update(lengths + b"".join(group))
        with explain_os_errors(self._path.name):
            if self._file is None:
                options: dict[str, Any] = {"compression": "zstd", "compression_level": 3}
                self._file = parquet.ParquetWriter(
                    self._path, SCHEMA, use_dictionary=False, write_statistics=False, **options
                )
            table = pa.table([pa.array(group, type=pa.string())], schema=SCHEMA)
            self._file.write_table(table, row_group_size=GROUP_ROWS)

    def _close_shard(self) -> None:
        self._wait()
        path, file = self._path, self._file
        if file is None:
            return
        self._file = None
        with explain_os_errors(path.name):
            file.close()
        self.shards.append(
            Shard(
                name=path.name,
                split=self.split,
                rows=self._rows,
                chars=self._shard_chars,
                text_bytes=self._shard_bytes,
                bytes=path.stat().st_size,
                sha256=sha256_file(path),
            )
        )
        self._rows = self._shard_chars = self._shard_bytes = 0

    def close(self) -> None:
        if self._group:
            self._write_group()
        self._close_shard()
        self._thread.shutdown()

    def abandon(self) -> None:
        """Let go of an open file after an error; the folder is deleted next."""
        self._thread.shutdown()  # waits for what is being written
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except (OSError, pa.ArrowException):
                pass  # the first error is the one to tell
