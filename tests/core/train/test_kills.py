"""Kills and full disks at every point of a training, many times over: nothing is lost but what was not saved yet.

Each training runs in a forked process, so that a kill is one. The counts of the fault table are behind `-m slow`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nanochat_cli.core import checkpoint, events, faults, files, runs, stepdirs
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import MissingArtifact
from nanochat_cli.core.train import loop
from tests.core.train.conftest import MakeJob

EVERY, STEPS = 20, 400
slow = (pytest.mark.slow, pytest.mark.timeout(3600))


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm(environ={})


def forked(work: Callable[[], object], kill_after_s: float | None = None) -> int:
    """Run `work` in a child and return how it ended: 0, 1 for an error, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(job: loop.Job, fault: str = "") -> None:
    """Train to the end, from the newest good checkpoint if there is one."""
    faults.arm(environ={"NANOCHAT_FAULT": fault})
    try:
        saved = checkpoint.load(job.stage_dir)
    except MissingArtifact:
        saved = None
    loop.train(job, Dist(), events.FileLog(job.stage_dir / "events.jsonl"), saved)


def final(job: loop.Job) -> str:
    """The hash of the last step's weights."""
    return files.sha256_file(stepdirs.step_dir(job.stage_dir, job.schedule.num_steps) / "model.safetensors")


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=slow)])
def test_kills_at_random_moments_end_in_the_same_weights(make_job: MakeJob, kills: int) -> None:
    """R1: whenever it is killed, the rest is trained to the very same weights; at most an interval is lost."""
    whole = make_job("whole", num_steps=STEPS, save_every=EVERY)
    began = time.monotonic()
    assert forked(lambda: train(whole)) == 0
    took, rng = time.monotonic() - began, random.Random(1)
    torn = make_job("torn", num_steps=STEPS, save_every=EVERY)
    hit, furthest = 0, 0
    while hit < kills:
        if (torn.stage_dir / f"step-{STEPS:06d}").exists():  # it came to its end between two kills: once more
            assert final(torn) == final(whole)
            shutil.rmtree(torn.stage_dir)
            torn.stage_dir.mkdir()
            furthest = 0
        hit += forked(lambda: train(torn), kill_after_s=rng.uniform(0, took)) == -signal.SIGKILL
        saved = max(runs.checkpoint_steps(torn.stage_dir), default=0)
        done = [e["step"] for e in events.read(torn.stage_dir / "events.jsonl") if e["kind"] == "step"]
        assert saved >= furthest and max(done, default=0) - saved <= 2 * EVERY
        furthest = saved
    assert forked(lambda: train(torn)) == 0
    assert final(torn) == final(whole)


@pytest.mark.parametrize("repeats", [1, pytest.param(20, marks=slow)])
def test_a_kill_in_any_phase_of_a_save_leaves_a_good_checkpoint(
    make_job: MakeJob, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2: what can be loaded afterwards is never older than what was published before."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a killed process loses nothing that it had written
    first = make_job("first", num_steps=12, save_every=4)
    assert forked(lambda: train(first)) == 0
    want = final(first)
    shutil.rmtree(stepdirs.step_dir(first.stage_dir, 12))  # step 8 is left, of which the last four steps are done again
    job = make_job("torn", num_steps=12, save_every=4)
    places = [f"kill@phase:{phase}" for phase in faults.PHASES]
    places += [f"kill@byte:{byte}" for byte in (0, 7, 9000, 80_000)]
    for place in places * repeats:
        shutil.rmtree(job.stage_dir)
        shutil.copytree(first.stage_dir, job.stage_dir)
        assert forked(lambda place=place: train(job, place)) == -signal.SIGKILL, place
        assert checkpoint.load(job.stage_dir).step in (8, 12), place
        assert forked(lambda: train(job)) == 0
        assert final(job) == want and not list(job.stage_dir.glob(".*.tmp")), place


@pytest.mark.parametrize("offsets", [6, pytest.param(100, marks=slow)])
def test_a_disk_that_ends_anywhere_leaves_what_was_saved(make_job: MakeJob, offsets: int) -> None:
    """R5: the earlier checkpoint stays, training goes on, and a later save succeeds."""
    first = make_job("first", num_steps=6, save_every=2, keep_last=9)
    train(first)
    size = files.tree_size(stepdirs.step_dir(first.stage_dir, 2))
    for at in range(0, size - 20_000, (size - 20_000) // offsets):
        job = make_job(f"full-{at}", num_steps=6, save_every=2, keep_last=9)
        shutil.copytree(stepdirs.step_dir(first.stage_dir, 2), stepdirs.step_dir(job.stage_dir, 2))
        heard: list[dict[str, Any]] = []
        faults.arm(environ={"NANOCHAT_FAULT": f"enospc@byte:{at},times:1"})
        saved = checkpoint.load(job.stage_dir)
        assert loop.train(job, Dist(), events.Listener(heard.append), saved)["step"] == 6
        assert [event["step"] for event in heard if event["kind"] == "save_failed"] == [4], at
        assert runs.checkpoint_steps(job.stage_dir) == [2, 6] and final(job) == final(first)


@pytest.mark.parametrize("at", range(1, 8))
def test_a_stop_at_any_step_is_resumed_to_the_same_bits(make_job: MakeJob, at: int) -> None:
    """R10: after the first step, at an epoch's edge, right before the last one, at the last one."""
    straight = make_job("straight", num_steps=7)
    train(straight)

    class Stops(events.Log):
        def emit(self, kind: str, **fields: Any) -> None:
            if kind == "step" and fields["step"] == at:
                (job.stage_dir / "stop").touch()

    job = make_job("stopped", num_steps=7)
    loop.train(job, Dist(), Stops())
    (job.stage_dir / "stop").unlink()
    again = make_job("stopped", num_steps=7)
    train(again)
    assert final(again) == final(straight)
