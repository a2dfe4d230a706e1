"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nanochat_cli.core import files
from nanochat_cli.core.errors import DamagedArtifact, EnvironmentLacks, MissingArtifact, NanochatError


def test_write_atomic_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_atomic(path, "one")
    files.write_atomic(path, b"two")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NanochatError, match=r"the disk is full while writing a\.txt") as caught:
        files.write_atomic(path, "new")
    assert caught.value.exit_code == 1
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_in_the_way_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("")
    with pytest.raises(EnvironmentLacks, match="a file stands where a folder is needed"):
        files.make_dir(tmp_path / "base" / "runs", "the run folder")


def test_publish_dir_is_all_or_nothing(tmp_path: Path) -> None:
    final = tmp_path / "done"
    staged = files.staging_dir(final)
    (staged / "x").write_text("x")
    assert not final.exists()
    files.publish_dir(staged, final)
    assert (final / "x").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["done"]


def test_sweep_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    files.staging_dir(tmp_path / "step-000001")
    (tmp_path / ".a.json.12345678.tmp").write_text("half")
    (tmp_path / "kept").write_text("")
    files.sweep_staging(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_sweep_can_be_limited_to_what_only_the_caller_writes(tmp_path: Path) -> None:
    files.staging_dir(tmp_path / "step-000001")
    (tmp_path / ".stop.12345678.tmp").write_text("being written by another process")
    files.sweep_staging(tmp_path, "step-", "latest.")
    assert [p.name for p in tmp_path.iterdir()] == [".stop.12345678.tmp"]


def test_read_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match=r"the thing is missing: .*absent.json"):
        files.read_json(tmp_path / "absent.json", "the thing")
    for content in (b"{", b"[1]", b"\xff\xfe"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(DamagedArtifact, match=r"the thing is damaged.*bad.json"):
            files.read_json(tmp_path / "bad.json", "the thing")
