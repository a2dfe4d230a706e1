from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nanochat_cli.core import events, files, stepdirs
from nanochat_cli.core.data.loader import Batches, Counted
from nanochat_cli.core.data.packing import PackedRows
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.train import loop
from nanochat_cli.core.train.prefetch import Prefetched
from nanochat_cli.core.train.rollouts import Rollouts
from tests.core.train.conftest import MakeJob

CPU = torch.device("cpu")
PATIENCE_S = 10


def prefetched(batches: loop.Batches) -> Prefetched:
    return Prefetched(batches, device=CPU, vocab_size=300)


def same(one: Any, two: Any) -> bool:
    return all(torch.equal(a, b) for p, q in zip(one, two, strict=True) for a, b in zip(p, q, strict=True))


class Watched:
    """Batches that tell which steps they make, and may wait or fail."""

    def __init__(self, batches: Batches, before: Callable[[int], None] = lambda step: None) -> None:
        self.batches, self.before = batches, before
        self.made: list[int] = []
        self.news = threading.Condition()

    def step(self, step: int, *args: Any, **kwargs: Any) -> list[Counted]:
        self.before(step)
        found = self.batches.step(step, *args, **kwargs)
        with self.news:
            self.made.append(step)
            self.news.notify_all()
        return found

    def wait_for(self, step: int) -> bool:
        with self.news:
            return self.news.wait_for(lambda: step in self.made, PATIENCE_S)


@pytest.fixture
def plain(rows: PackedRows) -> Batches:
    return Batches(rows, rows_per_step=8, seed=3)


@pytest.mark.parametrize("place", [(0, 1, None), (0, 1, 3), (1, 2, 2), (7, 8, 1)])
def test_every_step_is_what_it_would_be_without(plain: Batches, place: tuple[int, int, int | None]) -> None:
    ahead = prefetched(plain)
    for step in (0, 1, 2, 7, 8, 3, 3, 0, 1):  # on and on, a resume, back, and the same again
        assert same(ahead.step(step, *place), plain.step(step, *place))
    assert same(ahead.step(2), plain.step(2))  # the step that is ready, but for another place
    ahead.close()


def test_the_next_step_is_made_before_it_is_asked_for(plain: Batches) -> None:
    source = Watched(plain)
    ahead = prefetched(source)
    ahead.step(4)
    assert source.wait_for(5)
    ahead.step(5)
    assert source.wait_for(6) and source.made == [4, 5, 6]
    ahead.close()


def test_another_step_than_the_one_in_the_making(plain: Batches) -> None:
    go_on = threading.Event()

    def before(step: int) -> None:
        if step == 1:
            assert go_on.wait(PATIENCE_S)

    ahead = prefetched(Watched(plain, before))
    ahead.step(0)
    threading.Timer(0.05, go_on.set).start()
    assert same(ahead.step(9), plain.step(9))
    ahead.close()


def test_an_error_arrives_at_its_step_and_only_there(plain: Batches) -> None:
    def before(step: int) -> None:
        if step == 2:
            raise OSError("bad sector")

    source = Watched(plain, before)
    ahead = prefetched(source)
    ahead.step(0)
    ahead.step(1)
    for _ in range(2):
        with pytest.raises(OSError, match="bad sector"):
            ahead.step(2)
    assert same(ahead.step(3), plain.step(3))
    ahead.close()


def test_closing_ends_the_thread(plain: Batches) -> None:
    ahead = prefetched(plain)
    ahead.step(0)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    ahead.close()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_rollouts_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be made in advance: Rollouts"):
        prefetched(Rollouts.__new__(Rollouts))


def test_training_ends_with_the_same_bits(make_job: MakeJob, rows: PackedRows) -> None:
    ends = []
    for folder in ("plain", "ahead"):
        batches: Any = Batches(rows, rows_per_step=8, seed=3)
        job = make_job(folder, device_batch_size=3, batches=prefetched(batches) if folder == "ahead" else batches)
        loop.train(job, Dist(), events.NULL)
        where = stepdirs.step_dir(job.stage_dir, 8)
        ends.append([files.sha256_file(where / f"{name}.safetensors") for name in ("model", "optim")])
        if folder == "ahead":
            job.batches.close()  # type: ignore[attr-defined]
    assert ends[0] == ends[1]


def test_it_knows_the_rows_of_a_step_as_its_batches_do(rows: PackedRows) -> None:
    plain = Batches(rows, rows_per_step=8, seed=3)
    ahead = Prefetched(plain, device=torch.device("cpu"), vocab_size=300)
    try:
        assert ahead.indices is not None and ahead.indices(5).tolist() == plain.indices(5).tolist()
    finally:
        ahead.close()
