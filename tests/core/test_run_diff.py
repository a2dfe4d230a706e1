"""Comparisons: what differs, both values, and what can be compared with what."""

from __future__ import annotations

import pytest

from nanochat_cli.core.errors import ConfigError, MissingArtifact
from nanochat_cli.core.run_diff import compare
from nanochat_cli.core.run_names import Ref
from tests.core.runs_made import make, write_step


def test_two_runs_stage_by_stage() -> None:
    make("a", "base", 10, end={"kind": "done"}, optim={"matrix_lr": 0.01})
    write_step(make("b", "base", optim={"matrix_lr": 0.02}), 20, data={"fingerprint": "e" * 64}, torch="3.0")
    make("b", "sft", 3, parent=("b", "base", 20))
    found = compare(Ref("a"), Ref("b"))
    assert (found.only_left, found.only_right) == ([], ["sft"])
    (stage,) = found.stages
    assert stage.settings["optim.matrix_lr"] == (0.01, None) or stage.settings["optim.matrix_lr"][0] == 0.01
    assert stage.made_with == {"torch": ("2.9", "3.0"), "data.fingerprint": ("f" * 64, "e" * 64)}
    assert stage.results["val_bpb"] == (0.5, 1 / 20) and stage.results["step"] == (10, 20)
    assert stage.results["train_seconds"] == (None, 40.0)


def test_settings_that_differ_are_dotted_with_both_values() -> None:
    make("a", "base", 10, optim={"matrix_lr": 0.01}, compute={"seed": 1})
    make("b", "base", 10, optim={"matrix_lr": 0.02}, compute={"seed": 1})
    (stage,) = compare(Ref("a"), Ref("b", "base", 10)).stages
    assert stage.settings == {"optim.matrix_lr": (0.01, 0.02)} and stage.made_with == {}


def test_two_checkpoints_of_a_stage_differ_in_their_results() -> None:
    make("a", "base", 10, 20, bpb={10: 0.9, 20: 0.8})
    (stage,) = compare(Ref("a", "base", 10), Ref("a", "base", 20)).stages
    assert (stage.settings, stage.made_with) == ({}, {}) and stage.results["val_bpb"] == (0.9, 0.8)


def test_parents_are_compared_by_name_and_weights() -> None:
    make("a", "base", 10, 20)
    make("b", "sft", 1, parent=("a", "base", 10))
    make("c", "sft", 1, parent=("a", "base", 20))
    (stage,) = compare(Ref("b"), Ref("c")).stages
    assert stage.settings == {"source.step": (10, 20)}
    assert stage.made_with["parent.name"] == ("a/base/10", "a/base/20") and "parent.weights_sha256" in stage.made_with


def test_what_cannot_be_compared() -> None:
    make("a", "base", 10)
    make("b", "sft", 1, parent=("a", "base", 10))
    with pytest.raises(ConfigError, match="two different"):
        compare(Ref("a"), Ref("a"))
    with pytest.raises(MissingArtifact, match="no stage in common: a and b") as caught:
        compare(Ref("a"), Ref("b"))
    assert caught.value.hint == "a has base; b has sft"
    with pytest.raises(MissingArtifact, match="no stage named: base"):
        compare(Ref("a", "base"), Ref("b"))
    (stage,) = compare(Ref("a", "base"), Ref("b", "sft")).stages
    assert str(stage.left) == "a/base" and str(stage.right) == "b/sft"
