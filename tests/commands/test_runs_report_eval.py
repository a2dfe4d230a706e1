"""`nanochat runs`, `report` and `eval`: what they show, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanochat_cli import main
from nanochat_cli.core import config
from nanochat_cli.core.settings import WORKER_CONFIGS

NO_RUN = (("report",), ("report", "--run", "x"), ("runs", "show"), ("runs", "show", "x"), ("eval",), ("eval", "bpb"))


@pytest.fixture
def run(base_dir: Path) -> Path:
    """A run with a finished base stage and an interrupted SFT stage."""
    folder = base_dir / "runs" / "tiny"
    for stage, steps in (("base", (50, 100)), ("sft", (20,))):
        for step in steps:
            (folder / stage / f"step-{step:06d}").mkdir(parents=True)
            (folder / stage / f"step-{step:06d}" / "MANIFEST.json").write_text("{}")
        tree = config.to_dict(WORKER_CONFIGS[stage]())
        tree["compute"]["seed"] = 3
        saved = {"stage": stage, "run": "tiny", "command": f"nanochat train {stage}", "config": tree}
        (folder / stage / "config.json").write_text(json.dumps(saved))
        history = [
            {"kind": "step", "time": 1e9, "step": steps[-1], "num_steps": 100, "loss": 1.5},
            {"kind": "eval", "time": 1e9, "step": steps[-1], "metric": "val_bpb", "value": 0.75},
        ]
        (folder / stage / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in history))
    (folder / "base" / "result.json").write_text('{"step": 100}')
    (folder / "run.json").write_text('{"format": 1, "name": "tiny", "created": 1e9}')
    return folder


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main.run(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("argv", NO_RUN, ids=" ".join)
def test_nothing_trained_yet(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    code, out, err = call(capsys, *argv)
    assert (code, out) == (3, "") and err.startswith("error: no ") and "\nhint: " in err


def test_empty_list_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "runs", "ls")
    assert (code, out) == (0, "") and "no run yet" in err
    assert json.loads(call(capsys, "runs", "ls", "--json")[1]) == []


def test_list_and_show(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    code, out, _ = call(capsys, "runs", "ls")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 3
    assert lines[1].split()[:4] == ["tiny", "base", "100/100", "0.7500"] and "finished" in lines[1]
    assert "20/100" in lines[2] and "resumable" in lines[2]
    out = call(capsys, "runs", "show", "tiny")[1]
    assert (
        "compute.seed=3" in out
        and "\n  50 " in out
        and "\n  100 " in out
        and "nanochat train sft" in out
        and str(run) in out
    )
    shown = json.loads(call(capsys, "runs", "show", "--json")[1])
    assert [stage["stage"] for stage in shown["stages"]] == ["base", "sft"]
    assert shown["stages"][0]["settings"] == {"compute.seed": 3} and shown["stages"][0]["result"] == {"step": 100}


def test_report(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    code, out, _ = call(capsys, "report", "--dry-run", "--json")
    assert code == 0 and Path(json.loads(out)["markdown"]) == run / "report.md" and not (run / "report.md").exists()
    code, out, _ = call(capsys, "report", "--json")
    assert code == 0 and Path(json.loads(out)["html"]) == run / "report.html" and (run / "report.md").is_file()
    code, out, _ = call(capsys, "report", "--run", "tiny", "--out", str(tmp_path / "card"), "--print")
    assert code == 0 and out.startswith("# tiny\n") and (tmp_path / "card" / "report.html").is_file()


def test_unknown_run_lists_the_known_ones(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    code, _, err = call(capsys, "report", "--run", "big")
    assert code == 3 and "hint: runs: tiny" in err


def test_unknown_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "eval", "beauty")
    assert code == 2 and "choose one of: all, bpb, chat" in err
