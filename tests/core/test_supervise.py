from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import runs, supervise
from nanochat_cli.core.errors import ConfigError, Diverged, NanochatError
from nanochat_cli.core.launch import Plan
from nanochat_cli.core.settings import BaseTrainConfig, GuardSection

Script = list[Callable[[Plan], dict[str, Any]]]


def plan(folder: Path, most: int = 3) -> Plan:
    cfg = BaseTrainConfig(guard=GuardSection(supervise=True, max_restarts=most))
    return Plan("base", "r", folder, cfg, False, "nanochat train base")


def saves(folder: Path, step: int) -> None:
    (folder / f"step-{step:06d}").mkdir(parents=True)
    (folder / f"step-{step:06d}" / runs.MANIFEST).write_text("{}")


def dies(step: int | None = None, problem: NanochatError | None = None) -> Callable[[Plan], dict[str, Any]]:
    def start(job: Plan) -> dict[str, Any]:
        if step is not None:
            saves(job.dir, step)
        raise problem or NanochatError("rank 1 was ended by SIGKILL")

    return start


def run(job: Plan, script: Script) -> tuple[dict[str, Any], list[Plan], list[str]]:
    seen: list[Plan] = []
    told: list[str] = []
    pauses: list[float] = []

    def start(this: Plan, on_event: Any) -> dict[str, Any]:
        seen.append(this)
        return script[len(seen) - 1](this)

    found = supervise.run(job, lambda event: told.append(event["text"]), start=start, pause=pauses.append)
    assert len(pauses) == len(seen) - 1
    return found, seen, told


def test_it_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    found, seen, told = run(plan(tmp_path), [dies(10), dies(20), lambda job: {"step": 30}])
    assert found == {"step": 30, "restarts": 2}
    assert [(job.attempt, job.resume) for job in seen] == [(0, False), (1, True), (2, True)]
    assert told[0] == "rank 1 was ended by SIGKILL: starting again from step 10 (restart 1 of 3)"


def test_without_trouble_nothing_is_said(tmp_path: Path) -> None:
    assert run(plan(tmp_path), [lambda job: {"step": 3}])[0] == {"step": 3}


def test_it_stops_when_two_restarts_make_no_progress(tmp_path: Path) -> None:
    starts: Script = [dies(10), dies(), dies(), dies(), lambda job: {"step": 30}]
    with pytest.raises(NanochatError, match="given up: 2 restarts in a row brought no new checkpoint"):
        run(plan(tmp_path, most=9), starts)


def test_it_stops_after_so_many(tmp_path: Path) -> None:
    with pytest.raises(NanochatError, match="was ended by SIGKILL"):
        run(plan(tmp_path, most=2), [dies(1), dies(2), dies(3), lambda job: {}])


@pytest.mark.parametrize("problem", [ConfigError("x"), Diverged("x")])
def test_what_would_happen_again_is_not_tried_again(tmp_path: Path, problem: NanochatError) -> None:
    with pytest.raises(type(problem)):
        run(plan(tmp_path), [dies(10, problem), lambda job: {}])
