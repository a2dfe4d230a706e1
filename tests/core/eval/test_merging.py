"""Two evaluations of the same weights put together."""

from __future__ import annotations

from typing import Any

import pytest

from nanochat_cli.core.eval import core_metric, merging


def counts(task: str, correct: int, total: int, limit: int | None = None, **more: Any) -> dict[str, Any]:
    base = {"task": task, "correct": correct, "total": total, "baselines": {"v1": 0.5, "v2": 0.2}, "limit": limit}
    return base | {"cropped": 0, "data": "a"} | more


def core(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"weights_sha256": "w", "core": core_metric.summarise(tasks, ["v1"])}


def test_core_task_by_task() -> None:
    before = core(counts("piqa", 80, 100), counts("copa", 30, 50))
    got = merging.merge(before, core(counts("piqa", 90, 100)))["core"]
    assert {task["task"]: task["correct"] for task in got["tasks"]} == {"piqa": 90, "copa": 30}
    assert got["scores"]["v1"]["core"] == pytest.approx((0.8 + 0.2) / 2)
    assert "2 of 22 tasks" in got["scores"]["v1"]["label"]
    got = merging.merge(before, core(counts("piqa", 20, 20, limit=20), counts("boolq", 1, 20, limit=20)))["core"]
    assert {task["task"]: task["total"] for task in got["tasks"]} == {"piqa": 100, "copa": 50, "boolq": 20}
    assert "at most 20 questions in 1 of them" in got["scores"]["v1"]["label"]
    got = merging.merge(before, core(counts("piqa", 20, 20, limit=20, data="b")))["core"]
    assert {task["task"]: task["total"] for task in got["tasks"]} == {"piqa": 20, "copa": 50}, "of other data"


def test_chat_core_is_of_all_tasks_on_record() -> None:
    def asked(name: str, correct: int, total: int, limit: int | None) -> dict[str, Any]:
        whole = {"correct": correct, "total": total}
        return {"task": name, "split": "test", "held_out": True, "limit": limit, "all": whole}

    before = {"tasks": [asked("gsm8k", 10, 100, None), asked("arc_easy", 50, 100, None)], "chat_core": {}}
    got = merging.merge(before, {"tasks": [asked("gsm8k", 20, 20, 20)], "bpb": 1})
    assert got["chat_core"]["chat_core"] == pytest.approx((0.1 + 0.25 / 0.75) / 2, abs=1e-6)
    assert got["chat_core"]["limit"] is None and got["bpb"] == 1


def test_records_of_another_hand_are_replaced() -> None:
    for strange in ("none", None, [1, {"task": "piqa"}, {"task": "a", "split": "b", "all": {}}]):
        got = merging.merge({"core": {"tasks": strange}}, core(counts("piqa", 20, 20, limit=20)))
        assert [task["total"] for task in got["core"]["tasks"]] == [20]
