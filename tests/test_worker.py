"""What workers of several commands make sure of before they train together, and how a failure is reported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli import worker
from nanochat_cli.core import events, runs
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError, PeerFailed
from nanochat_cli.core.settings import BaseTrainConfig, ChatDataSection, ClusterSection, SftConfig


class Fake(Dist):
    """A second process that hears the main one say something prepared."""

    def __init__(self, told: str, others_differ: bool = False) -> None:
        super().__init__(rank=1, world=2)
        object.__setattr__(self, "told", told)
        object.__setattr__(self, "others_differ", others_differ)

    def main_text(self, text: str) -> str:
        return self.told or text  # type: ignore[attr-defined]

    def any(self, flag: bool) -> bool:
        return flag or self.others_differ  # type: ignore[attr-defined]


class Recorder(Fake):
    """The main process itself: remembers what it says."""

    said = ""

    def main_text(self, text: str) -> str:
        Recorder.said = text
        return text


def said_by(context: runs.RunContext, cfg: Any) -> str:
    worker._check_same(context, cfg, Recorder(""))
    return Recorder.said


def context(folder: Path, resume: bool = False) -> runs.RunContext:
    return runs.RunContext("r", "base", folder, resume, "nanochat train base")


def changed(cfg: Any, section: str, **values: Any) -> Any:
    return dataclasses.replace(cfg, **{section: dataclasses.replace(getattr(cfg, section), **values)})


def test_only_the_place_and_the_threads_may_differ(tmp_path: Path) -> None:
    told = said_by(context(tmp_path), BaseTrainConfig())
    cluster = ClusterSection(nnodes=2, node_rank=1, rdzv_endpoint="a:1")
    mine = dataclasses.replace(changed(BaseTrainConfig(), "compute", threads=3), cluster=cluster)
    worker._check_same(context(tmp_path), mine, Fake(told))
    with pytest.raises(ConfigError, match=r"model.depth is not what the first process has, which is 4: 5"):
        worker._check_same(context(tmp_path), changed(mine, "model", depth=5), Fake(told))
    with pytest.raises(PeerFailed):
        worker._check_same(context(tmp_path), mine, Fake(told, others_differ=True))


def test_a_resume_needs_the_same_checkpoint_everywhere(tmp_path: Path) -> None:
    step = tmp_path / "step-000020"
    step.mkdir()
    (step / runs.MANIFEST).touch()
    told = said_by(context(tmp_path, resume=True), BaseTrainConfig())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(ConfigError, match=r"the newest checkpoint is not .* \[20\]: \[\]"):
        worker._check_same(context(elsewhere, resume=True), BaseTrainConfig(), Fake(told))


def test_chats_may_lie_in_another_folder(tmp_path: Path) -> None:
    told = said_by(context(tmp_path), SftConfig(chats=ChatDataSection(data=("/a/chats.json:1",))))
    worker._check_same(context(tmp_path), SftConfig(chats=ChatDataSection(data=("/b/chats.json:1",))), Fake(told))
    with pytest.raises(ConfigError, match=r"chats\.data"):
        worker._check_same(context(tmp_path), SftConfig(chats=ChatDataSection(data=("/a/chats.json:2",))), Fake(told))


@pytest.mark.parametrize(("world", "lost"), [("2", True), ("1", False)])
def test_a_report_tells_whether_a_peer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: str, lost: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    problem = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1")
    worker._report(tmp_path, 0, events.NULL, "bug", problem, None)
    report = json.loads((tmp_path / "error-rank0.json").read_text())
    assert report["lost_peer"] == lost
    assert report["message"].startswith("RuntimeError: [gloo/")
