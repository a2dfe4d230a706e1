"""CORE and ChatCORE in the report: one row per labelled score, stages beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat_cli.core.report import core_rows
from nanochat_cli.core.report.blocks import Folded, Table
from nanochat_cli.core.report.gather import RunRecord, StageRecord


def score(value: float, label: str, key: str = "core") -> dict[str, Any]:
    return {key: value, "low": value - 0.01, "high": value + 0.01, "label": label}


def record(value: float, cropped: int = 0) -> dict[str, Any]:
    counts = {"task": "copa", "correct": 60, "total": 100, "low": 0.5, "high": 0.69, "cropped": cropped, "limit": 100}
    return {
        "core": {
            "scores": {"v1": score(value, "CORE (v1)"), "v2": score(value - 0.02, "CORE (v2)")},
            "tasks": [counts | {"baselines": {"v1": 0.5, "v2": 0.5}}, {"task": "broken"}, "nonsense"],
        }
    }


def run_with(**evaluations: dict[str, Any]) -> RunRecord:
    stages = [StageRecord(name=name, evaluation=found) for name, found in evaluations.items()]
    return RunRecord(name="r", folder=Path("r"), facts={}, stages=stages)


def test_scores_of_stages_stand_in_one_row() -> None:
    chat = {"chat_core": score(0.08, "ChatCORE", "chat_core")}
    rows = core_rows.rows(run_with(base=record(0.2), mid={}, sft=record(0.19) | chat))
    assert [row.cells[0].text for row in rows] == ["CORE (v1)", "CORE (v2)", "ChatCORE"]
    assert [cell.text for cell in rows[0].cells[1:4]] == ["0.2000", "–", "0.1900"]
    assert rows[0].cells[1].remark == "0.1900 to 0.2100"
    assert [cell.text for cell in rows[2].cells[1:4]] == ["–", "–", "0.0800"]


def test_tasks_are_folded_behind_it() -> None:
    (folded,) = core_rows.details(run_with(base=record(0.2, cropped=7), sft=record(0.1, cropped=7)))
    assert isinstance(folded, Folded)
    table = next(block for block in folded.blocks if isinstance(block, Table))
    (row,) = table.rows
    assert row.cells[0].text == "copa" and "7 cropped" in row.cells[0].remark and "at most 100" in row.cells[0].remark
    assert row.cells[1].text == "60.0 %" and row.cells[1].remark == "50.0–69.0"


def test_broken_records_are_passed_over() -> None:
    broken = {"core": {"scores": {"v1": {"core": "high"}, "v2": None}, "tasks": "none"}, "chat_core": [1]}
    assert core_rows.rows(run_with(base=broken)) == [] and core_rows.details(run_with(base=broken)) == []
