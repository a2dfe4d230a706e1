from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nanochat_cli.core import tensorfile


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "w": torch.randn(3, 5),
        "half": torch.randn(7).to(torch.bfloat16),
        "fp16": torch.randn(2, 2).half(),
        "count": torch.tensor(4),
        "flag": torch.tensor([True, False, True]),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "empty": torch.empty(0, 4),
        "turned": torch.randn(4, 6).t(),
        "double": torch.randn(2, dtype=torch.float64),
    }
    path = tmp_path / "x.safetensors"
    written = tensorfile.write(path, tensors, {"slices": "{}"})
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == t.dtype and torch.equal(found[name], t) for name, t in tensors.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "slices": "{}"}
    assert (written.size, written.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


def test_equal_contents_make_equal_files_in_any_order(tmp_path: Path) -> None:
    a, b = torch.ones(3), torch.zeros(2, dtype=torch.int64)
    first = tensorfile.write(tmp_path / "1", {"a": a, "b": b})
    assert tensorfile.write(tmp_path / "2", {"b": b, "a": a}) == first


def test_what_may_be_written_is_asked_for_piece_by_piece(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def few(done: int, coming: int) -> int:
        asked.append((done, coming))
        return min(coming, 100)

    tensorfile.write(tmp_path / "x", {"a": torch.arange(200.0)}, allowed=few)
    assert torch.equal(load_file(tmp_path / "x")["a"], torch.arange(200.0))
    assert [done for done, _ in asked] == sorted({done for done, _ in asked}) and len(asked) > 8


def test_a_refusal_leaves_an_error_and_no_open_file(tmp_path: Path) -> None:
    def full(done: int, coming: int) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        tensorfile.write(tmp_path / "x", {"a": torch.ones(2)}, allowed=full)
    with pytest.raises(FileExistsError):  # never over a file that is there
        tensorfile.write(tmp_path / "x", {"a": torch.ones(2)})
