"""The four stages on a tiny corpus, each from its config to a published checkpoint, stopped and resumed on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_cli.core import checkpoint, config, events, files, paths, planning, runs, stepdirs
from nanochat_cli.core.data.shards import CorpusWriter
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError, NanochatError
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import BaseTrainConfig, MidTrainConfig, RlConfig, SftConfig
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import base, mid, rl, sft
from tests.core.train.conftest import SENTENCES

HERE = Dist()
COMMON = {"compute": {"gpus": 0, "precision": "fp32", "attention": "fused", "compile": "off", "seed": 4}}
BATCH = {"batch": {"total_batch_size": 256, "device_batch_size": 4}}
STAGES: dict[str, tuple[Any, Any, dict[str, dict[str, Any]]]] = {
    "base": (
        base,
        BaseTrainConfig(),
        {
            **BATCH,
            "corpus": {"data": "small"},
            "output": {"run": "r"},
            "model": {"depth": 1, "n_embd": 32, "n_head": 2, "max_seq_len": 64},
            "horizon": {"num_iterations": 6},
            "eval": {"eval_every": 3, "sample_every": 6},
        },
    ),
    "mid": (mid, MidTrainConfig(), {**BATCH, "horizon": {"num_iterations": 4}}),
    "sft": (sft, SftConfig(), {**BATCH, "horizon": {"num_iterations": 4}}),
    "rl": (
        rl,
        RlConfig(),
        {
            "rl": {
                "task": "tinyworld", "families": ("add-1",), "num_iterations": 3, "prompts_per_step": 2,
                "num_samples": 2, "max_new_tokens": 4, "eval_examples": 3,
            },
            "chats": {"data": ("small",)},
        },
    ),
}  # fmt: skip


@pytest.fixture
def corpus(base_dir: Path) -> Path:
    """A corpus with chats and its tokenizer."""
    texts = [f"{s}{s}number {i}. " for i in range(40) for s in SENTENCES]
    chats = "".join(
        json.dumps(
            {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i} it is."}]}
        )
        + "\n"
        for i in range(120)
    )
    with CorpusWriter("small", val_fraction=0.2) as writer:
        for text in texts:
            writer.add(text)
    folder = paths.corpus_dir("small")
    (folder / "chats").mkdir(exist_ok=True)
    for stage in ("mid", "sft"):
        (folder / "chats" / f"{stage}.jsonl").write_text(chats)
    Tokenizer.train(texts + chats.splitlines(), 320).save(paths.tokenizer_dir("small"))
    return folder


def train(
    stage: str, *, log: events.Log = events.NULL, resume: bool = False, **changes: dict[str, Any]
) -> dict[str, Any]:
    """Plan and run a stage in this process."""
    module, cfg, values = STAGES[stage]
    sections = {**COMMON, **values, **changes}
    for section, options in sections.items():
        cfg = planning.with_values(cfg, section, **{**values.get(section, {}), **options})
    job = planning.make(stage, cfg, resume=resume, command=f"nanochat train {stage}")
    runs.create(job.run)
    job.dir.mkdir(parents=True, exist_ok=True)
    files.write_json(job.dir / "config.json", {"config": config.to_dict(job.config)})
    return module.run(job.config, RunContext(job.run, stage, job.dir, resume, job.command), HERE, log)


def hear() -> tuple[list[events.Event], events.Log]:
    heard: list[events.Event] = []
    return heard, events.Listener(heard.append)


def told(heard: list[events.Event], kind: str) -> list[events.Event]:
    return [event for event in heard if event["kind"] == kind]


def weights(stage: str, run: str = "r") -> str:
    folder = runs.stage_dir(run, stage)
    return files.sha256_file(stepdirs.step_dir(folder, runs.checkpoint_steps(folder)[-1]) / "model.safetensors")


def test_from_text_to_practice(corpus: Path) -> None:
    heard, log = hear()
    outcome = train("base", log=log)
    values = [e["value"] for e in told(heard, "eval") if e["metric"] == "val_bpb"]
    assert len(values) == 3 and values[-1] < values[0] and outcome["val_bpb"] == values[-1]
    assert told(heard, "sample")[0]["prompt"] and told(heard, "saved")[0]["step"] == 6
    for stage, parent in (("mid", "base"), ("sft", "mid"), ("rl", "sft")):
        heard, log = hear()
        outcome = train(stage, log=log)
        model, tokenizer, meta = checkpoint.load_model(checkpoint.find("r", stage))
        assert (meta.config["parent"]["stage"], meta.config["parent"]["weights_sha256"]) == (parent, weights(parent))
        assert meta.config["tokenizer"]["hash"] == tokenizer.hash
        assert model.config.n_embd == 32 and outcome["step"] == meta.step
        assert weights(stage) != weights(parent)
    assert {e["metric"] for e in told(heard, "eval")} == {"accuracy", "pass@1", "pass@2", "held_out_reward"}
    assert all(0 <= outcome[f"accuracy_{when}"] <= 1 for when in ("before", "after"))


@pytest.mark.parametrize("stage", ["base", "mid", "sft", "rl"])
def test_a_stopped_stage_ends_with_the_same_bits(corpus: Path, stage: str) -> None:
    if stage != "base":
        train("base")
    train(stage)
    straight = weights(stage)
    shutil.rmtree(runs.stage_dir("r", stage))
    runs.stage_dir("r", stage).mkdir()
    (runs.stage_dir("r", stage) / "stop").touch()
    assert train(stage) == {"stopped": 1}
    (runs.stage_dir("r", stage) / "stop").unlink()
    heard, log = hear()
    train(stage, log=log, resume=True)
    assert told(heard, "resumed")[0]["step"] == 1
    assert weights(stage) == straight


def test_resuming_before_anything_was_saved_starts_over(corpus: Path) -> None:
    train("base")
    straight = weights("base")
    for step in runs.checkpoint_steps(runs.stage_dir("r", "base")):
        shutil.rmtree(stepdirs.step_dir(runs.stage_dir("r", "base"), step))
    heard, log = hear()
    train("base", log=log, resume=True)
    assert "nothing was saved yet" in " ".join(e["text"] for e in told(heard, "note")) and weights("base") == straight
    assert [e["step"] for e in told(heard, "resumed")] == [0], "the history must not hold the lost steps twice"


def test_resuming_a_finished_stage_measures_and_trains_nothing(corpus: Path) -> None:
    outcome = train("base")
    before = weights("base")
    heard, log = hear()
    again = train("base", log=log, resume=True)
    assert told(heard, "step") == [] and weights("base") == before
    assert (again["val_bpb"], again["tokens"], again["loss"]) == (
        outcome["val_bpb"],
        outcome["tokens"],
        outcome["loss"],
    )


def test_what_changed_under_a_resumed_run_is_named(corpus: Path) -> None:
    train("base")
    other = Tokenizer.train(["something else entirely, again and again. " * 9], 290)
    other.save(paths.tokenizer_dir("small"), replace=True)
    with pytest.raises(NanochatError, match="is not the one this checkpoint was trained with"):
        train("base", resume=True)


def test_chat_data_that_changed_under_a_resumed_run_is_named(corpus: Path) -> None:
    train("base")
    train("sft")
    file = corpus / "chats" / "sft.jsonl"
    file.write_text(file.read_text().replace("it is", "it was"))
    with pytest.raises(ConfigError, match="data differs"):
        train("sft", resume=True)


def test_mid_trains_on_every_token_and_sft_on_the_reply_only(corpus: Path) -> None:
    train("base")
    targets = {}
    for stage in ("mid", "sft"):
        heard, log = hear()
        train(stage, log=log)
        targets[stage] = sum(e["targets"] for e in told(heard, "step")) / sum(
            e["tokens"] for e in told(heard, "step")[-1:]
        )
    assert targets["mid"] > 0.7 and 0.1 < targets["sft"] < 0.6 * targets["mid"]


def test_weights_of_sources_repeat_and_thin_out(corpus: Path) -> None:
    train("base")
    file = corpus / "chats" / "sft.jsonl"
    counts = {}
    for weight in ("", ":3", ":0.5"):
        shutil.rmtree(runs.stage_dir("r", "sft"), ignore_errors=True)
        train("sft", chats={"data": (f"{file}{weight}",)})
        counts[weight] = checkpoint.load(runs.stage_dir("r", "sft")).config["data"]["conversations"]
    assert counts == {"": 118, ":3": 354, ":0.5": 59}


def test_a_resumed_run_computes_as_it_did(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = {"gpus": 0, "precision": "auto", "attention": "auto", "compile": "off"}
    from nanochat_cli.core.train import probe, stage

    asked = []

    def choose(config: Any, **options: Any) -> probe.Execution:
        asked.append(options["requested"])
        r = options["requested"]
        return probe.Execution(
            dtype="fp32" if r.precision == "auto" else r.precision,
            attention="matmul" if r.attention == "auto" else r.attention,
            compile=False,
        )

    monkeypatch.setattr(stage.probe, "choose", choose)
    torch.use_deterministic_algorithms(False)
    train("base", compute=auto)
    train("base", compute=auto, resume=True)
    assert [(r.precision, r.attention) for r in asked] == [("auto", "auto"), ("fp32", "matmul")]
    assert torch.are_deterministic_algorithms_enabled()  # compiled code is not repeatable without it


def test_a_compiler_that_fails_in_training_is_recorded(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanochat_cli.core.train import probe, stage

    def choose(config: Any, **options: Any) -> probe.Execution:
        return probe.Execution(dtype="fp32", attention="matmul", compile=True, kernel="torch x")

    def broken(*args: Any, **kwargs: Any) -> Any:
        def fail(*args: Any) -> Any:
            raise RuntimeError("g++ said no\nand more")

        return fail

    monkeypatch.setattr(stage.probe, "choose", choose)
    monkeypatch.setattr(torch, "compile", broken)
    train("base", compute={"gpus": 0, "precision": "auto", "attention": "auto", "compile": "auto"})
    folder = runs.stage_dir("r", "base")
    why = "compiling failed: RuntimeError: g++ said no"
    for told in (checkpoint.load(folder).config["execution"], json.loads((folder / "execution.json").read_text())):
        assert (told["compile"], told["eager_because"], told["kernel"]) == (False, why, "torch x")
    from nanochat_cli.core.report import gather, stages

    record = gather.read_run(folder.parent).stage("base")
    assert record is not None
    assert stages.execution(record) == f"fp32, matmul attention (torch x), not compiled ({why})"
