"""Answers that are kept: under any name, also one that is a path, and apart from those of a name alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.eval.kept import Kept


@pytest.mark.parametrize(
    "name",
    ["gsm8k-test", "/somewhere/else/mine.jsonl-test", "../x.jsonl-test", "a[b]*.jsonl-val", "ä ö.jsonl", "x" * 900],
)
def test_answers_are_found_again_under_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "partial"
    Kept(folder, name, Dist()).add([{"item": 3, "reply": "ä"}])
    assert Kept(folder, name, Dist()).done == {3: {"item": 3, "reply": "ä"}}
    assert [path.parent for path in tmp_path.rglob("*.jsonl")] == [folder]


def test_names_alike_are_kept_apart(tmp_path: Path) -> None:
    names = ["a/b-test", "a-b-test", "a b-test", "a-b", "a-b.x"]
    for number, name in enumerate(names):
        Kept(tmp_path, name, Dist()).add([{"item": number}])
    assert [list(Kept(tmp_path, name, Dist()).done) for name in names] == [[0], [1], [2], [3], [4]]
