from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_cli.core import checkpoint, events, faults, files, machine, runs, snapshot, stepdirs
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.train import loop
from nanochat_cli.core.train.cadence import Cadence
from tests.core.train.conftest import MakeJob

HERE = Dist()


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm(environ={})


def train(job: loop.Job, log: events.Log = events.NULL, resumed: Any = None) -> dict[str, Any]:
    return loop.train(job, HERE, log, resumed)


def hashes(folder: Path) -> dict[int, str]:
    return {
        step: files.sha256_file(stepdirs.step_dir(folder, step) / "model.safetensors")
        for step in runs.checkpoint_steps(folder)
    }


def test_saving_is_by_steps_or_by_time() -> None:
    now = 0.0
    steps, seconds = Cadence(4, None, clock=lambda: now), Cadence(None, 10, 7, clock=lambda: now)
    never = Cadence(clock=lambda: now)
    assert [step for step in range(1, 10) if steps.is_due(step)] == [4, 8]
    assert [step for step in range(1, 10) if seconds.is_due(step)] == [7], "what is kept for good is saved"
    now = 10.0
    assert seconds.is_due(5) and not never.is_due(5)
    seconds.saved()
    assert not seconds.is_due(6)


def test_a_slow_disk_does_not_change_what_is_saved(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on while a checkpoint is written: it must hold the weights of its own step all the same."""
    straight = make_job("straight", save_every=1, keep_last=99)
    train(straight)
    real, at_work, beside = snapshot.write_part, threading.Event(), []

    def slowly(snap: Any, staged: Path) -> Any:
        at_work.set()
        time.sleep(0.05)
        at_work.clear()
        return real(snap, staged)

    class Sees(events.Log):
        def emit(self, kind: str, **fields: Any) -> None:
            if kind == "step" and at_work.is_set():
                beside.append(fields["step"])

    monkeypatch.setattr(snapshot, "write_part", slowly)
    job = make_job("slow", save_every=3, keep_last=99)
    train(job, Sees())
    assert beside, "no step was done while a checkpoint was being written"
    assert hashes(job.stage_dir).items() <= hashes(straight.stage_dir).items()


def test_without_memory_for_a_copy_it_waits_and_says_so(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = make_job("straight", save_every=3, keep_last=99)
    train(straight)
    monkeypatch.setattr(machine, "free_memory", lambda: 1000)
    heard: list[events.Event] = []
    job = make_job("short", save_every=3, keep_last=99)
    train(job, events.Listener(heard.append))
    assert hashes(job.stage_dir) == hashes(straight.stage_dir)
    assert any("little memory" in event.get("text", "") for event in heard)


@pytest.mark.parametrize("at", [0, 1, 500, 20_000, 60_000])
def test_a_full_disk_is_told_and_training_goes_on(make_job: MakeJob, at: int) -> None:
    """R5 in short: whatever byte the disk ends at, what was saved stays and later saves succeed."""
    straight = make_job("straight", save_every=2, keep_last=9)
    train(straight)
    faults.arm(environ={"NANOCHAT_FAULT": f"enospc@byte:{at},times:2"})
    heard: list[events.Event] = []
    job = make_job("full", save_every=2, keep_last=9)
    assert train(job, events.Listener(heard.append))["step"] == 8
    assert [event["step"] for event in heard if event["kind"] == "save_failed"] == [2, 4]
    assert hashes(job.stage_dir) == {step: hashed for step, hashed in hashes(straight.stage_dir).items() if step > 4}
    told = [event["text"] for event in heard if event["kind"] == "warning"]
    assert all("could not be saved, training goes on" in text and "disk is full" in text for text in told)
    assert not list(job.stage_dir.glob(".*.tmp"))


def test_a_disk_that_is_full_to_the_end_is_an_error(make_job: MakeJob) -> None:
    train(make_job(num_steps=4, save_every=4))
    faults.arm(environ={"NANOCHAT_FAULT": "enospc@byte:300"})
    job = make_job(num_steps=8, save_every=6)
    with pytest.raises(NanochatError, match="the disk is full"):
        train(job, resumed=checkpoint.load(job.stage_dir))
    assert checkpoint.load(job.stage_dir).step == 4


def test_the_best_stays_and_so_does_every_so_many(make_job: MakeJob) -> None:
    class Measures:
        name, every, at_start = "validation", 1, False

        def run(self, step: int, log: events.Log) -> dict[str, float]:
            return {"val_bpb": abs(step - 3) + 1.0}

    job = make_job(hooks=[Measures()], keep_best=True, keep_every=5, save_every=1, keep_last=1)
    train(job)
    assert runs.checkpoint_steps(job.stage_dir) == [3, 5, 8] and stepdirs.best_step(job.stage_dir) == 3


def test_what_every_rank_holds_is_put_together(make_job: MakeJob) -> None:
    """The parts of several processes are one checkpoint, as one process would have written it."""
    job = make_job()
    train(job)
    whole = job.optimizer.state_dict()
    record, tokenizer, folder = job.config, job.tokenizer, job.stage_dir.parent / "parts"
    names = sorted(whole)
    staged = snapshot.begin(folder, 5, 100)
    written = {}
    for rank in (1, 2, 0):
        snap = snapshot.Snapshot(
            step=5,
            weights=dict(job.model.state_dict()) if rank == 0 else {},
            optim=[part for name in names[rank::3] for part in snapshot.slices.whole({name: whole[name]})],
            record=record,
            state={},
            tokenizer=tokenizer,
            rank=rank,
            world=3,
        )
        written = snapshot.write_part(snap, staged)
    path = snapshot.publish(snap, staged, written, stepdirs.Keep())
    assert len(list(path.glob("optim-*.safetensors"))) == 3 and not list(path.glob("part-*"))
    loaded = checkpoint.load(folder)
    assert loaded.optim.keys() == whole.keys()
    assert all(torch.equal(loaded.optim[name], whole[name]) for name in names)
    (path / "optim-00001-of-00003.safetensors").unlink()
    with pytest.raises(NanochatError, match="optim-00001-of-00003"):
        checkpoint.load(folder)
