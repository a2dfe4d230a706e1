from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from nanochat_cli.core import checkpoint, events, faults, files, runs
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import Diverged
from nanochat_cli.core.train import loop
from nanochat_cli.core.train.guards import WINDOW, Guard
from tests.core.train.conftest import MakeJob

HERE = Dist()


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm(environ={})


def arm(text: str) -> None:
    faults.arm(environ={"NANOCHAT_FAULT": text})


def calm(guard: Guard, steps: int = WINDOW) -> None:
    torch.manual_seed(0)
    for noise in (0.1 * torch.randn(steps)).tolist():
        assert guard.judge(3 + noise, 1 + noise) is None
        guard.took(3 + noise, 1 + noise)


def test_what_is_no_number_is_always_left_out() -> None:
    guard = Guard(sigma=None)
    assert guard.judge(float("nan"), 1.0).what == "loss nan"  # type: ignore[union-attr]
    assert guard.judge(1.0, float("inf")).what == "gradient norm inf"  # type: ignore[union-attr]
    assert guard.judge(1.0, None) is None and guard.judge(1e9, 1e9) is None


def test_a_leap_needs_a_past_to_be_one() -> None:
    guard = Guard()
    calm(guard, 63)
    assert guard.judge(1e9, 1.0) is None
    calm(guard, 1)
    assert guard.judge(1e9, 1.0) is not None


def test_six_deviations_are_the_limit() -> None:
    guard = Guard()
    calm(guard)
    assert guard.judge(3.55, 1.0) is None
    assert guard.judge(3.8, 1.0).what.startswith("loss 3.8, above 3.6")  # type: ignore[union-attr]
    assert guard.judge(3.0, 1.8).what.startswith("gradient norm 1.8")  # type: ignore[union-attr]
    assert guard.judge(0.1, 0.0) is None, "better than ever is no reason"


def test_where_nothing_changes_a_little_is_no_leap() -> None:
    guard = Guard()
    for _ in range(WINDOW):
        guard.took(0.01, 0.5)
    assert guard.judge(0.0105, 0.52) is None and guard.judge(0.02, 0.5) is not None


def test_its_memory_survives_a_resume() -> None:
    guard, again = Guard(), Guard()
    calm(guard)
    guard.left_out(5)
    again.restore(guard.state())
    assert again.state() == guard.state() and again.judge(3.8, 1.0) == guard.judge(3.8, 1.0)
    again.restore({})
    assert again.state() == guard.state()


def test_frequent_leaps_are_noticed() -> None:
    guard = Guard()
    assert not any(guard.left_out(step) for step in range(0, 90, 9))
    assert guard.left_out(95)
    assert not guard.left_out(2000)


def train(job: loop.Job) -> tuple[dict[str, Any], list[events.Event]]:
    heard: list[events.Event] = []
    return loop.train(job, HERE, events.Listener(heard.append)), heard


def hashed(job: loop.Job) -> str:
    newest = runs.checkpoint_steps(job.stage_dir)[-1]
    return files.sha256_file(job.stage_dir / f"step-{newest:06d}" / "model.safetensors")


def kinds(heard: list[events.Event], *wanted: str) -> list[tuple[str, int]]:
    return [(event["kind"], event["step"]) for event in heard if event["kind"] in wanted]


def test_one_bad_batch_is_left_out_and_the_rest_is_trained_on(make_job: MakeJob) -> None:
    arm("nan@batch:3")
    job = make_job(save_every=2)
    result, heard = train(job)
    assert result["step"] == 8 and math.isfinite(result["loss"])
    assert kinds(heard, "skipped", "rolled_back") == [("skipped", 4)]
    warned = [event["text"] for event in heard if event["kind"] == "warning"]
    assert len(warned) == 1 and warned[0].startswith("step 4 left out: loss nan (first in micro-batch 1 of process 0")


def test_three_bad_batches_in_a_row_send_it_back_and_on_past_them(make_job: MakeJob) -> None:
    arm("nan@batch:4,times:3")
    job = make_job(save_every=2, num_steps=12, keep_last=9)
    result, heard = train(job)
    assert result["step"] == 12
    assert kinds(heard, "skipped", "rolled_back") == [("skipped", s) for s in (5, 6, 7)] + [("rolled_back", 4)]
    faults.arm(environ={})

    @dataclasses.dataclass
    class Without:
        """The same batches, had the bad ones never been there."""

        inner: Any

        def step(self, step: int, *args: Any) -> Any:
            return self.inner.step(step if step < 4 else step + 3, *args)

    plain = make_job("plain", num_steps=12)
    train(dataclasses.replace(plain, batches=Without(plain.batches)))
    assert hashed(job) == hashed(plain)


def test_a_resume_leaves_out_the_same_batches(make_job: MakeJob) -> None:
    arm("nan@batch:4,times:3")
    straight = make_job(save_every=2, num_steps=12, keep_last=9)
    train(straight)
    again = make_job("again", num_steps=12)
    loop.train(again, HERE, events.NULL, checkpoint.load(straight.stage_dir, 6))
    assert hashed(again) == hashed(straight)


def test_what_stays_bad_ends_the_training(make_job: MakeJob) -> None:
    arm("nan@batch:4,times:9999")
    job = make_job(save_every=2, num_steps=12, keep_last=9)
    with pytest.raises(Diverged, match="training diverged at step 7: loss nan") as caught:
        train(job)
    assert caught.value.exit_code == 5 and "step 4 is saved and good" in (caught.value.hint or "")
    assert runs.checkpoint_steps(job.stage_dir) == [2, 4]


def test_without_a_checkpoint_there_is_no_way_back(make_job: MakeJob) -> None:
    arm("nan@batch:0,times:3")
    with pytest.raises(Diverged, match="at step 3"):
        train(make_job())


def test_a_poisoned_batch_does_not_shake_the_weights(make_job: MakeJob) -> None:
    """R12: with the guard no leap survives; without it the same batch is felt."""
    arm("spike@batch:100,by:1000")
    seen = {}
    for name, sigma in (("guarded", 6.0), ("bare", None)):
        job = make_job(name, num_steps=150, spike_sigma=sigma, grad_clip=None)
        _, heard = train(job)
        steps = {event["step"]: event["raw_loss"] for event in heard if event["kind"] == "step"}
        seen[name] = (kinds(heard, "skipped"), max(steps[step] for step in range(102, 151)), steps[100])
    assert seen["guarded"][0] == [("skipped", 101)] and seen["bare"][0] == []
    assert seen["guarded"][1] < 1.5 * seen["guarded"][2]
