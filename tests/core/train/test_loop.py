from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat_cli.core import checkpoint, events, files, runs, stepdirs
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.data.packing import PackedRows
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import Diverged, NanochatError
from nanochat_cli.core.train import blame, gradient, guards, loop
from tests.core.train.conftest import MakeJob

HERE = Dist()


def kept(heard: list[events.Event], kind: str) -> list[events.Event]:
    return [event for event in heard if event["kind"] == kind]


def weights_hash(stage_dir: Path, step: int) -> str:
    return files.sha256_file(stepdirs.step_dir(stage_dir, step) / "model.safetensors")


def test_the_loss_falls_and_every_step_is_told(make_job: MakeJob) -> None:
    heard: list[events.Event] = []
    job = make_job(num_steps=30)
    result = loop.train(job, HERE, events.Listener(heard.append))
    told = kept(heard, "step")
    assert [e["step"] for e in told] == list(range(1, 31))
    assert told[0]["raw_loss"] == pytest.approx(torch.tensor(float(job.tokenizer.vocab_size)).log().item(), abs=1e-3)
    assert told[-1]["raw_loss"] < 0.5 * told[0]["raw_loss"]
    assert told[-1]["tokens"] == 30 * 8 * 16 and told[-1]["eta_s"] == 0
    assert all(e["grad_norm"] > 0 and e["tokens_per_s"] > 0 for e in told)
    assert result["step"] == 30 and runs.checkpoint_steps(job.stage_dir) == [30]


def test_the_smoothed_loss_has_no_bias_towards_zero() -> None:
    smooth = guards.SmoothLoss()
    assert smooth.update(4.0) == pytest.approx(4.0)
    assert smooth.update(2.0) == pytest.approx((0.9 * 0.1 * 4.0 + 0.1 * 2.0) / (1 - 0.81))
    assert guards.SmoothLoss(**smooth.state()).value == smooth.value


# ---- exact weighting -------------------------------------------------------------------------------------------------


def uneven_batch(vocab_size: int) -> tuple[Tensor, Tensor]:
    """Rows with very different numbers of targets, one with none."""
    torch.manual_seed(0)
    x, y = torch.randint(vocab_size, (2, 8, 16)).unbind()
    for row, start in enumerate((0, 15, 3, 16, 9, 1, 14, 12)):
        y[row, :start] = -1
    return x, y


def gradients(job: loop.Job, micros: list[tuple[Tensor, ...]]) -> tuple[float, list[Tensor]]:
    params = list(job.model.parameters())
    loss = gradient.accumulate(job.model.losses, params, micros, HERE).loss
    found = [p.grad.clone() for p in params if p.grad is not None]
    job.model.zero_grad()
    return loss, found


def test_loss_and_gradient_are_those_of_the_mean_over_all_targets(make_job: MakeJob) -> None:
    job = make_job()
    loop.train(
        dataclasses.replace(job, schedule=make_job(num_steps=3).schedule), HERE, events.NULL
    )  # off the zero start
    x, y = uneven_batch(job.tokenizer.vocab_size)
    logits = job.model(x).flatten(0, 1)
    naive = torch.nn.functional.cross_entropy(logits, y.flatten(), ignore_index=-1)
    expected = torch.autograd.grad(naive, list(job.model.parameters()))
    for size in (8, 3, 1):
        micros = [(x[i : i + size], y[i : i + size]) for i in range(0, 8, size)]
        loss, found = gradients(job, micros)
        assert loss == pytest.approx(naive.item(), rel=1e-6)
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


def test_weights_scale_each_target(make_job: MakeJob) -> None:
    job = make_job()
    x, y = uneven_batch(job.tokenizer.vocab_size)
    weight = torch.rand(y.shape) - 0.5
    loss, _ = gradients(job, [(x, y, weight)])
    assert loss == pytest.approx(((job.model.losses(x, y) * weight).sum() / (y >= 0).sum()).item(), rel=1e-5)


@pytest.mark.parametrize("size", [1, 4])
def test_cutting_the_batch_differently_gives_the_same_weights(make_job: MakeJob, size: int) -> None:
    whole, cut = make_job("whole"), make_job("cut", device_batch_size=size)
    loop.train(whole, HERE, events.NULL)
    loop.train(cut, HERE, events.NULL)
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


class Masked(Batches):
    """Batches without any target at some steps."""

    empty: tuple[int, ...] = ()

    def step(self, step: int, *args: Any, **kwargs: Any) -> list[tuple[Tensor, Tensor]]:
        found = super().step(step, *args, **kwargs)
        return [(x, torch.full_like(y, -1)) for x, y in found] if step in self.empty else found


def test_a_batch_without_targets_changes_nothing(make_job: MakeJob, rows: PackedRows) -> None:
    heard: list[events.Event] = []
    batches = Masked(rows, rows_per_step=8, seed=3)
    batches.empty = (2,)
    job = make_job(batches=batches, save_every=1, keep_last=9, num_steps=4)
    loop.train(job, HERE, events.Listener(heard.append))
    assert weights_hash(job.stage_dir, 2) == weights_hash(job.stage_dir, 3) != weights_hash(job.stage_dir, 4)
    assert "nothing to learn" in kept(heard, "warning")[0]["text"]
    assert all(torch.isfinite(p).all() for p in job.model.parameters())


# ---- stopping, resuming, failing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 5, 8])
def test_a_resumed_run_ends_with_the_same_bits(make_job: MakeJob, at: int) -> None:
    straight = make_job("straight")
    loop.train(straight, HERE, events.NULL)
    first = make_job("resumed", save_every=at, keep_last=99)
    first = dataclasses.replace(first, batches=BreakAt(first.batches, at))
    with pytest.raises(RuntimeError, match="power cut"):
        loop.train(first, HERE, events.NULL) if at < 8 else _fail_after(first)
    again = make_job("resumed")
    torch.manual_seed(999)
    loop.train(again, HERE, events.NULL, checkpoint.load(again.stage_dir))
    assert weights_hash(again.stage_dir, 8) == weights_hash(straight.stage_dir, 8)
    optim = [files.sha256_file(stepdirs.step_dir(j.stage_dir, 8) / "optim.safetensors") for j in (again, straight)]
    assert optim[0] == optim[1]


class BreakAt:
    """Batches that fail when a step is reached."""

    def __init__(self, batches: loop.Batches, at: int) -> None:
        self.batches, self.at = batches, at

    def step(self, step: int, *args: Any) -> Any:
        if step == self.at:
            raise RuntimeError("power cut")
        return self.batches.step(step, *args)


def _fail_after(job: loop.Job) -> None:
    loop.train(job, HERE, events.NULL)
    raise RuntimeError("power cut")


def test_resuming_goes_on_with_the_same_curve(make_job: MakeJob) -> None:
    def smoothed(job: loop.Job, resumed: Any = None) -> dict[int, float]:
        heard: list[events.Event] = []
        loop.train(job, HERE, events.Listener(heard.append), resumed)
        return {e["step"]: e["loss"] for e in kept(heard, "step")}

    straight = smoothed(make_job("straight", save_every=3, keep_last=9))
    resumed = smoothed(make_job("straight"), checkpoint.load(make_job("straight").stage_dir, 3))
    assert resumed == {step: loss for step, loss in straight.items() if step > 3}


def test_a_stop_file_saves_at_once_and_the_rest_is_the_same(make_job: MakeJob) -> None:
    straight = make_job("straight")
    loop.train(straight, HERE, events.NULL)
    heard: list[events.Event] = []

    def listen(event: events.Event) -> None:
        heard.append(event)
        if event["kind"] == "step" and event["step"] == 3:
            (job.stage_dir / "stop").touch()

    job = make_job("stopped", hooks=[Probe(every=1)])
    assert loop.train(job, HERE, events.Listener(listen)) == {"stopped": 3}
    assert runs.checkpoint_steps(job.stage_dir) == [3] and kept(heard, "stopped")[0]["step"] == 3
    assert heard[-1]["kind"] == "stopped"
    (job.stage_dir / "stop").unlink()
    again = make_job("stopped")
    loop.train(again, HERE, events.NULL, checkpoint.load(again.stage_dir))
    assert weights_hash(again.stage_dir, 8) == weights_hash(straight.stage_dir, 8)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_divergence_names_the_step_and_saves_nothing_bad(make_job: MakeJob, broken: str) -> None:
    job = make_job(save_every=1, keep_last=9)
    calls = 0

    def losses(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        found = job.model.losses(x, y)
        if calls >= 4:
            # the square root's slope at zero is infinite: a fine loss with a bad gradient
            found = found * float("nan") if broken == "loss" else found + (found - found).abs().sqrt()
        return found

    with pytest.raises(Diverged, match="at step 6") as caught:
        loop.train(dataclasses.replace(job, losses=losses), HERE, events.NULL)
    assert "step 3 is saved" in (caught.value.hint or "")
    assert runs.checkpoint_steps(job.stage_dir) == [1, 2, 3]
    assert all(torch.isfinite(p).all() for p in job.model.parameters())


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_divergence_names_the_rows(make_job: MakeJob, broken: str) -> None:
    job = make_job(device_batch_size=2)
    calls = 0

    def losses(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        found = job.model.losses(x, y)
        if calls > 4 and (calls - 1) % 4 >= 2:  # the last two micro-batches of every step but the first
            found = found * float("inf") if broken == "loss" else found + (found - found).abs().sqrt()
        return found

    with pytest.raises(Diverged, match="at step 4") as caught:
        loop.train(dataclasses.replace(job, losses=losses), HERE, events.NULL)
    assert isinstance(job.batches, Batches)
    rows = job.batches.indices(3).tolist()
    if broken == "loss":
        words = f"first in micro-batch 3 of process 0, rows of the packed data: {rows[4]}, {rows[5]})"
    else:
        words = f"the step's rows of the packed data: {', '.join(map(str, rows))})"
    assert str(caught.value).endswith(words)


class _Two(Dist):
    """Process 0 of two; the other one's first bad micro-batch comes earlier or later in their common order."""

    theirs: int | None = None

    def minimum(self, value: int) -> int:
        return value if self.theirs is None else min(value, (1 << 20) + self.theirs)


@pytest.mark.parametrize(("mine", "theirs", "named"), [(None, 1, (1, 1)), (0, 1, (0, 0)), (1, None, (0, 1))])
def test_every_process_names_the_same_rows(
    rows: PackedRows, mine: int | None, theirs: int | None, named: tuple[int, int]
) -> None:
    batches, dist = Batches(rows, rows_per_step=8, seed=3), _Two(rank=0, world=2)
    object.__setattr__(dist, "theirs", theirs)
    parts = [(number, torch.tensor(float("nan") if number == mine else 1.0)) for number in range(2)]
    said = blame.where(batches, 5, 2, parts, dist, loss=float("nan"))
    at = named[0] * 4 + named[1] * 2
    a, b = batches.indices(5)[at : at + 2].tolist()
    assert said == (f"first in micro-batch {named[1] + 1} of process {named[0]}, rows of the packed data: {a}, {b}")
    assert blame.where(object(), 5, 2, parts, dist, loss=1.0) is None


@dataclasses.dataclass
class Probe:
    """A hook that records what was on the disk when it ran, and may fail."""

    every: int | None
    name: str = "probe"
    at_start: bool = False
    fails: bool = False
    folder: Path | None = None
    seen: list[tuple[int, list[int]]] = dataclasses.field(default_factory=list)

    def run(self, step: int, log: events.Log) -> dict[str, float]:
        self.seen.append((step, runs.checkpoint_steps(self.folder) if self.folder else []))
        if self.fails:
            raise RuntimeError("no memory")
        return {"val_bpb": 1.0 + abs(step - 4)}


def test_saved_first_measured_afterwards(make_job: MakeJob) -> None:
    job = make_job(save_every=4)
    probe = Probe(every=4, at_start=True, folder=job.stage_dir)
    result = loop.train(dataclasses.replace(job, hooks=[probe]), HERE, events.NULL)
    assert probe.seen == [(0, []), (4, [4]), (8, [4, 8])]
    assert (result["val_bpb"], result["min_val_bpb"]) == (5.0, 1.0)


def test_a_failing_measurement_does_not_lose_the_run(make_job: MakeJob) -> None:
    heard: list[events.Event] = []
    job = make_job(hooks=[Probe(every=4, fails=True), Probe(every=None)])
    result = loop.train(job, HERE, events.Listener(heard.append))
    assert result["step"] == 8 and "val_bpb" not in result
    assert [e["text"] for e in kept(heard, "warning")] == [
        "probe at step 4 failed, training goes on: no memory",
        "probe at step 8 failed, training goes on: no memory",
    ]


def test_measuring_does_not_change_the_training(make_job: MakeJob) -> None:
    class Draws(Probe):
        def run(self, step: int, log: events.Log) -> dict[str, float]:
            torch.rand(7)
            return {}

    plain, measured = make_job("plain"), make_job("measured", hooks=[Draws(every=1)], save_every=2)
    loop.train(plain, HERE, events.NULL)
    loop.train(measured, HERE, events.NULL)
    assert weights_hash(plain.stage_dir, 8) == weights_hash(measured.stage_dir, 8)


def test_a_full_disk_ends_the_run_with_one_line_and_earlier_steps_intact(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(save_every=2)
    monkeypatch.setattr(files, "free_space", lambda path: 10**12 if not runs.checkpoint_steps(job.stage_dir) else 1000)
    with pytest.raises(NanochatError, match="not enough disk space"):
        loop.train(job, HERE, events.NULL)
    assert checkpoint.load(job.stage_dir).step == 2
