from __future__ import annotations

import builtins
import dataclasses
import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat_cli.core import checkpoint, events, files, runs, stepdirs
from nanochat_cli.core.errors import (
    ConfigError,
    DamagedArtifact,
    EnvironmentLacks,
    MissingArtifact,
    NanochatError,
    NewerVersion,
)
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a cat and a dog and a bird " * 8], 275)


@pytest.fixture
def stage(base_dir: Path) -> Path:
    return runs.stage_dir("first", "base")


def write(stage: Path, step: int, tokenizer: Tokenizer, keep_last: int = 9, **more: Any) -> Path:
    """A small but whole checkpoint whose weights tell its step."""
    net = from_depth(1, tokenizer.vocab_size, 16, n_embd=16)
    weights: dict[str, Tensor] = build(net).state_dict()
    weights["head.weight"] = torch.full_like(weights["head.weight"], float(step))
    values: dict[str, Any] = {
        "weights": weights,
        "optim": {"m": torch.full((3,), float(step))},
        "config": {"model": dataclasses.asdict(net), "tokenizer": {"hash": tokenizer.hash}},
        "state": {"seconds": 1.5},
    }
    return checkpoint.save(stage, step, tokenizer=tokenizer, keep_last=keep_last, **{**values, **more})


def make_run(name: str) -> None:
    runs.create(name)


# ---- round trip ------------------------------------------------------------------------------------------------------


def test_what_is_saved_comes_back(stage: Path, tokenizer: Tokenizer) -> None:
    heard: list[events.Event] = []
    path = write(stage, 200, tokenizer, log=events.Listener(heard.append))
    loaded = checkpoint.load(stage)
    assert (loaded.step, loaded.path, loaded.state["seconds"]) == (200, path, 1.5)
    assert loaded.weights["head.weight"].eq(200).all() and loaded.optim["m"].tolist() == [200.0] * 3
    assert (stage / "latest").read_text() == "step-000200\n"
    assert heard[-1]["kind"] == "saved" and heard[-1]["bytes"] == files.tree_size(path)
    assert sorted(p.name for p in stage.iterdir()) == ["latest", "step-000200"]


def test_the_model_comes_back_with_its_tokenizer(stage: Path, tokenizer: Tokenizer) -> None:
    path = write(stage, 7, tokenizer)
    model, own, meta = checkpoint.load_model(path)
    assert own.hash == tokenizer.hash and own.encode("a cat") == tokenizer.encode("a cat")
    assert (meta.run, meta.stage, meta.step) == ("first", "base", 7)
    assert meta.as_parent()["weights_sha256"] == files.sha256_file(path / "model.safetensors")
    assert torch.equal(model.state_dict()["head.weight"], checkpoint.load(stage).weights["head.weight"])


def test_steps_are_numbers_and_not_text(stage: Path, tokenizer: Tokenizer) -> None:
    for step in (999_999, 1_000_000, 5):
        write(stage, step, tokenizer)
    assert runs.checkpoint_steps(stage) == [5, 999_999, 1_000_000]
    assert checkpoint.load(stage).step == 1_000_000


def test_the_manifest_lists_every_file(stage: Path, tokenizer: Tokenizer) -> None:
    path = write(stage, 1, tokenizer)
    listed = set(json.loads((path / "MANIFEST.json").read_text())["files"])
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert there == listed | {"MANIFEST.json"}
    assert {"model.safetensors", "optim.safetensors", "config.json", "state.json", "tokenizer/ranks.tiktoken"} <= listed


# ---- retention -------------------------------------------------------------------------------------------------------


def test_only_the_last_are_kept(stage: Path, tokenizer: Tokenizer) -> None:
    for step in (1, 2, 3, 4):
        write(stage, step, tokenizer, keep_last=2)
    assert runs.checkpoint_steps(stage) == [3, 4]


def test_nothing_is_deleted_unless_the_new_one_verifies(
    stage: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(stage, 1, tokenizer)
    publish = stepdirs.publish

    def rots_on_disk(staged: Path, final: Path) -> None:
        publish(staged, final)
        flip_a_bit(final / "model.safetensors")

    monkeypatch.setattr(stepdirs, "publish", rots_on_disk)
    with pytest.raises(DamagedArtifact, match=r"model\.safetensors"):
        write(stage, 2, tokenizer, keep_last=1)
    assert checkpoint.load(stage).step == 1


# ---- crashes and full disks ------------------------------------------------------------------------------------------


def killed_at(point: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that dies without any clean-up at its `point`-th system call; return whether it died."""
    child = os.fork()
    if child == 0:
        calls = 0

        def deadly(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == point:
                    os._exit(9)
                return real(*args, **kwargs)

            return call

        for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "write", "open"):
            setattr(os, name, deadly(name, getattr(os, name)))
        builtins.open = io.open = deadly("open", io.open)  # type: ignore[assignment]
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_a_kill_at_any_moment_of_a_save_leaves_a_good_checkpoint(
    stage: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a killed process loses nothing that it had written
    write(stage, 100, tokenizer)
    before, point, found = stage.parent / "before", 0, []
    shutil.copytree(stage, before)
    while True:
        point += 1
        died = killed_at(point, lambda: write(stage, 200, tokenizer, keep_last=1))
        loaded = checkpoint.load(stage)
        assert loaded.weights["head.weight"].eq(loaded.step).all()
        found.append(loaded.step)
        if not died:
            break
        if point % 5 == 0:  # the next save works, and sweeps what was left behind
            write(stage, 300, tokenizer, keep_last=1)
            assert sorted(p.name for p in stage.iterdir()) == ["latest", "step-000300"]
        shutil.rmtree(stage)
        shutil.copytree(before, stage)
    assert point > 30
    assert set(found) == {100, 200} and found == sorted(found)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, NanochatError, "the disk is full"),
        (errno.EROFS, EnvironmentLacks, "no permission"),
    ],
)
def test_a_disk_that_refuses_leaves_the_earlier_checkpoint(
    stage: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], words: str
) -> None:
    write(stage, 100, tokenizer)
    real = os.fsync
    for after in range(12):
        left = after

        def refuses(handle: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(code, os.strerror(code))
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuses)
            with pytest.raises(kind, match=words) as caught:
                write(stage, 200, tokenizer)
        assert "\n" not in str(caught.value)
        assert sorted(p.name for p in stage.iterdir()) == ["latest", "step-000100"]
        assert checkpoint.load(stage).step == 100


def test_too_little_space_is_noticed_before_anything_is_written(
    stage: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free_space", lambda path: 1_000_000)
    with pytest.raises(NanochatError, match=r"not enough disk space .* 1\.0 MB free"):
        write(stage, 3, tokenizer)
    assert not stage.exists()


# ---- damage ----------------------------------------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


FILES = (
    "model.safetensors",
    "optim.safetensors",
    "config.json",
    "state.json",
    "tokenizer/ranks.tiktoken",
    "MANIFEST.json",
)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_and_the_earlier_step_is_used(
    stage: Path, tokenizer: Tokenizer, name: str, damage: Callable[[Path], None]
) -> None:
    write(stage, 1, tokenizer)
    write(stage, 2, tokenizer)
    target = stage / "step-000002" / name
    if name == "MANIFEST.json" and damage is flip_a_bit:
        target.write_text(target.read_text().replace('"sha256": "', '"sha256": "0', 1))
    else:
        damage(target)
    heard: list[events.Event] = []
    assert checkpoint.load(stage, log=events.Listener(heard.append)).step == 1
    if not (name == "MANIFEST.json" and damage is Path.unlink):  # without a manifest it was never published
        told = " ".join(event["text"] for event in heard)
        assert "step 2 cannot be used" in told and "going back to step 1" in told
        named = r"does not match its hash|MANIFEST\.json" if name == "MANIFEST.json" else name
        with pytest.raises(DamagedArtifact, match=named) as caught:
            checkpoint.load(stage, 2)
        assert caught.value.hint == "try another step: 1"


def test_saving_over_a_damaged_step_keeps_it_aside(stage: Path, tokenizer: Tokenizer) -> None:
    write(stage, 1, tokenizer)
    truncate(write(stage, 3, tokenizer) / "model.safetensors")
    write(stage, 2, tokenizer, keep_last=1)
    write(stage, 3, tokenizer, keep_last=2)
    assert runs.checkpoint_steps(stage) == [2, 3] and checkpoint.load(stage).step == 3
    assert [p.name[:18] for p in stage.glob("*-step-*")] == ["former-step-000003"]


@pytest.mark.parametrize("name", ["../../../secret", "/etc/hostname", "sub/../../x", "..\\x"])
def test_a_manifest_cannot_point_out_of_its_folder(stage: Path, tokenizer: Tokenizer, name: str) -> None:
    path = write(stage, 1, tokenizer) / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"size": 0, "sha256": ""}
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedArtifact, match="outside its folder"):
        checkpoint.load(stage)


def test_a_file_that_the_manifest_does_not_list_is_never_loaded(stage: Path, tokenizer: Tokenizer) -> None:
    path = write(stage, 1, tokenizer) / "MANIFEST.json"
    manifest = {key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"} | {"files": {}}
    path.write_text(json.dumps(manifest | {"sha256": files.sha256_json(manifest)}) + "\n")
    with pytest.raises(DamagedArtifact, match="does not list"):
        checkpoint.load(stage)


def test_a_link_is_not_followed(stage: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    weights = write(stage, 1, tokenizer) / "model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedArtifact, match="outside its folder"):
        checkpoint.load(stage)


def test_another_tokenizer_in_its_place_is_refused(stage: Path, tokenizer: Tokenizer) -> None:
    other = Tokenizer.train(["completely different words here " * 8], 275)
    path = write(stage, 1, tokenizer)
    shutil.rmtree(path / "tokenizer")
    other.save(path / "tokenizer")
    (path / "MANIFEST.json").unlink()
    stepdirs.seal(path)  # whoever swaps it can also hash it
    with pytest.raises(NanochatError, match="is not the one this checkpoint was trained with"):
        checkpoint.load_model(path)


def test_a_config_from_a_newer_version_is_explained(stage: Path, tokenizer: Tokenizer) -> None:
    net = dataclasses.asdict(from_depth(1, tokenizer.vocab_size, 16, n_embd=16))
    path = write(stage, 1, tokenizer, config={"model": {**net, "flux": 1}, "tokenizer": {"hash": tokenizer.hash}})
    with pytest.raises(NewerVersion, match=r"written by a newer nanochat .*flux"):
        checkpoint.load_model(path)
    path = write(stage, 2, tokenizer, config={"model": {**net, "n_embd": 32}, "tokenizer": {"hash": tokenizer.hash}})
    with pytest.raises(DamagedArtifact, match="do not fit"):
        checkpoint.load_model(path)


# ---- finding ---------------------------------------------------------------------------------------------------------


def test_find_takes_the_last_stage_and_its_last_step(tokenizer: Tokenizer, base_dir: Path) -> None:
    make_run("first")
    for stage, step in (("base", 5), ("base", 10), ("sft", 3)):
        write(runs.stage_dir("first", stage), step, tokenizer)
    assert checkpoint.find() == runs.stage_dir("first", "sft") / "step-000003"
    assert checkpoint.find(before="sft").name == "step-000010"
    assert checkpoint.find("first", "base", 5).name == "step-000005"
    flip_a_bit(runs.stage_dir("first", "base") / "step-000010" / "model.safetensors")
    assert checkpoint.find(source="base").name == "step-000005"


def test_find_says_what_there_is(tokenizer: Tokenizer, base_dir: Path) -> None:
    with pytest.raises(MissingArtifact) as caught:
        checkpoint.find()
    assert caught.value.exit_code == 3
    make_run("first")
    write(runs.stage_dir("first", "base"), 5, tokenizer)
    with pytest.raises(MissingArtifact) as caught:
        checkpoint.find("first", "base", 9)
    assert caught.value.hint == "saved steps: 5"
    with pytest.raises(MissingArtifact) as caught:
        checkpoint.find("first", "sft")
    assert "base" in (caught.value.hint or "")
    with pytest.raises(ConfigError):
        checkpoint.find("../elsewhere")


# ---- what was lost ---------------------------------------------------------------------------------------------------


def test_a_save_leaves_alone_what_others_are_writing(stage: Path, tokenizer: Tokenizer) -> None:
    write(stage, 1, tokenizer)
    (stage / ".stop.12345678.tmp").write_text("Ctrl-C")
    write(stage, 2, tokenizer)
    assert (stage / ".stop.12345678.tmp").exists()


def test_steps_that_all_lost_their_manifest_are_not_nothing(stage: Path, tokenizer: Tokenizer) -> None:
    stepdirs.refuse_lost(stage)  # nothing there is nothing lost
    for step in (1, 2):
        (write(stage, step, tokenizer) / "MANIFEST.json").unlink()
        assert stepdirs.unfinished(stage) == list(range(1, step + 1))
    for ask in (stepdirs.refuse_lost, checkpoint.load):
        with pytest.raises(DamagedArtifact, match="step-000001, step-000002") as caught:
            ask(stage)
        assert "nanochat runs repair first" in (caught.value.hint or "")
    write(stage, 3, tokenizer)
    stepdirs.refuse_lost(stage)
    assert stepdirs.unfinished(stage) == [1, 2] and checkpoint.load(stage).step == 3


def test_a_save_that_fails_at_the_last_moment_puts_back_what_stood_there(
    stage: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(stage, 1, tokenizer)

    def full(staged: Path, final: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(files, "publish_dir", full)
        with pytest.raises(NanochatError, match="the disk is full"):
            write(stage, 1, tokenizer)
    assert sorted(p.name for p in stage.iterdir()) == ["latest", "step-000001"]


def test_what_a_killed_save_set_aside_comes_back(stage: Path, tokenizer: Tokenizer) -> None:
    stepdirs.set_aside(write(stage, 1, tokenizer))
    shutil.copytree(write(stage, 2, tokenizer), stage / "aside-step-000002-abcdef")
    left = stepdirs.leave(write(stage, 3, tokenizer))
    assert stepdirs.recover(stage) == [1] and stepdirs.recover(stage) == []
    assert sorted(p.name for p in stage.iterdir()) == sorted(
        ["former-step-000002-abcdef", "latest", left.name, "step-000001", "step-000002"]
    )
