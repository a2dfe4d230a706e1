"""A run folder as the stages leave it, made up but complete."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import config
from nanochat_cli.core.eval.intervals import wilson
from nanochat_cli.core.settings import WORKER_CONFIGS

EVIL = '<script>alert("x")</script> | `code` **bold** [link](http://bad.example) \x1b[31m \u202e'
START = 1_795_255_200.0

FAMILIES = {
    "addition": (200, 198, None),
    "subtraction": (200, 195, None),
    "spelling": (200, 193, None),
    "letter count": (200, 175, 66),
    "facts": (180, 171, None),
    "next number": (200, 182, None),
    "story": (200, 158, 124),
    "story/who, never moved": (60, 34, 33),
    "story/who, moved": (60, 52, 20),
    "story/where": (80, 72, 71),
}


def counts(total: int, correct: int, shortcut: int | None = None, majority: int | None = 9) -> dict[str, Any]:
    low, high = wilson(correct, total)
    return {
        "total": total, "correct": correct, "well_formed": total, "majority": majority, "shortcut": shortcut,
        "accuracy": correct / total, "low": low, "high": high,
    }  # fmt: skip


def noise(step: int) -> float:
    return math.sin(step * 12.9898) * 0.5 + math.sin(step * 4.1414) * 0.5


def training(stage: str, start: float, num_steps: int, first: float, last: float, speed: float) -> list[dict[str, Any]]:
    """Events of one stage: a falling loss, three evaluations, two samples."""
    out: list[dict[str, Any]] = [{"kind": "stage", "time": start, "name": stage, "purpose": "learns"}]
    out.append({"kind": "note", "time": start + 1, "text": "tokens built in 4 s"})
    for step in range(1, num_steps + 1):
        level = last + (first - last) * math.exp(-6 * step / num_steps)
        time = start + 3 + step * 4096 / speed
        out.append({
            "kind": "step", "time": time, "step": step, "num_steps": num_steps, "loss": level, "grad_norm": 1.0,
            "raw_loss": level * (1 + 0.06 * noise(step)), "tokens_per_s": speed * (1 + 0.1 * noise(step)),
            "tokens": step * 4096, "lr_mult": 1.0,
        })  # fmt: skip
        if step % (num_steps // 4) == 0:
            bpb = 0.35 + (first - last) / 8 * math.exp(-4 * step / num_steps)
            out.append({"kind": "eval", "time": time, "step": step, "metric": "val_bpb", "value": bpb})
    for prompt, text in (("The lamp", "belongs to Ruby. Ruby gives the lamp to Sara."), ("", EVIL)):
        out.append({"kind": "sample", "time": time, "step": num_steps, "prompt": prompt, "text": text})
    out.append({"kind": "done", "time": time + 1, "step": num_steps})
    return out


def graded_task(split: str, scale: float) -> dict[str, Any]:
    families = {name: counts(n, round(c * scale), trick) for name, (n, c, trick) in FAMILIES.items()}
    whole = [families[name] for name in families if "/" not in name]
    everything = counts(sum(f["total"] for f in whole), sum(f["correct"] for f in whole))
    return {"task": "tinyworld", "split": split, "held_out": True, "families": families, "all": everything}


def evaluation(stage: str, scale: float) -> dict[str, Any]:
    return {
        "format": 1,
        "run": "demo",
        "stage": stage,
        "step": 100,
        "command": "nanochat eval --run demo",
        "num_params": 1_048_576,
        "bpb": {"val": {"bpb": 0.3512, "bytes": 10000, "tokens": 4000}},
        "tasks": [graded_task("test", scale), graded_task("wording", 0.8 * scale)],
    }


def practice() -> list[dict[str, Any]]:
    """What reinforcement learning tells about itself, before and after."""
    told = {"kind": "eval", "time": START, "metric": "accuracy", "total": 200, "families": ["choice"]}
    return [{**told, "step": 0, "correct": 90, "value": 0.45}, {**told, "step": 40, "correct": 150, "value": 0.75}]


def predictions() -> list[dict[str, Any]]:
    def one(family: str, question: str, reply: str, correct: bool, reference: str) -> dict[str, Any]:
        return {
            "task": "tinyworld", "split": "test", "item": 1, "family": family, "correct": correct, "reply": reply,
            "prompt": [{"role": "user", "content": question}], "reference": reference, "well_formed": True,
        }  # fmt: skip

    return [
        one("addition", "What is 27 + 45?", "27+45: 7+5=12, 2+4+1=7, 72.", True, "72"),
        one("spelling", "How do you spell carrot?", "carrot: c a r r o t.", True, "carrot: c a r r o t."),
        one("story/where", "Max walks to the park. Then Max walks to the barn. Where is Max?",
            "Max: park, barn. Max is in the barn.", True, ""),
        one("facts", EVIL, EVIL, True, EVIL),
        one("letter count", "How many r are in carrot?", "r in carrot: c0 a0 r1 r1 o1 t1, 1.", False, "2"),
    ]  # fmt: skip


def write_stage(run: Path, stage: str, history: list[dict[str, Any]], command: str, **options: Any) -> None:
    folder = run / stage
    folder.mkdir(parents=True)
    tree = config.to_dict(WORKER_CONFIGS[stage]())
    for path, value in options.items():
        section, key = path.split("__")
        tree[section][key] = value
    saved = {"format": 1, "version": "0.1.0", "stage": stage, "run": run.name, "command": command, "config": tree}
    (folder / "config.json").write_text(json.dumps(saved))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in history))
    kernels = {"dtype": "bf16", "attention": "matmul", "compile": True, "tokens_per_s": {}}
    (folder / "execution.json").write_text(json.dumps(kernels))
    step_dir = folder / f"step-{40:06d}"
    step_dir.mkdir()
    made_of = {
        "version": "0.1.0", "torch": "2.15.0",
        "tokenizer": {"hash": "ab" * 32, "vocab_size": 1024},
        "model": {"arch": "portable", "n_layer": 4, "n_embd": 128},
        "data": {"corpus": "tiny", "fingerprint": "cd" * 32},
    }  # fmt: skip
    (step_dir / "config.json").write_text(json.dumps(made_of))
    last = [event for event in history if event["kind"] == "step"][-1]
    (folder / "result.json").write_text(json.dumps({"seconds": 99.0, "step": last["step"], "tokens": last["tokens"]}))


@pytest.fixture()
def evil() -> str:
    """Text that tries to be markup, a link, a terminal command and a change of direction."""
    return EVIL


@pytest.fixture()
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a whole run and returns its folder."""

    def make(stages: tuple[str, ...] = ("base", "mid", "sft", "rl"), graded: tuple[str, ...] = ("sft", "rl")) -> Path:
        run = tmp_path / "runs" / "demo"
        run.mkdir(parents=True)
        machine = {
            "cpu": "Example CPU 9000",
            "cores": 2,
            "memory_gib": 23.0,
            "gpus": [],
            "system": "Linux x86_64",
            "python": "3.11.9",
        }
        (run / "run.json").write_text(json.dumps({"format": 1, "name": "demo", "created": START, "machine": machine}))
        sizes = {"base": (1200, 6.9, 0.82), "mid": (120, 1.2, 0.55), "sft": (200, 0.9, 0.21), "rl": (40, 0.2, 0.18)}
        start = START
        for stage in stages:
            num_steps, first, last = sizes[stage]
            history = training(stage, start, num_steps, first, last, 40_000)
            if stage == "base":
                history.insert(600, {"kind": "warning", "time": start + 60, "text": f"odd line in {EVIL}"})
            if stage == "rl":
                history = [e for e in history if e["kind"] != "eval"] + practice()
            write_stage(run, stage, history, f"nanochat train {stage} --run demo", compute__seed=7)
            start = max(event["time"] for event in history) + 5
        for stage in graded:
            (run / "eval").mkdir(exist_ok=True)
            (run / "eval" / f"{stage}.json").write_text(json.dumps(evaluation(stage, 0.98 if stage == "sft" else 1)))
            lines = "".join(json.dumps(p) + "\n" for p in predictions())
            (run / "eval" / f"{stage}.jsonl").write_text(lines + '{"torn')
        return run

    return make
