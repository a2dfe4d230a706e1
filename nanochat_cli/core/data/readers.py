"""One reader per file format: each yields (position, document) pairs, where position is a line or a row."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nanochat_cli.core.data import cutting, jsonfile
from nanochat_cli.core.data.cutting import Cut
from nanochat_cli.core.data.textfile import COMPRESSED, kind_of, lines, tell_share
from nanochat_cli.core.errors import DataError

Document = tuple[int, str]  # line (text, JSON, csv; from 1) or row (parquet; from 1), and the text
TEXT = (".txt", ".md", ".text", ".rst")
JSON = (".json", *jsonfile.JSON_LINES)
TABLES = (".csv", ".tsv")
PARQUET = (".parquet",)
KNOWN = (*TEXT, *JSON, *TABLES, *PARQUET)
PAGE_BUFFER = 4 << 20
_CHAT_FIELDS = ({"messages"}, {"conversations"}, {"instruction"}, {"prompt", "completion"})


def read(path: Path, field: str, cut: Cut) -> Iterator[Document]:
    """Yield the documents of a file; a format that the name does not tell is taken as plain text.

    `field` is the JSON field or column that holds the text; `cut` says how plain text becomes documents.
    """
    kind = kind_of(path)
    if kind in JSON:
        return _json(path, field)
    if kind in TABLES:
        return _table(path, field, "\t" if kind == ".tsv" else None)
    if kind in PARQUET:
        return _parquet(path, field)
    return cutting.documents(lines(path), cut)


def _json(path: Path, field: str) -> Iterator[Document]:
    for number, value in jsonfile.values(path):
        if isinstance(value, str):
            yield number, value
            continue
        if not isinstance(value, dict):
            raise DataError(f"neither text nor an object: {path}:{number}")
        if field not in value:
            raise _no_field(f"{path}:{number}", field, list(value), path)
        if not isinstance(value[field], str):
            raise DataError(f"{field} is not text: {path}:{number} ({type(value[field]).__name__})")
        yield number, value[field]


def _no_field(where: str, field: str, there: list[str], path: Path) -> DataError:
    if any(fields <= set(there) for fields in _CHAT_FIELDS):
        hint = f"these look like chats: nanochat train sft --data {path}"
    else:
        hint = f"name the one that holds the text: --text-field {there[0]}" if there else None
    return DataError(f"no field {field}: {where} (fields there: {', '.join(there[:20]) or 'none'})", hint=hint)


def _table(path: Path, field: str, delimiter: str | None) -> Iterator[Document]:
    csv.field_size_limit(1 << 30)  # the module's own limit of 128 KiB is less than a long document
    source = (text for _, text in lines(path))
    head = next(source, "")
    reader = csv.reader(_put_back(head, source), delimiter=delimiter or _guess_delimiter(head), strict=True)
    try:
        columns = next(reader, [])
        if field not in columns:
            raise _no_column(path, field, columns)
        at = columns.index(field)
        began = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(columns):
                raise DataError(f"{len(row)} fields instead of {len(columns)}: {path}:{began}")
            if row:
                yield began, row[at]
            began = reader.line_num + 1
    except csv.Error as problem:
        raise DataError(f"broken csv: {path}:{reader.line_num} ({problem})") from None


def _put_back(head: str, rest: Iterator[str]) -> Iterator[str]:
    yield head
    yield from rest


def _guess_delimiter(head: str) -> str:
    return max(",;\t", key=head.count)


def _no_column(path: Path, field: str, columns: list[str]) -> DataError:
    hint = f"name the one that holds the text: --text-field {columns[0]}" if columns else None
    return DataError(f"no column {field}: {path} (columns there: {', '.join(columns[:20]) or 'none'})", hint=hint)


def is_parquet(path: Path) -> bool:
    """True if a file's name says that it is parquet."""
    return kind_of(path) in PARQUET


def _parquet(path: Path, field: str) -> Iterator[Document]:
    import pyarrow as pa

    row = 0
    for batch in parquet_arrays(path, field):
        for raw in batch.cast(pa.large_binary()).to_pylist():
            row += 1
            yield row, _decode(raw or b"", path, row)


def parquet_arrays(path: Path, field: str) -> Iterator[Any]:
    """Yield the texts of a parquet file as Arrow arrays, in order; whether they are UTF-8 is for the reader to see.

    Raises DataError for a file that cannot be read, without that column, or where it holds no text.
    """
    import pyarrow as pa
    from pyarrow import parquet, types

    try:
        # A buffer size streams the pages of a row group, which otherwise is held in memory as a whole.
        with parquet.ParquetFile(path, buffer_size=PAGE_BUFFER) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                raise _no_column(path, field, _texts_first(schema))
            kind = schema.field(field).type
            if not _is_text(kind):
                raise DataError(f"column {field} is not text: {path} ({kind})")
            rows = 0
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                rows += len(batch)
                tell_share(path, rows, file.metadata.num_rows)
                column = batch.column(0)
                if types.is_binary(kind) or types.is_large_binary(kind):  # the same bytes under another name
                    text = pa.string() if types.is_binary(kind) else pa.large_string()
                    column = pa.Array.from_buffers(
                        text, len(column), column.buffers(), column.null_count, column.offset
                    )
                yield column.cast(pa.large_string()) if types.is_dictionary(kind) else column
    except (pa.ArrowException, OSError) as problem:
        reason = str(problem).splitlines()[0]
        raise DataError(f"cannot read as parquet: {path} ({reason})") from problem


def text_size(path: Path, field: str) -> int | None:
    """Bytes of text in a file as far as that can be told without reading it; None for what is compressed as a whole."""
    if not is_parquet(path):
        return None if path.suffix.lower() in COMPRESSED else path.stat().st_size
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(path)
    except (pa.ArrowException, OSError):
        return None  # whoever reads it will say what is wrong
    columns = [
        metadata.row_group(g).column(c) for g in range(metadata.num_row_groups) for c in range(metadata.num_columns)
    ]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == field)


def parquet_rows(path: Path) -> int:
    """Number of rows in a parquet file."""
    from pyarrow import parquet

    return parquet.read_metadata(path).num_rows


def parquet_place(path: Path, row: int) -> str:
    """A row of a file, counted from 0, as a person looks for it: file, row group and row, counted from 1."""
    from pyarrow import parquet

    metadata, before = parquet.read_metadata(path), 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if row < before + rows:
            return f"{path}, row group {group + 1}, row {row - before + 1} (row {row + 1} of the file)"
        before += rows
    return f"{path}, row {row + 1}"


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    tests: tuple[Callable[[Any], bool], ...] = (
        types.is_string,
        types.is_large_string,
        types.is_binary,
        types.is_large_binary,
        types.is_string_view,
    )
    return any(test(kind.value_type if types.is_dictionary(kind) else kind) for test in tests)


def _texts_first(schema: Any) -> list[str]:
    return sorted(schema.names, key=lambda name: not _is_text(schema.field(name).type))


def _decode(raw: bytes, path: Path, row: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as problem:
        byte = raw[problem.start]
        raise DataError(f"not UTF-8: {path}, row {row} (byte 0x{byte:02x} at position {problem.start + 1})") from None
