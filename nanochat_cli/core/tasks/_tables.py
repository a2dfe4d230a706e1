"""Downloaded questions: rows of the files that `nanochat data download` fetched, with train and test kept apart."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from nanochat_cli.core.data import downloaded, jsonfile, sources
from nanochat_cli.core.data.tinyworld.rng import hash64
from nanochat_cli.core.errors import DamagedArtifact, DataError, MissingArtifact, NanochatError
from nanochat_cli.core.tasks.base import Task

Row = Mapping[str, Any]


class Rows(Protocol):
    """Rows by number, read when asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Row: ...


class _Parquet:
    """The rows of parquet files of one layout, one after another; columns stay packed until a row is asked for."""

    def __init__(self, paths: Sequence[Path], columns: Sequence[str]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            schema = parquet.read_schema(paths[0])
            wrapped = schema.names == ["train"]  # as some auxiliary questions come
            tables = [parquet.read_table(path, columns=None if wrapped else list(columns)) for path in paths]
        except (OSError, pa.ArrowException) as problem:
            raise DamagedArtifact(f"cannot read parquet: {paths[0].parent} ({problem})") from problem
        table = pa.concat_tables(tables)
        self._columns = {name: table.column("train" if wrapped else name) for name in _there(table, columns, wrapped)}
        self._wrapped, self._names, self._len = wrapped, tuple(columns), table.num_rows
        missing = [] if wrapped else [name for name in columns if name not in self._columns]
        if missing:
            raise _no_columns(paths[0], missing, schema.names)

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, i: int, /) -> Row:
        if self._wrapped:
            row = self._columns["train"][i].as_py()
            return {name: row[name] for name in self._names}
        return {name: column[i].as_py() for name, column in self._columns.items()}


def _there(table: Any, columns: Sequence[str], wrapped: bool) -> list[str]:
    return ["train"] if wrapped else [name for name in columns if name in table.column_names]


def _no_columns(path: Path, missing: Sequence[str], there: Sequence[str]) -> DataError:
    return DataError(f"no column {', '.join(missing)}: {path} (columns there: {', '.join(there) or 'none'})")


def read_rows(folder: Path, pattern: str, columns: Sequence[str]) -> Rows:
    """Return the rows of `pattern`.parquet, or of .jsonl files, in a folder. Raises MissingArtifact or DataError."""
    found = sorted(folder.glob(f"{pattern}.parquet"))
    if found:
        return _Parquet(found, columns)
    rows: list[Row] = []
    for path in sorted(folder.glob(f"{pattern}.jsonl")):
        for number, value in jsonfile.values(path):
            if not isinstance(value, dict) or any(name not in value for name in columns):
                raise DataError(f"not a row with {', '.join(columns)}: {path}:{number}")
            rows.append(value)
    if not rows:
        raise MissingArtifact(f"no questions here: {folder / pattern}.parquet")
    return rows


def is_here(source: str) -> bool:
    """Whether a data set was downloaded whole."""
    try:
        return downloaded.is_complete(sources.get(source))
    except NanochatError:
        return False


class TableTask(Task):
    """A task whose items are rows of a downloaded data set.

    Training leaves out every row whose question is also asked in a split that is held out or selected by, so the splits
    are disjoint whatever the files hold.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    selection: ClassVar[str | None] = "val"
    columns: ClassVar[tuple[str, ...]]
    val_share: ClassVar[float | None] = None
    """Share of the training rows that is the validation split; None: the data set brings one."""

    def __init__(self, *, split: str = "test", size: int | None = None, seed: int = 0) -> None:
        """Open a split; `size` keeps its first items. Raises MissingArtifact naming the download."""
        super().__init__(split=split, size=size, seed=seed)
        folder = downloaded.folder_of(sources.get(self.needs[0]))
        self._rows, self._items = _split(type(self), folder, split)

    @classmethod
    def suits(cls, source: Mapping[str, Any]) -> bool:
        return bool(cls.held_out) and not source.get("generator") and is_here(cls.needs[0])

    @classmethod
    @abstractmethod
    def files(cls, folder: Path, split: str) -> tuple[Path, str]:
        """Folder and name pattern, without its ending, of the files with a split's rows."""

    @classmethod
    def key(cls, row: Row) -> str:
        """What makes two rows the same question."""
        return " ".join(str(row["question"]).casefold().split())

    def __len__(self) -> int:
        return len(self._items) if self.size is None else min(self.size, len(self._items))

    def row(self, i: int) -> Row:
        """Row of item `i`, counted within the split. Raises IndexError beyond its end."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self._rows[self._items[i]]


@functools.lru_cache(maxsize=8)
def _split(cls: type[TableTask], folder: Path, split: str) -> tuple[Rows, Sequence[int]]:
    """The rows of a file set and which of them belong to the split."""
    carved = cls.val_share is not None
    rows = read_rows(*cls.files(folder, "train" if carved and split == "val" else split), cls.columns)
    if split == "test" or not (cls.held_out or carved):
        return rows, range(len(rows))
    tested = _keys(cls, folder, "test") if "test" in cls.splits else frozenset()
    keys = [cls.key(rows[i]) for i in range(len(rows))]
    if split == "val":
        return rows, [i for i, key in enumerate(keys) if key not in tested and (not carved or is_carved(cls, key))]
    if carved:
        return rows, [i for i, key in enumerate(keys) if key not in tested and not is_carved(cls, key)]
    held = tested | _keys(cls, folder, "val")
    return rows, [i for i, key in enumerate(keys) if key not in held]


def _keys(cls: type[TableTask], folder: Path, split: str) -> frozenset[str]:
    rows = read_rows(*cls.files(folder, split), cls.columns)
    return frozenset(cls.key(rows[i]) for i in range(len(rows)))


def is_carved(cls: type[TableTask], key: str) -> bool:
    """Whether a training row is for validation: by a hash of its question, so the same in every version and order."""
    return hash64(f"{cls.needs[0]}/val/{key}") / 2**64 < (cls.val_share or 0)
