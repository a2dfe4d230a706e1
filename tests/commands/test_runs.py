"""`nanochat runs`: what each command shows and does, by exit code and streams."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer

from nanochat_cli import main
from nanochat_cli.core import paths, run_tags, runs
from tests.core.runs_made import make


@pytest.fixture(autouse=True)
def family() -> None:
    make("mother", "base", 10, 20, bpb={10: 0.7, 20: 0.8}, end={"kind": "done"}, at=1.7e9)
    make("child", "sft", 3, parent=("mother", "base", 20), end={"kind": "stopped", "step": 3, "why": "SIGTERM"})


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main.run(["runs", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_ls_tells_it_all_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    run_tags.add("v1", "child", "sft", 3)
    code, out, _ = call(capsys, "ls")
    head, child, mother = out.splitlines()
    assert code == 0 and head.split()[-1] == "trained"
    assert child.startswith("child") and "3/100" in child and "stopped by SIGTERM, resumable" in child
    assert "mother/base/20" in child and "v1" in child and child.endswith("just now")
    assert "0.7000 @ 10" in mother and "finished" in mother and mother.endswith("days ago")
    listed = json.loads(call(capsys, "ls", "--json")[1])
    assert listed[0]["parent"] == {"run": "mother", "stage": "base", "step": 20, "present": True}
    assert (listed[0]["tags"], listed[0]["state"], listed[0]["why"]) == (["v1"], "stopped", "SIGTERM")
    assert (listed[1]["best_bpb"], listed[1]["best_step"], listed[1]["resumable"]) == (0.7, 10, False)


def test_ls_warns_of_dangling_tags(capsys: pytest.CaptureFixture[str]) -> None:
    run_tags.add("v1", "child", "sft", 3)
    (runs.stage_dir("child", "sft") / "step-000003" / runs.MANIFEST).unlink()
    assert "warning: tag v1 of child/sft/3 points at nothing: its checkpoint is gone" in call(capsys, "ls")[2]
    assert "dangling" in call(capsys, "tag")[1]


def test_a_list_opens_small_files_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = Path.open

    def counts(self: Path, *args: object, **more: object) -> object:
        opened.append(str(self))
        return real(self, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counts)
    assert call(capsys, "ls")[0] == 0
    assert not [name for name in opened if name.endswith((".safetensors", "state.json"))]
    assert len(opened) < 30 * 2  # stages


def test_show_and_verify(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "show", "child")
    assert code == 0 and "from          mother/base/20\n" in out and "nanochat train sft" in out
    assert "data          ffffffffffff" in out and "stopped by SIGTERM" in out and "verified" not in out
    code, out, _ = call(capsys, "show", "mother/base", "--verify", "--json")
    (stage,) = json.loads(out)["stages"]
    assert code == 0 and [c["damage"] for c in stage["checkpoints"]] == [None, None]
    assert stage["config"]["compute"] and stage["checkpoints"][0]["best"] is True
    (runs.stage_dir("mother", "base") / "step-000010" / "state.json").write_text("{}")
    code, out, err = call(capsys, "show", "mother", "--verify")
    assert code == 1 and "bytes, not" in out and "hint: nanochat runs repair mother" in err
    (runs.stage_dir("child", "sft") / "step-000003" / runs.MANIFEST).unlink()
    assert "(no longer there)" not in call(capsys, "show", "child")[1]
    (runs.stage_dir("mother", "base") / "step-000020" / runs.MANIFEST).unlink()
    assert "from          mother/base/20 (no longer there)" in call(capsys, "show", "child")[1]


def test_diff(capsys: pytest.CaptureFixture[str]) -> None:
    make("other", "base", 10, optim={"matrix_lr": 0.5})
    code, out, _ = call(capsys, "diff", "mother", "other")
    assert code == 0 and "optim.matrix_lr" in out and "0.5" in out and "val_bpb" in out
    tree = json.loads(call(capsys, "diff", "mother", "other/base/10", "--json")[1])["stages"][0]
    assert tree["settings"]["optim.matrix_lr"]["b"] == 0.5 and tree["results"]["step"] == {"a": 20, "b": 10}
    assert call(capsys, "diff", "mother", "mother")[0] == 2
    assert call(capsys, "diff", "mother", "othr")[2].count("did you mean other?") == 1


def test_tag(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no tag yet" in call(capsys, "tag")[2]
    code, out, _ = call(capsys, "tag", "mother", "best", "--json")
    assert code == 0 and json.loads(out) == {"tag": "best", "checkpoint": "mother/base/20"}
    assert call(capsys, "tag", "mother/base/10", "best")[0] == 2
    assert call(capsys, "tag", "mother/base/10", "best", "--force")[0] == 0
    assert call(capsys, "tag", "best", "again")[0] == 0  # a tag names a checkpoint, so it can be tagged by it
    assert [t["step"] for t in json.loads(call(capsys, "tag", "--json")[1])] == [10, 10]
    assert call(capsys, "tag", "--delete", "best")[0] == 0 and [t.name for t in run_tags.all_tags()] == ["again"]
    assert call(capsys, "tag", "mother")[0] == 2 and call(capsys, "tag", "--delete", "x")[0] == 3


def test_rm_shows_asks_and_deletes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = call(capsys, "rm", "child", "--dry-run")
    assert code == 0 and "child" in out and "would free" in err and paths.run_dir("child").is_dir()
    code, _, err = call(capsys, "rm", "child")
    assert code == 2 and "-y deletes without asking" in err and paths.run_dir("child").is_dir()
    asked: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)

    def no(text: str, **_: object) -> None:
        asked.append(text)
        raise typer.Abort

    with monkeypatch.context() as patch:
        patch.setattr(typer, "confirm", no)
        assert call(capsys, "rm", "child")[0] == 130 and asked[0].startswith("Delete child (")
    assert paths.run_dir("child").is_dir()
    code, out, _ = call(capsys, "rm", "child/sft/3", "mother/base/10", "-y", "--json")
    assert code == 0 and [d["name"] for d in json.loads(out)["deleted"]] == ["child/sft/3", "mother/base/10"]
    assert runs.checkpoint_steps(runs.stage_dir("mother", "base")) == [20]


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("rm", "mother", "-y"), 1, "other stages were started from mother: child/sft"),
        (("rm", "../mother", "-y"), 2, "not a run name"),
        (("rm", "mother/eval", "-y"), 3, "no stage named: eval"),
        (("rm", "mothr", "-y"), 3, "did you mean mother?"),
        (("rm", "v1", "-y"), 2, "a tag is deleted with: nanochat runs tag --delete v1"),
        (("show", "x.pt"), 2, "a pickle"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], code: int, says: str) -> None:
    run_tags.add("v1", "mother", "base", 10)
    found, _, err = call(capsys, *argv)
    assert found == code and says in err and runs.all_runs() == ["child", "mother"]


def test_repair(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "repair")
    assert code == 0 and "2 runs looked through: all in order" in err
    folder = runs.stage_dir("mother", "base")
    (folder / "step-000020" / "model.safetensors").unlink()
    code, out, _ = call(capsys, "repair", "mother", "--dry-run")
    assert code == 0 and "would be renamed to damaged-step-000020-" in out and (folder / "step-000020").is_dir()
    code, out, _ = call(capsys, "repair", "--json")
    assert code == 0 and [f["repaired"] for f in json.loads(out)] == [True, True]
    (folder / "step-000010" / "model.safetensors").unlink()
    code, _, err = call(capsys, "repair")
    assert code == 1 and "no good checkpoint is left" in err and "hint: train this stage again" in err
    assert call(capsys, "repair", "nobody")[0] == 3
