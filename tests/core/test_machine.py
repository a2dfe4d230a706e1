"""GPUs are counted without torch, as a process would see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat_cli.core import machine


@pytest.mark.parametrize(
    ("listed", "count"),
    [
        (None, 4),
        ("", 0),
        ("0", 1),
        ("3,1", 2),
        (" 0, 2 ", 2),
        ("-1", 0),
        ("0,-1,2", 1),
        ("0,9,2", 1),
        ("1,1", 1),
        ("GPU-8f2c,GPU-11aa", 2),
        ("MIG-1/2/3", 1),
        ("NoDevFiles", 0),
    ],
)
def test_gpus_that_a_process_would_see(tmp_path: Path, listed: str | None, count: int) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-modeset"):
        (tmp_path / name).touch()
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    assert machine.count_gpus(environ, tmp_path) == count


def test_no_gpu(tmp_path: Path) -> None:
    assert machine.count_gpus({}, tmp_path) == 0
    assert machine.count_gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path) == 0
