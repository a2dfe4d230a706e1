"""Publishing a checkpoint on a disk that loses all it may lose: the last that was safe, or a later one, is found."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_cli.core import checkpoint, files, paths, runs, stepdirs
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from tests.core import crashing_disk
from tests.core.crashing_disk import Disk, Recording, Tree

SEED = int(os.environ.get("NANOCHAT_FAULT_SEED", "0"))
STAGE = "runs/r/base/"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a cat and a dog and a bird " * 8], 275)


def save(step: int, tokenizer: Tokenizer, mark: float | None = None, keep_last: int = 2) -> Path:
    """Save a checkpoint whose weights tell its step, or `mark`."""
    net = from_depth(1, tokenizer.vocab_size, 16, n_embd=16)
    weights = build(net).state_dict()
    weights["head.weight"] = torch.full_like(weights["head.weight"], float(step if mark is None else mark))
    record: dict[str, Any] = {"model": dataclasses.asdict(net), "tokenizer": {"hash": tokenizer.hash}}
    return checkpoint.save(
        runs.stage_dir("r", "base"),
        step,
        weights=weights,
        optim={"m": torch.ones(3)},
        config=record,
        state={},
        tokenizer=tokenizer,
        keep_last=keep_last,
    )


def visible(tree: Tree) -> Tree:
    """What any reader looks at: names that begin with a point are nobody's."""
    return {name: content for name, content in tree.items() if not any(p.startswith(".") for p in name.split("/"))}


def safe_step(disk: Disk) -> int:
    """The newest step whose published name can no longer be lost, as told by names and flushes alone."""
    there = disk.tree([], {})
    found = [name.removeprefix(f"{STAGE}step-") for name in there if name.startswith(f"{STAGE}step-")]
    return max((int(name) for name in found if name.isdigit()), default=0)


def found_after(tree: Tree, root: Path) -> tuple[int, list[int]]:
    """What a new start finds in the folder, 0 for nothing, and which published steps are damaged."""
    crashing_disk.put(tree, root)
    stage = root / STAGE
    try:
        stepdirs.recover(stage)
        bad = []
        for step in runs.checkpoint_steps(stage):
            try:
                stepdirs.verify(stepdirs.step_dir(stage, step))
            except NanochatError:
                bad.append(step)
        try:
            loaded = checkpoint.load(stage)
        except NanochatError:
            return 0, bad
        assert loaded.weights["head.weight"].eq(loaded.weights["head.weight"].flatten()[0]).all()
        return loaded.step, bad
    finally:
        shutil.rmtree(root)


def problems(tape: Recording, scratch: Path, published: list[int]) -> Iterator[str]:
    """Every way in which a crash of a recorded save loses something, in words. `published`: what was there before."""
    disk, draw = Disk(tape), random.Random(SEED)
    known: dict[int, tuple[int, list[int]]] = {}
    must = max(published, default=0)
    for at, op in enumerate([None, *tape.ops]):
        if op is not None:
            disk.do(op)
        if op is None or op.kind == "flush":
            must = max(must, safe_step(disk))
        for tree in disk.crashes(draw):
            seen = visible(tree)
            key = hash(frozenset(seen.items()))
            if key not in known:
                known[key] = found_after(seen, scratch)
            step, bad = known[key]
            if step < must:
                yield f"after change {at} ({op}): step {step} is found, {must} was safe"
            if bad:
                yield f"after change {at} ({op}): damaged steps {bad}"


def first(tokenizer: Tokenizer) -> None:
    """The first save of a run, whose folders were made a moment ago."""
    files.make_dir(runs.stage_dir("r", "base"), "the stage folder")
    save(100, tokenizer)


def next_one(tokenizer: Tokenizer) -> None:
    """A save that deletes the one before."""
    save(200, tokenizer, keep_last=1)


def again(tokenizer: Tokenizer) -> None:
    """A step that is there already, as after a roll-back: the folder of its name is replaced."""
    save(100, tokenizer, mark=7.0)


def recorded(case: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> tuple[Recording, list[int]]:
    root = paths.runs_dir().parent
    root.mkdir(exist_ok=True)
    before = []
    if case is not first:
        save(100, tokenizer)
        before = [100]
    return crashing_disk.record(root, lambda: case(tokenizer), monkeypatch), before


@pytest.mark.parametrize("case", [first, next_one, again])
def test_no_crash_loses_what_was_safe(
    case: Any, tokenizer: Tokenizer, base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape, before = recorded(case, tokenizer, monkeypatch)
    assert list(problems(tape, tmp_path / "crashed", before)) == []
    disk = Disk(tape)
    for op in tape.ops:
        disk.do(op)
    assert safe_step(disk) == (200 if case is next_one else 100)  # once a save has returned, it is safe


@pytest.mark.parametrize("left_out", ["files", "folders"])
def test_a_flush_that_is_left_out_is_noticed(
    left_out: str, tokenizer: Tokenizer, base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the test: without this the disk above might simply forget nothing."""
    tape, before = recorded(next_one, tokenizer, monkeypatch)
    theirs = tape.contents if left_out == "files" else set(tape.folders)
    tape.ops[:] = [op for op in tape.ops if op.kind != "flush" or op.inode not in theirs]
    assert next(problems(tape, tmp_path / "crashed", before), None) is not None
