"""What one process makes of some input files on the way to a corpus: their documents as one parquet file.

A part is read again soon and then deleted, so it is packed quickly rather than small.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from nanochat_cli.core.data import inputs
from nanochat_cli.core.data.inputs import Tally
from nanochat_cli.core.data.workers import Tell
from nanochat_cli.core.errors import DamagedArtifact
from nanochat_cli.core.files import explain_os_errors, sha256_file

BATCH_ROWS = 1024
BATCH_BYTES = 16 << 20
SCHEMA = pa.schema([("text", pa.large_binary()), ("chars", pa.int64())])


def make(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Read the files of a job into a part, and return its name with its SHA-256, and a tally of each file."""
    tallies: list[Tally] = []
    path = Path(job["folder"]) / f"{uuid.uuid4().hex}.part"
    found = inputs.documents(job["inputs"], job["field"], job["cut"], tallies, tell)
    try:
        with explain_os_errors(path.name), _Writer(path) as writer:
            for document in found:
                writer.add(document.raw, document.chars)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return {"part": path.name, "files": {path.name: sha256_file(path)}, "tallies": [asdict(tally) for tally in tallies]}


def read(path: Path) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the documents of a part as (characters, UTF-8), some at a time."""
    try:
        with parquet.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                table = file.read_row_group(index)
                yield list(zip(table["chars"].to_pylist(), table["text"].to_pylist(), strict=True))
    except (pa.ArrowException, OSError) as problem:
        raise DamagedArtifact(
            f"a file of the unfinished import cannot be read: {path}", hint=f"start anew: rm -r {path.parent}"
        ) from problem


class _Writer:
    """Gathers documents into row groups of limited size."""

    def __init__(self, path: Path) -> None:
        options: dict[str, Any] = {"compression": "zstd", "compression_level": 1}
        self._file = parquet.ParquetWriter(path, SCHEMA, use_dictionary=False, write_statistics=False, **options)
        self._raw: list[bytes] = []
        self._chars: list[int] = []
        self._bytes = 0

    def add(self, raw: bytes, chars: int) -> None:
        self._raw.append(raw)
        self._chars.append(chars)
        self._bytes += len(raw)
        if len(self._raw) == BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._raw:
            columns = [pa.array(self._raw, type=pa.large_binary()), pa.array(self._chars, type=pa.int64())]
            self._file.write_table(pa.table(columns, schema=SCHEMA), row_group_size=BATCH_ROWS)
        self._raw, self._chars, self._bytes = [], [], 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._file.close()
