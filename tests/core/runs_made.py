"""Run folders as training leaves them, made by hand in milliseconds: sealed checkpoints of a few bytes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from nanochat_cli.core import config, files, run_lineage, runs, stepdirs
from nanochat_cli.core.settings import WORKER_CONFIGS


def write_step(
    folder: Path, step: int, *, parent: dict[str, Any] | None = None, salt: str = "", **config_facts: Any
) -> Path:
    """Publish a sealed checkpoint whose weights are a few bytes that none elsewhere, or with another salt, has."""
    final = stepdirs.step_dir(folder, step)
    staged = files.staging_dir(final)
    (staged / run_lineage.WEIGHTS).write_bytes(f"weights of {folder}/{step}{salt}".encode())
    (staged / "optim.safetensors").write_bytes(f"moments of {folder}/{step}".encode())
    facts = {"version": "0.1.0", "torch": "2.9", "config": started(folder.name)["config"], "model": {"n_layer": 2}}
    facts |= {"tokenizer": {"hash": "a" * 64, "vocab_size": 300}, "data": {"fingerprint": "f" * 64}, "world": 1}
    facts |= {"num_steps": 100, "tokens_per_step": 512, "execution": {"dtype": "fp32"}}
    files.write_json(staged / "config.json", facts | ({"parent": parent} if parent else {}) | config_facts)
    files.write_json(staged / "state.json", {"step": step, "metrics": {"val_bpb": 1.0 / step}, "seconds": 2.0 * step})
    (staged / "tokenizer").mkdir()
    (staged / "tokenizer" / "tokenizer.json").write_text("{}")
    stepdirs.seal(staged, step=step, tokenizer_hash="a" * 64)
    stepdirs.publish(staged, final)
    return final


def started(stage: str, **sections: dict[str, Any]) -> dict[str, Any]:
    tree = config.to_dict(WORKER_CONFIGS[stage]())
    for section, values in sections.items():
        tree[section] |= values
    return {"format": 1, "stage": stage, "command": f"nanochat train {stage}", "config": tree}


def make(
    run: str,
    stage: str,
    *steps: int,
    parent: tuple[str, str, int] | None = None,
    end: dict[str, Any] | None = None,
    at: float | None = None,
    bpb: dict[int, float] | None = None,
    **sections: dict[str, Any],
) -> Path:
    """Make a stage with checkpoints and a history that ends with the event `end`, at the time `at`."""
    runs.create(run)
    folder = files.make_dir(runs.stage_dir(run, stage), "the stage")
    record = None
    if parent is not None:
        digest = run_lineage.weights_hash(*parent)
        record = {"run": parent[0], "stage": parent[1], "step": parent[2], "weights_sha256": digest}
        sections.setdefault("source", {"run": parent[0], "source": parent[1], "step": parent[2]})
    files.write_json(folder / "config.json", {**started(stage, **sections), "run": run})
    for step in steps:
        write_step(folder, step, parent=record, config=started(stage, **sections)["config"])
    now = time.time() if at is None else at
    events = [{"kind": "stage", "time": now, "name": stage}]
    for step in steps:
        events.append({"kind": "step", "time": now, "step": step, "num_steps": 100, "loss": 1.0})
        if bpb and step in bpb:
            events.append({"kind": "eval", "time": now, "step": step, "metric": "val_bpb", "value": bpb[step]})
    events += [{"time": now, **end}] if end else []
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if end and end["kind"] == "done":
        files.write_json(folder / "result.json", {"step": steps[-1], "val_bpb": 0.5})
    return folder
