"""Deleting: what stands against it, what it leaves, and that no link is ever followed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nanochat_cli.core import files, paths, run_lineage, run_removal, run_tags, runs
from nanochat_cli.core.errors import ConfigError, NanochatError
from nanochat_cli.core.run_names import Ref
from tests.core.runs_made import make


@pytest.fixture(autouse=True)
def family() -> None:
    make("mother", "base", 10, 20)
    make("mother", "mid", 4, parent=("mother", "base", 20))
    make("child", "sft", 3, parent=("mother", "mid", 4))


def remove(*refs: Ref, force: bool = False) -> int:
    return sum(run_removal.carry_out(item) for item in run_removal.plan(list(refs), force=force))


def test_a_run_goes_whole_and_tells_what_that_freed() -> None:
    there = sum(p.stat().st_size for p in paths.run_dir("child").rglob("*") if p.is_file())
    assert remove(Ref("child")) >= there
    assert runs.all_runs() == ["mother"] and [p.name for p in paths.runs_dir().iterdir()] == ["mother"]


def test_a_checkpoint_goes_and_latest_names_the_one_before() -> None:
    folder = runs.stage_dir("child", "sft")
    assert (folder / "latest").read_text() == "step-000003\n"
    remove(Ref("child", "sft", 3))
    assert (
        runs.checkpoint_steps(folder) == [] and not (folder / "latest").exists() and (folder / "config.json").exists()
    )
    remove(Ref("mother", "base", 20), force=True)
    assert (runs.stage_dir("mother", "base") / "latest").read_text() == "step-000010\n"


def test_what_others_were_started_from_needs_force_and_names_them() -> None:
    for ref, children in (
        (Ref("mother"), "child/sft"),
        (Ref("mother", "base"), "mother/mid"),
        (Ref("mother", "base", 20), "mother/mid"),
        (Ref("mother", "mid", 4), "child/sft"),
    ):
        with pytest.raises(NanochatError, match=f"other stages were started from {ref}: {children}$"):
            run_removal.plan([ref])
    run_removal.plan([Ref("mother", "base", 10)])  # nothing came of that one
    paths.run_dir("mother").rename(paths.run_dir("mama"))
    with pytest.raises(NanochatError, match="started from mama: child/sft"):
        run_removal.plan([Ref("mama")])
    assert [str(item.ref) for item in run_removal.plan([Ref("mama"), Ref("child")])] == ["mama", "child"]
    remove(Ref("mama"), force=True)
    assert run_lineage.parent("child", "sft") == run_lineage.Place("mother", "mid", 4, present=False)


def test_a_tagged_checkpoint_stays_without_force() -> None:
    run_tags.add("v1", "child", "sft", 3)
    for ref in (Ref("child"), Ref("child", "sft"), Ref("child", "sft", 3)):
        with pytest.raises(NanochatError, match="tagged, so it is kept: v1 is child/sft/3"):
            run_removal.plan([ref])
    remove(Ref("child", "sft", 3), force=True)
    assert run_tags.all_tags() == []


def test_a_running_stage_is_refused_with_its_holder() -> None:
    with runs.lock(runs.stage_dir("child", "sft")):
        for ref in (Ref("child"), Ref("child", "sft", 3)):
            with pytest.raises(NanochatError, match=r"is being worked on: .* \(pid \d+ on "):
                run_removal.plan([ref], force=True)
        item = run_removal.plan([Ref("mother", "base", 10)])[0]
    with runs.lock(runs.stage_dir("mother", "base")):  # begun between the question and the answer
        with pytest.raises(NanochatError, match="another process is working in"):
            run_removal.carry_out(item)
    assert runs.checkpoint_steps(runs.stage_dir("mother", "base")) == [10, 20]


def test_no_link_is_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(paths.run_dir("child"), elsewhere)
    (paths.runs_dir() / "linked").symlink_to(elsewhere)
    with pytest.raises(NanochatError, match=r"a symbolic link is not followed: .*linked -> "):
        run_removal.plan([Ref("linked")], force=True)
    with pytest.raises(NanochatError, match="a symbolic link is not followed"):
        run_removal.plan([Ref("linked", "sft", 3)], force=True)
    (paths.runs_dir() / "linked").unlink()
    inside = paths.run_dir("child") / "sft" / "more"
    inside.symlink_to(elsewhere)
    remove(Ref("child"))  # the link goes, what it leads to stays
    assert not paths.run_dir("child").exists() and (elsewhere / "sft" / "step-000003" / runs.MANIFEST).is_file()


def test_a_link_put_there_after_the_question_is_refused(tmp_path: Path) -> None:
    item = run_removal.plan([Ref("child")])[0]
    paths.run_dir("child").rename(tmp_path / "away")
    paths.run_dir("child").symlink_to(tmp_path / "away")
    with pytest.raises(NanochatError, match="a symbolic link is not followed"):
        run_removal.carry_out(item)
    assert (tmp_path / "away" / "sft" / "step-000003").is_dir()


@pytest.mark.parametrize("names", [(Ref("child"), Ref("child")), (Ref("mother"), Ref("mother", "base", 10))])
def test_nothing_is_deleted_twice(names: tuple[Ref, Ref]) -> None:
    with pytest.raises(ConfigError, match="named twice"):
        run_removal.plan(list(names), force=True)


def test_a_crash_leaves_no_half_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(path: Path) -> None:
        (path / "run.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            remove(Ref("child"))
    assert runs.all_runs() == ["mother"] and len(list(paths.runs_dir().iterdir())) == 2
    run_removal.sweep()
    assert [p.name for p in paths.runs_dir().iterdir()] == ["mother"]


def test_what_cannot_be_deleted_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: Path, target: Path) -> None:
        raise PermissionError(13, "no", str(self))

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(NanochatError, match="no permission"):
        remove(Ref("child"))
    assert files.read_json(paths.run_dir("child") / "run.json", "it")["name"] == "child"
