"""Measurements that are kept: nothing is lost between writers, and nothing fails for a cache that cannot be used."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest

from nanochat_cli.core import cachefile

WRITERS, ENTRIES = 4, 25


def test_entries_are_added_to_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "x.json"
    cachefile.merge(path, {"a": {"eager": 1.0}, "n": 3})
    cachefile.merge(path, {"a": {"compiled": 2.0}, "b": {}})
    assert cachefile.read(path) == {"a": {"eager": 1.0, "compiled": 2.0}, "b": {}, "n": 3}
    cachefile.merge(path, {"a": {"eager": 5.0}, "n": 4})
    assert cachefile.read(path) == {"a": {"eager": 5.0, "compiled": 2.0}, "b": {}, "n": 4}


@pytest.mark.parametrize("content", ["", "[1]", "{", "\xff"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="latin-1")
    assert cachefile.read(path) == {}
    cachefile.merge(path, {"a": 1})
    assert cachefile.read(path) == {"a": 1}


def _write(path: Path, writer: int) -> None:
    for number in range(ENTRIES):
        cachefile.merge(path, {f"{writer}-{number}": number})


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, number)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(cachefile.read(path)) == WRITERS * ENTRIES


def test_a_lock_that_is_never_given_back_holds_nobody_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cachefile, "_WAIT_S", 0.0)
    path = tmp_path / "x.json"
    other = os.open(tmp_path / ".x.json.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    cachefile.merge(path, {"a": 1})
    os.close(other)
    assert cachefile.read(path) == {"a": 1}


def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cachefile.merge(tmp_path / "file" / "x.json", {"a": 1})
    assert cachefile.read(tmp_path / "file" / "x.json") == {}
