"""Names of models: runs, stages, steps and tags, and what is said when a name means nothing or two things."""

from __future__ import annotations

import pytest

from nanochat_cli.core import paths, retention, run_names, run_tags, runs, stepdirs
from nanochat_cli.core.errors import ConfigError, MissingArtifact
from nanochat_cli.core.run_names import Ref, locate, resolve
from nanochat_cli.core.stepdirs import Keep
from tests.core.runs_made import make, write_step


@pytest.fixture(autouse=True)
def two_runs() -> None:
    make("tiny", "base", 10, 20)
    make("tiny", "sft", 5, parent=("tiny", "base", 20))
    make("tall", "base", 7)


def test_every_form_of_a_name() -> None:
    assert resolve("tiny") == Ref("tiny") and resolve("tiny/sft") == Ref("tiny", "sft")
    assert resolve("tiny/base/10") == resolve("tiny/base/step-000010") == Ref("tiny", "base", 10)
    assert resolve("tiny/base/latest") == Ref("tiny", "base", 20)
    run_tags.add("v1", "tiny", "base", 10)
    assert resolve("v1") == Ref("tiny", "base", 10)
    assert str(resolve("v1")) == "tiny/base/10"


def test_a_name_stands_wherever_a_run_is_named() -> None:
    run_tags.add("v1", "tiny", "base", 10)
    assert locate("v1", None) == locate("tiny/base/10", None) == ("tiny", "base", 10)
    assert locate("tiny", None) == ("tiny", "sft", None) and locate("tiny", None, before="sft")[1] == "base"
    assert locate("tiny/base", None, 10) == ("tiny", "base", 10)
    assert stepdirs.find("v1").name == "step-000010"
    assert locate(None, None)[0] == runs.all_runs()[0]
    for option in ({"source": "sft"}, {"source": None, "step": 20}):
        with pytest.raises(ConfigError, match="name two different checkpoints"):
            locate("v1", **option)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("tinny", "no run named: tinny", "did you mean tiny? runs: "),
        ("tiny/stf", "no stage named: stf", "did you mean sft? stages: base, sft"),
        ("tiny/rl", "no stage named: rl", "stages: base, sft"),
        ("tiny/base/11", "has no checkpoint of step: 11", "nearest: 10; saved steps: 10, 20"),
        ("tiny/base/x", "has no checkpoint of step: x", "saved steps: 10, 20"),
    ],
)
def test_an_unknown_name_tells_the_nearest_and_the_others(name: str, says: str, hint: str) -> None:
    with pytest.raises(MissingArtifact, match=says) as caught:
        resolve(name)
    assert (caught.value.hint or "").startswith(hint)


@pytest.mark.parametrize("name", ["../tiny", "/etc", "~/x", "tiny/base/10/model", "a\nb", "", "./tiny"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match="not "):
        resolve(name)


def test_one_name_for_two_things_lists_both() -> None:
    run_tags.add("v1", "tiny", "base", 10)
    paths.run_dir("tall").rename(paths.run_dir("v1"))  # brought in from elsewhere
    with pytest.raises(ConfigError, match="more than one meaning: run v1, tag of tiny/base/10"):
        resolve("v1")
    assert resolve("v1/base") == Ref("v1", "base")


def test_a_dangling_tag_says_so() -> None:
    run_tags.add("v1", "tiny", "sft", 5)
    path = runs.stage_dir("tiny", "sft") / "step-000005"
    (path / runs.MANIFEST).unlink()
    with pytest.raises(MissingArtifact, match="tag v1 points at nothing, its checkpoint is gone: tiny/sft/5"):
        resolve("v1")
    write_step(runs.stage_dir("tiny", "sft"), 5)
    assert resolve("v1").step == 5  # the same bytes again
    write_step(runs.stage_dir("tiny", "sft"), 6)
    (path / runs.MANIFEST).write_text((path.with_name("step-000006") / runs.MANIFEST).read_text())
    assert run_tags.find("v1")[0].dangling == "another checkpoint lies in its place"


def test_a_tag_is_one_checkpoint_and_no_run() -> None:
    run_tags.add("v1", "tiny", "base", 10)
    run_tags.add("v1", "tiny", "base", 10)  # again is no mistake
    with pytest.raises(ConfigError, match="tag v1 names another checkpoint already: tiny/base/10"):
        run_tags.add("v1", "tall", "base", 7)
    with pytest.raises(ConfigError, match="a run has this name"):
        run_tags.add("tall", "tiny", "base", 10)
    with pytest.raises(ConfigError, match="not a tag name"):
        run_tags.add("a/b", "tiny", "base", 10)
    run_tags.add("v1", "tall", "base", 7, move=True)
    assert [tag.target for tag in run_tags.all_tags()] == ["tall/base/7"]
    with pytest.raises(MissingArtifact, match="no tag named: v2") as caught:
        run_tags.delete("v2")
    assert caught.value.hint == "tags: v1"
    run_tags.delete("v1")
    assert run_tags.all_tags() == []
    with pytest.raises(MissingArtifact, match="no tag named: v1"):
        run_tags.delete("v1")


def test_a_tagged_checkpoint_is_not_pruned() -> None:
    run_tags.add("keep", "tiny", "base", 10)
    folder = runs.stage_dir("tiny", "base")
    for step in (30, 40):
        write_step(folder, step)
    assert retention.prune(folder, 40, Keep(last=1)) == [20, 30]
    assert runs.checkpoint_steps(folder) == [10, 40]
    run_tags.delete("keep")
    assert retention.prune(folder, 40, Keep(last=1)) == [10]


def test_a_run_may_be_called_like_a_file() -> None:
    make("model.bin", "base", 1)
    assert run_names.resolve("model.bin") == Ref("model.bin")
    with pytest.raises(ConfigError, match="pickle"):
        run_names.resolve("other.bin")
