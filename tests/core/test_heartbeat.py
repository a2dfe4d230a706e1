from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from nanochat_cli.core import heartbeat
from nanochat_cli.core.heartbeat import OTHER, OTHER_PATIENCE, STEP, Beat, Watch


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_one_that_all_wait_for_is_named(tmp_path: Path) -> None:
    clock, beats = Clock(), [Beat(tmp_path, rank) for rank in range(3)]
    watch = Watch(tmp_path, 10, clock)
    for beat in beats:
        beat.step_done(1)
        beat(STEP)
    for beat in (beats[0], beats[2]):
        beat(STEP)
    assert watch.hanging() == []
    clock.now = 9
    assert watch.hanging() == []
    clock.now = 11
    assert watch.hanging() == [1]


def test_a_long_step_may_take_long_and_its_pieces_are_signs(tmp_path: Path) -> None:
    clock, beat = Clock(), Beat(tmp_path, 0)
    watch = Watch(tmp_path, 10, clock)
    beat(STEP)
    watch.hanging()
    clock.now = 500
    assert watch.hanging() == [], "before the first step is done nobody knows how long one takes"
    heartbeat.alive()
    watch.hanging()
    clock.now += OTHER_PATIENCE - 1
    assert watch.hanging() == []
    beat.step_done(50)
    beat(STEP)
    watch.hanging()
    clock.now += 499
    assert watch.hanging() == []
    clock.now += 2
    assert watch.hanging() == [0] and watch.waited == 500


def test_only_processes_of_this_training_are_ended(tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path / "config.json")])
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    for rank, process in enumerate((sleeper, stranger)):
        Beat(tmp_path, rank)(STEP)
        path = tmp_path / "alive" / f"rank-{rank:05d}"
        path.write_text(path.read_text().replace(f"{os.getpid():010d}", f"{process.pid:010d}"))
    Watch(tmp_path, 10).kill()
    assert sleeper.wait(10) == -signal.SIGKILL and stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_whoever_moves_keeps_all_alive(tmp_path: Path) -> None:
    clock, one, two = Clock(), Beat(tmp_path, 0), Beat(tmp_path, 1)
    watch = Watch(tmp_path, 10, clock)
    for beat in (one, two):
        beat.step_done(1)
    two(STEP)
    for _ in range(5):
        one(STEP)
        clock.now += 8
        assert watch.hanging() == []


def test_a_measurement_may_take_longer(tmp_path: Path) -> None:
    clock, beat = Clock(), Beat(tmp_path, 0)
    watch = Watch(tmp_path, 10, clock)
    beat(OTHER)
    assert watch.hanging() == []
    clock.now = 1000
    assert watch.hanging() == []
    clock.now = OTHER_PATIENCE + 1
    assert watch.hanging() == [0]


def test_before_the_first_sign_nobody_hangs_and_old_signs_are_cleared(tmp_path: Path) -> None:
    clock = Clock()
    Beat(tmp_path, 7)(STEP)
    heartbeat.clear(tmp_path)
    watch = Watch(tmp_path, 10, clock)
    clock.now = 10_000
    assert watch.hanging() == []
    (tmp_path / "alive" / "rank-00000").write_text("")  # opened, not yet written
    assert watch.hanging() == []
