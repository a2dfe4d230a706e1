"""Counting targets and reading figures: right over several processes, and without waiting for a device in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat_cli.core import events, runs
from nanochat_cli.core.data.loader import Batches, Counted, count_targets
from nanochat_cli.core.data.packing import PackedRows
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.train import gradient, loop
from tests.core.train.conftest import MakeJob


class Twins(Dist):
    """Two processes that have the same rows, as one of them sees it."""

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor.mul_(2)

    def main_text(self, text: str) -> str:
        return text

    def minimum(self, value: int) -> int:
        return 0  # they share no disk: what one cannot see the other has to be sent

    def sum_gradients(self, params: Any) -> None:
        for param in params:
            param.grad.mul_(2)


class Reads(TorchDispatchMode):
    """Counts how often a value is fetched from a tensor, for which a GPU would have to finish its work."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def test_the_loader_counts_what_is_there(rows: PackedRows) -> None:
    for micro in Batches(rows, rows_per_step=8, seed=3).step(5, device_batch_size=3):
        assert isinstance(micro, Counted)
        assert count_targets(micro) == count_targets(tuple(micro)) == int((micro[1] >= 0).sum()) > 0


@pytest.mark.parametrize("dist", [Dist(), Twins(world=2)])
def test_nothing_is_read_before_the_end(make_job: MakeJob, dist: Dist) -> None:
    job = make_job()
    micros = job.batches.step(0, 0, 1, 2)
    params = list(job.model.parameters())
    with Reads() as reads:
        gradient.backward(job.losses, params, micros, dist)
    assert reads.count == 0
    with Reads() as reads:
        gradient.backward(job.losses, params, [tuple(micro) for micro in micros], dist)
    assert reads.count == len(micros) == 4  # on the processor here, where nothing has to be waited for


def test_processes_with_equal_rows_get_the_mean_of_one(make_job: MakeJob) -> None:
    job = make_job()
    params, micros = list(job.model.parameters()), job.batches.step(0, 0, 1, 3)
    alone = gradient.accumulate(job.losses, params, micros, Dist())
    expected = [None if p.grad is None else p.grad.clone() for p in params]
    job.model.zero_grad()
    both = gradient.accumulate(job.losses, params, micros, Twins(world=2))
    assert (both.targets, both.tokens) == (2 * alone.targets, 2 * alone.tokens)
    assert both.loss == pytest.approx(alone.loss, rel=1e-6)
    for param, want in zip(params, expected, strict=True):
        torch.testing.assert_close(param.grad, torch.zeros_like(param) if want is None else want / 2)  # its own part


@pytest.mark.parametrize("dist", [Dist(), Twins(world=2)])
@pytest.mark.parametrize("num_micros", [0, 2])
def test_no_target_anywhere_is_no_gradient(make_job: MakeJob, dist: Dist, num_micros: int) -> None:
    job = make_job()
    params = list(job.model.parameters())
    x = torch.zeros(2, 16, dtype=torch.int64)
    micros = [Counted((x, torch.full_like(x, -1)), 0)] * num_micros
    found = gradient.accumulate(job.losses, params, micros, dist)
    assert found == gradient.Gradient(0.0, 0, 32 * num_micros * dist.world)
    assert all(param.grad is None for param in params)


def test_other_figures_are_read_along(make_job: MakeJob) -> None:
    job = make_job()
    params, micros = list(job.model.parameters()), job.batches.step(0, 0, 1, 3)
    for dist in (Dist(), Twins(world=2)):
        pending = gradient.backward(job.losses, params, micros, dist)
        found, others = pending.read(torch.tensor(2.5), torch.tensor(7))
        assert (
            not found.flags and others == [2.5, 7.0] and found.targets == dist.world * sum(map(count_targets, micros))
        )


def test_numbers_go_along_with_the_counts(make_job: MakeJob) -> None:
    job = make_job()
    params, micros = list(job.model.parameters()), job.batches.step(0)
    for dist in (Dist(), Twins(world=2)):
        for flags in ((1, 0, 3), (0,), ()):
            found = gradient.backward(job.losses, params, micros, dist, flags=flags).read()[0].flags
            assert found == tuple(dist.world * flag for flag in flags)


def test_several_processes_stop_after_the_step_that_began_with_the_request(make_job: MakeJob) -> None:
    def listen(event: events.Event) -> None:
        if event["kind"] == "step" and event["step"] == 3:
            (job.stage_dir / "stop").touch()

    job = make_job()
    assert loop.train(job, Twins(world=2), events.Listener(listen)) == {"stopped": 4}
    assert runs.checkpoint_steps(job.stage_dir) == [4]
