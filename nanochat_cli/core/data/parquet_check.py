"""Whether a downloaded parquet file can be used, and how much text is in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat_cli.core.errors import DataError

if TYPE_CHECKING:
    from pyarrow import ChunkedArray
    from pyarrow.parquet import ParquetFile

TEXT = "text"


@dataclass(frozen=True)
class TextCount:
    """Documents, their characters, and their bytes of UTF-8."""

    rows: int
    chars: int
    text_bytes: int


def check_footer(path: Path) -> None:
    """Raise DataError unless the file ends in a footer that can be read, and that fits the file's length."""
    with _opened(path):
        pass


def check_text(path: Path) -> None:
    """Raise DataError unless this is a parquet file with a column of texts."""
    import pyarrow as pa

    with _opened(path) as file:
        schema = file.schema_arrow
        index = schema.get_field_index(TEXT)
        if index < 0 or schema.field(index).type not in (pa.string(), pa.large_string()):
            raise DataError(f"a parquet file without a column of texts named {TEXT}")


def count_text(path: Path) -> TextCount:
    """Return how much text a shard has, reading one row group at a time. Raises DataError if it cannot be read."""
    import pyarrow.compute as pc

    rows = chars = text_bytes = 0
    with _opened(path) as file:
        for index in range(file.num_row_groups):
            column: ChunkedArray = file.read_row_group(index, columns=[TEXT], use_threads=False)[0]
            if column.null_count:
                raise DataError(f"a shard with {column.null_count} documents without text")
            rows += len(column)
            chars += pc.sum(pc.utf8_length(column)).as_py() or 0  # pyright: ignore[reportAttributeAccessIssue]
            text_bytes += pc.sum(pc.binary_length(column)).as_py() or 0  # pyright: ignore[reportAttributeAccessIssue]
    return TextCount(rows, chars, text_bytes)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[ParquetFile]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as problem:
        raise DataError("not a whole parquet file") from problem
