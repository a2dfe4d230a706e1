"""Jobs shared by processes: whatever their size, they all get done, and an end of a worker is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core.data import inputs, workers
from nanochat_cli.core.data.inputs import Input
from nanochat_cli.core.errors import DataError, NanochatError

LONG = 1_000_000  # characters: many times what a pipe takes before somebody reads


def echo(job: dict[str, Any], tell: workers.Tell) -> dict[str, Any]:
    tell(1.0)
    return {"number": job["number"], "text": job["text"][::-1], "pid": os.getpid()}


def fail(job: dict[str, Any], tell: workers.Tell) -> dict[str, Any]:
    if job["number"] == 2:
        raise DataError("no good: 2", hint="try 3")
    return {}


def die(job: dict[str, Any], tell: workers.Tell) -> dict[str, Any]:
    os._exit(7)


def jobs(number: int, text: str = "") -> list[dict[str, Any]]:
    return [{"number": n, "text": f"{n}" + text} for n in range(number)]


@pytest.mark.timeout(60)
def test_long_jobs_and_long_results_do_not_block_each_other() -> None:
    """With a second job sent to a worker that is busy, both sides wrote and nobody read, for ever."""
    given, told, left = jobs(6, "x" * LONG), [], iter([True] * 3)
    heard = workers.run(echo, given, 2, on_progress=lambda *what: told.append(what), idle=lambda: next(left, False))
    results = dict(heard)
    assert [results[n]["text"] for n in range(6)] == [job["text"][::-1] for job in given]
    assert os.getpid() not in {result["pid"] for result in results.values()}
    assert sorted(told) == [(n, 1.0) for n in range(6)] and next(left, None) is None


def test_one_job_needs_no_process() -> None:
    assert dict(workers.run(echo, jobs(1), 4))[0]["pid"] == os.getpid()


def test_an_error_of_a_job_is_raised_as_it_was() -> None:
    with pytest.raises(DataError, match=r"^no good: 2$") as caught:
        list(workers.run(fail, jobs(4), 2))
    assert caught.value.hint == "try 3"


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(NanochatError, match=r"a worker process ended in the middle of its work \(exit code 7\)"):
        list(workers.run(die, jobs(3), 2))


def test_a_worker_that_dies_before_it_has_read_its_job_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_serve", os._exit)
    with pytest.raises(NanochatError, match="a worker process ended in the middle of its work"):
        list(workers.run(die, jobs(2, "x" * LONG), 2))


def test_small_inputs_get_one_process_and_large_ones_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    sizes = [0, 100, 200, 300, 100_000]
    assert [workers.default_workers(1, size << 20) for size in sizes] == [1, 1, 1, 2, 6]
    assert workers.default_workers(1 << 60, 1 << 40) == 1


def test_groups_have_a_bounded_number_of_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    many = [Input(number, str(tmp_path / f"{number}"), 1, 0, True) for number in range(7)]
    assert [len(group) for group in inputs.grouped(many)] == [7]
    monkeypatch.setattr(inputs, "GROUP_FILES", 3)
    assert [len(group) for group in inputs.grouped(many)] == [3, 3, 1]
