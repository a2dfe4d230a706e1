from __future__ import annotations

import pytest

from nanochat_cli.core import events
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.train import loop
from nanochat_cli.core.train.stall import WINDOW, Stall
from tests.core.train.conftest import MakeJob


def told(waits: list[float]) -> tuple[Stall, list[str]]:
    heard: list[events.Event] = []
    stall = Stall(events.Listener(heard.append))
    for waited in waits:
        stall.add(waited, 1.0)
    return stall, [event["text"] for event in heard if event["kind"] == "warning"]


def test_a_lasting_stall_is_told_once() -> None:
    stall, warnings = told([0.03] * 3 * WINDOW)
    assert stall.average == pytest.approx(0.03)
    assert len(warnings) == 1 and "3.0% of the time of 50 steps" in warnings[0]


@pytest.mark.parametrize("waits", [[0.5] * (WINDOW - 1), [0.009] * 200, [0.4] + [0.0] * 200, []])
def test_a_short_or_small_stall_is_not(waits: list[float]) -> None:
    assert told(waits)[1] == []


def test_it_counts_long_steps_for_more() -> None:
    stall, _ = told([])
    stall.add(1.0, 1.0)
    stall.add(0.0, 9.0)
    assert stall.average == pytest.approx(0.1)


def test_steps_and_result_tell_it(make_job: MakeJob) -> None:
    heard: list[events.Event] = []
    result = loop.train(make_job(), Dist(), events.Listener(heard.append))
    shares = [event["data_stall"] for event in heard if event["kind"] == "step"]
    assert len(shares) == 8 and all(0 < share < 1 for share in shares)
    assert min(shares) <= result["data_stall"] <= max(shares)


def test_sampling_is_work_and_no_waiting(make_job: MakeJob, rows) -> None:
    class Sampled(Batches):
        made_by_the_model = True

    heard: list[events.Event] = []
    job = make_job(batches=Sampled(rows, rows_per_step=8, seed=3))
    result = loop.train(job, Dist(), events.Listener(heard.append))
    assert "data_stall" not in result and not any("data_stall" in event for event in heard)
