from __future__ import annotations

import pytest
import torch

from nanochat_cli.core import launch
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.settings import ComputeSection
from nanochat_cli.core.train import determinism

CPU, GPU = Dist(), Dist(device=torch.device("cuda", 0))


def test_the_promise_depends_on_the_device_and_on_what_is_asked() -> None:
    assert determinism.level(CPU, False) is determinism.L1
    assert determinism.level(GPU, False) is determinism.L3
    assert determinism.level(GPU, True) is determinism.L2


def test_what_the_bits_depend_on_is_recorded() -> None:
    assert determinism.here(CPU).keys() == {"world", "threads", "torch", "processor"}


@pytest.mark.parametrize(("key", "value"), [("world", 2), ("threads", 99), ("torch", "1.0"), ("processor", "abacus")])
def test_a_change_of_processes_or_threads_makes_it_less(key: str, value: object) -> None:
    before = {"world": 1, "threads": torch.get_num_threads()}
    assert determinism.level(CPU, False, before) is determinism.L1
    assert determinism.level(CPU, False, {"world": 1}) is determinism.L1, "older checkpoints do not tell their threads"
    assert determinism.level(CPU, False, {**before, key: value}) is determinism.L4


def test_libraries_are_told_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO"):
        monkeypatch.delenv(name, raising=False)
    told = launch.worker_env(ComputeSection(deterministic=True), 1)
    assert (told["CUBLAS_WORKSPACE_CONFIG"], told["NCCL_ALGO"]) == (":4096:8", "Ring")
    assert "NCCL_ALGO" not in launch.worker_env(ComputeSection(), 1)
