"""Small data sets in the files and columns of the real ones, where `nanochat data download` would put them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from nanochat_cli.core.data import downloaded, sources
from nanochat_cli.core.data.downloaded import Entry

Row = Mapping[str, Any]
Download = Callable[..., Path]


@pytest.fixture
def download(base_dir: Path) -> Download:
    """A function that puts files (a name and its rows, or its text) where a data set goes, and records them."""
    return put


def put(name: str, contents: Mapping[str, Sequence[Row] | str]) -> Path:
    source = sources.get(name)
    entries = {}
    for file, content in contents.items():
        path = source.dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            parquet.write_table(pa.Table.from_pylist([dict(row) for row in content]), path, row_group_size=3)
        entries[file] = Entry(size=path.stat().st_size, sha256="0" * 64)
    downloaded.add(source, entries, complete=True)
    return source.dir


def arc_row(number: int, labels: str = "ABCD", answer: str = "B") -> Row:
    texts = [f"option {number} {label}" for label in labels]
    return {
        "id": f"q{number}",
        "question": f"Which is thing {number}?",
        "choices": {"text": texts, "label": list(labels)},
        "answerKey": answer,
    }


def arc_files(config: str, train: Sequence[Row], val: Sequence[Row], test: Sequence[Row]) -> dict[str, Sequence[Row]]:
    splits = {"train": train, "validation": val, "test": test}
    return {f"{config}/{split}-00000-of-00001.parquet": rows for split, rows in splits.items()}


def mmlu_row(number: int, subject: str = "astronomy", answer: int = 2) -> Row:
    choices = [f"{number} {word}" for word in ("one", "two", "three", "four")]
    return {"question": f"What about {number}?", "subject": subject, "choices": choices, "answer": answer}


def mmlu_files(train: Sequence[Row], val: Sequence[Row], test: Sequence[Row]) -> dict[str, Sequence[Row]]:
    return {
        "auxiliary_train/train-00000-of-00001.parquet": [{"train": row} for row in train],
        "all/validation-00000-of-00001.parquet": val,
        "all/test-00000-of-00001.parquet": test,
    }


def sum_row(number: int) -> Row:
    return {
        "question": f"Ann has {number} pens and buys 2. How many now?",
        "answer": f"She has {number}+2=<<{number}+2={number + 2}>>{number + 2} pens.\n#### {number + 2}",
    }


def smoltalk_row(number: int) -> Row:
    turns = [("system", "Be kind."), ("user", f"Hello {number}"), ("assistant", f"Hi {number}!")]
    return {"messages": [{"role": role, "content": text} for role, text in turns], "source": "made up"}
