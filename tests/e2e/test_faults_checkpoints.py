"""Random damage to any file of a checkpoint is found, named, and survived by going back one."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from nanochat_cli.core import checkpoint, events, runs, stepdirs
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

SEED = int(os.environ.get("NANOCHAT_FAULT_SEED", "0"))


@pytest.fixture
def stage(base_dir: Path) -> Path:
    """A stage with two whole checkpoints, of steps 1 and 2."""
    tokenizer = Tokenizer.train(["a cat and a dog and a bird " * 8], 275)
    shape = from_depth(1, tokenizer.vocab_size, 16, n_embd=16)
    folder = runs.stage_dir("r", "base")
    for step in (1, 2):
        weights = build(shape).state_dict()
        weights["head.weight"] = torch.full_like(weights["head.weight"], float(step))
        record = {"model": dataclasses.asdict(shape), "tokenizer": {"hash": tokenizer.hash}, "step": step}
        optim = {"m": torch.full((3,), float(step))}
        checkpoint.save(
            folder, step, weights=weights, optim=optim, config=record, state={"at": step}, tokenizer=tokenizer
        )
    return folder


def damage(step: Path, draw: random.Random) -> tuple[str, set[str]]:
    """Damage one random file of a step folder; return how, and the names of which a message may give one."""
    listed = sorted(path for path in step.rglob("*") if path.is_file())
    path = draw.choice(listed)
    how = draw.choice(["bit", "cut", "delete", "extra", "swap", "swap steps", "grow"])
    content = path.read_bytes()
    named = {path.name}
    if how == "bit":
        at = draw.randrange(len(content) * 8)
        path.write_bytes(content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :])
    elif how == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif how == "grow":
        path.write_bytes(content + draw.randbytes(draw.randint(1, 9)))
    elif how == "delete":
        path.unlink()
    elif how == "extra":
        extra = path.parent / draw.choice(["notes.txt", "model.safetensors.bak", "more.safetensors", "x.pt"])
        extra.write_bytes(draw.randbytes(20))
        named = {extra.name}
    elif how == "swap":
        other = draw.choice([found for found in listed if found != path])
        named |= {other.name}
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:  # the file of the same name from another step
        theirs = step.with_name("step-000001") / path.relative_to(step)
        if theirs.read_bytes() == content:
            return damage(step, draw)
        path.write_bytes(theirs.read_bytes())
        named |= {runs.MANIFEST, "model.safetensors", "config.json"}
    return f"{how} {path.relative_to(step)}", named


def check(stage: Path, times: int) -> None:
    draw = random.Random(SEED)
    whole = stage.parent / "whole"
    shutil.copytree(stage, whole)
    for number in range(times):
        shutil.rmtree(stage)
        shutil.copytree(whole, stage)
        how, named = damage(stage / "step-000002", draw)
        told: list[events.Event] = []
        loaded = checkpoint.load(stage, log=events.Listener(told.append))
        text = " ".join(event["text"] for event in told)
        assert loaded.step == 1 and loaded.weights["head.weight"].eq(1).all(), (number, how)
        assert "step 2 cannot be used" in text and "going back to step 1" in text, (number, how)
        assert any(name in text for name in named), (number, how, text)
        with pytest.raises(NanochatError):
            stepdirs.verify(stage / "step-000002")


def test_random_damage_is_found_and_the_step_before_is_used(stage: Path) -> None:
    check(stage, 60)


@pytest.mark.slow
def test_three_hundred_random_damages(stage: Path) -> None:
    check(stage, 300)
