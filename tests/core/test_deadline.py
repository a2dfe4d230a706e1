from __future__ import annotations

import pytest

from nanochat_cli.core import deadline


def find(max_wall_s: float | None, environ: dict[str, str], *, now: float = 100.0, wall: float = 5000.0) -> object:
    found = deadline.find(max_wall_s, 90.0, environ, clock=lambda: now, wall=lambda: wall)
    return None if found is None else (found.at, found.why)


def test_the_earlier_of_the_two_counts() -> None:
    assert find(None, {}) is None
    assert find(60, {}) == (150, "--max-wall")
    assert find(60, {"SLURM_JOB_END_TIME": "5030"}) == (130, "the end of the Slurm allocation")
    assert find(20, {"SLURM_JOB_END_TIME": "5030"}) == (110, "--max-wall")


@pytest.mark.parametrize("end", ["", "soon", "4999"])
def test_an_end_that_is_none_or_past_does_not_count(end: str) -> None:
    assert find(None, {"SLURM_JOB_END_TIME": end}) is None


def test_it_is_near_when_there_is_no_time_for_a_step_and_twice_a_save() -> None:
    now = 0.0
    due = deadline.Deadline(100.0, "x", clock=lambda: now)
    assert not due.is_near(2.0, 10.0)
    now = 100 - 2 - 20 - 5 - 0.01
    assert not due.is_near(2.0, 10.0)
    now += 0.02
    assert due.is_near(2.0, 10.0)
