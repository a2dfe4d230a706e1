"""Archives from elsewhere: what is good comes out, what is hostile leaves nothing."""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from nanochat_cli.core.data.unpack import unpack
from nanochat_cli.core.errors import DataError


def make(path: Path, names: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in names.items():
            info = zipfile.ZipInfo(name)
            info.filename = name
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            file.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


@pytest.fixture
def into(tmp_path: Path) -> Path:
    path = tmp_path / "into"
    path.mkdir()
    return path


def test_files_come_out_without_their_common_folder(tmp_path, into) -> None:
    names = {"top/a.txt": b"a" * 3000, "top/b/c.txt": b"c", "__MACOSX/top/a.txt": b"junk"}
    told: list[tuple[int, int]] = []
    found = unpack(make(tmp_path / "z", names), into, told=lambda *figures: told.append(figures))
    assert sorted(p.relative_to(into).as_posix() for p in into.rglob("*") if p.is_file()) == ["a.txt", "b/c.txt"]
    assert found["a.txt"].sha256 == hashlib.sha256(b"a" * 3000).hexdigest() and found["a.txt"].size == 3000
    assert told[-1] == (3001, 3001)
    (tmp_path / "two").mkdir()
    assert sorted(unpack(make(tmp_path / "y", {"a/x": b"1", "b": b"2"}), tmp_path / "two")) == ["a/x", "b"]


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "a/./x", "C:/x", "a\\..\\x", "..", "a/.. /x", "a\x1b[2J", "a//x"]
)
def test_names_that_lead_elsewhere(tmp_path, into, name) -> None:
    with pytest.raises(DataError, match="leads elsewhere"):
        unpack(make(tmp_path / "z", {"good": b"1", name: b"2"}), into)
    assert not list(into.iterdir()) and sorted(p.name for p in tmp_path.iterdir()) == ["into", "z"]


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o644, stat.S_IFCHR | 0o644])
def test_links_and_devices(tmp_path, into, mode) -> None:
    with pytest.raises(DataError, match="no plain file"):
        unpack(make(tmp_path / "z", {"good": b"1", "link": b"/etc/passwd"}, {"link": mode}), into)
    assert not list(into.iterdir())


def test_bombs(tmp_path, into) -> None:
    with pytest.raises(DataError, match="unpacks to too much"):
        unpack(make(tmp_path / "z", {"a": bytes(1_000_000), "b": bytes(1_000_000)}), into, max_bytes=1_500_000)
    assert not list(into.iterdir())
    path = make(tmp_path / "liar", {"a": bytes(1_000_000)})
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 10)  # it says that it holds 10 bytes
    path.write_bytes(raw)
    with pytest.raises(DataError):
        unpack(path, into)
    assert sum(p.stat().st_size for p in into.iterdir()) <= 10


def test_two_files_of_one_name(tmp_path, into) -> None:
    for names in ({"a/X": b"1", "a/x": b"2", "b": b""}, {"a": b"1", "a/b": b"2"}):
        with pytest.raises(DataError, match="one name"):
            unpack(make(tmp_path / "z", names), into)


def test_damage(tmp_path, into) -> None:
    path = make(tmp_path / "z", {"a": b"abc" * 1000})
    raw = bytearray(path.read_bytes())
    raw[40] ^= 255
    path.write_bytes(raw)
    with pytest.raises(DataError):
        unpack(path, into)
    (tmp_path / "cut").write_bytes(bytes(raw[:-30]))
    with pytest.raises(DataError, match="not a whole zip archive"):
        unpack(tmp_path / "cut", into)
