"""A plan adds up, needs nothing at hand, and warns of what will not work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import config, estimate, files, launch, machine, paths, plan, planning, sizing
from nanochat_cli.core.errors import ConfigError, EnvironmentLacks, MissingArtifact
from nanochat_cli.core.settings import BaseTrainConfig, ComputeSection, ModelSection, PlanConfig


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(launch, "has_gpu", lambda: False)


def made(**flags: Any) -> dict[str, Any]:
    paths_of = {option.key: option.path for option in config.options(PlanConfig)}
    given = {paths_of[key]: str(value) for key, value in flags.items()}
    resolved = config.resolve(PlanConfig, command="train base", flags=given, env={}, project_file=Path("absent.toml"))
    return plan.make(resolved.config)


def corpus(chars: int, name: str = "books") -> None:
    folder = paths.corpus_dir(name)
    folder.mkdir(parents=True)
    shard = {"name": "a.parquet", "rows": 1, "text_bytes": chars, "bytes": 9, "sha256": "0"}
    shards = [{**shard, "split": "train", "chars": chars}, {**shard, "split": "val", "chars": 77}]
    facts = {"format": 1, "name": name, "fingerprint": "f", "shards": shards, "chats": []}
    files.write_json(folder / "manifest.json", facts)


def tokenizer(name: str = "books", vocab: int = 1000) -> None:
    folder = paths.tokenizer_dir(name)
    folder.mkdir(parents=True)
    files.write_json(folder / "tokenizer.json", {"vocab_size": vocab, "hash": "abcdef0123456789"})


def test_everything_adds_up() -> None:
    found = made(depth=20, gpus=8, num_iterations=5000, total_batch_size=2**20)
    assert json.loads(json.dumps(found)) == found
    training, data, time = found["training"], found["data"], found["time"]
    assert training["tokens"] == 5000 * 2**20
    per_pass = training["device_batch_size"] * 2048 * 8
    assert training["grad_accum_steps"] * per_pass == training["total_batch_size"] == 2**20
    assert training["flops"] == training["flops_per_token"] * training["tokens"]
    assert found["parameters"]["total"] == pytest.approx(897e6, rel=0.002)
    assert data["shards"] == 1 + -(-training["tokens"] * 45 // 10 // 250_000_000)
    disk = found["disk"]
    assert disk["total"] == disk["shards"] + disk["tokens"] + disk["checkpoints"]
    assert disk["tokens"] == 2 * training["tokens"]
    assert time["hours"] * 3600 * time["tokens_per_s"] == pytest.approx(training["tokens"])
    assert time["usd"] == pytest.approx(time["hours"] * 8 * time["usd_per_gpu_hour"])
    memory = found["memory"]
    assert memory["total"] == sum(memory["parts"].values()) < memory["usable"] < memory["limit"]
    assert memory["fits"]
    assert found["warnings"] == []


def test_steps_are_those_of_training() -> None:
    cfg = planning.with_values(PlanConfig(), "compute", gpus=8)
    cfg = planning.with_values(cfg, "model", depth=12)
    sized, net = sizing.sized(cfg, sizing.target(cfg), 32_768)
    assert plan.make(cfg)["training"]["steps"] == planning.num_iterations(sized, net)


def test_assumptions_are_told_and_can_be_replaced() -> None:
    usual = made(depth=12, gpus=1, num_iterations=1000)
    assert usual["device"] | {"name": "H100 SXM", "count": 1, "assumed": True} == usual["device"]
    assert usual["time"]["mfu"] == 0.42
    assert any("42.0 % in bf16 of 989 TFLOP/s" in line for line in usual["assumptions"])
    half = made(depth=12, gpus=1, num_iterations=1000, mfu=0.21, price=1)
    assert half["time"]["hours"] == pytest.approx(2 * usual["time"]["hours"])
    assert half["time"]["usd"] == pytest.approx(half["time"]["hours"])


def test_a_gpu_can_be_named() -> None:
    found = made(depth=12, gpu="4090", num_iterations=10)
    assert (found["device"]["name"], found["device"]["count"]) == ("GeForce RTX 4090", 1)
    assert found["model"]["max_seq_len"] == 2048
    with pytest.raises(ConfigError, match="no such GPU"):
        made(depth=12, gpu="voodoo2")


def test_the_gpu_that_is_here_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: [{"name": "NVIDIA H200", "memory_gib": 140.4, "driver": "1"}])
    found = made(depth=12, gpus=1, num_iterations=10)
    assert (found["device"]["name"], found["device"]["assumed"]) == ("NVIDIA H200", False)
    assert found["time"]["hours"] is not None
    monkeypatch.setattr(machine, "gpus", lambda: [{"name": "NVIDIA Voodoo", "memory_gib": 4.0, "driver": "1"}])
    found = made(depth=4, gpus=1, num_iterations=10)
    assert found["time"]["hours"] is found["time"]["usd"] is None
    assert any("no time can be told for NVIDIA Voodoo" in line for line in found["warnings"])


def test_a_cpu_has_no_time_until_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"arch": "portable", "depth": 1, "vocab": 256, "max_seq_len": 32, "num_iterations": 10, "compile": "off"}
    found = made(**small)
    assert found["time"]["hours"] is None
    assert any("nanochat bench train --depth 1" in line for line in found["warnings"])
    from nanochat_cli.core.train import probe

    cfg = PlanConfig()
    for key, value in (("arch", "portable"), ("depth", 1), ("max_seq_len", 32)):
        cfg = planning.with_values(cfg, "model", **{key: value})
    sized, net = sizing.sized(cfg, sizing.target(cfg), 256)
    cache = paths.cache_dir() / "probe.json"
    cpu = probe.torch.device("cpu")
    key = probe._key(net, sized.batch.device_batch_size or 0, machine.physical_cores(), cpu)
    probe._Memory(cache, key).keep({"fp32/fused": 100.0, "bf16/fused": 250.0})
    found = made(**small)
    assert found["time"]["tokens_per_s"] == 250.0
    assert found["time"]["hours"] == pytest.approx(found["training"]["tokens"] / 250 / 3600)
    assert found["time"]["usd"] is None


def test_what_does_not_fit_is_named_with_what_helps() -> None:
    rows = made(depth=34, gpus=8, device_batch_size=32, num_iterations=10)
    assert not rows["memory"]["fits"]
    assert rows["memory"]["largest_part"] == "activations"
    assert rows["memory"]["help"] == ["--device-batch-size 8"]
    assert "most of it for activations" in rows["warnings"][0]
    depth = made(depth=36, gpu="4090", num_iterations=10)
    words = " ".join(depth["memory"]["help"])
    assert "the deepest that fits" in words
    assert "more memory" in words
    fitting = int(words.split("--depth ")[1].split(",")[0])
    assert made(depth=fitting, gpu="4090", num_iterations=10)["memory"]["fits"]
    assert not made(depth=fitting + 1, gpu="4090", num_iterations=10)["memory"]["fits"]


def test_rows_left_open_are_as_many_as_fit() -> None:
    small = made(depth=24, gpu="a100-40gb", num_iterations=10)
    assert small["memory"]["fits"]
    assert small["training"]["device_batch_size"] <= small["memory"]["largest_device_batch"]


@pytest.mark.parametrize(("chars", "warns"), [(30_000_000, False), (3_000_000, True)])
def test_epochs_over_the_corpus_at_hand(chars: int, warns: bool) -> None:
    corpus(chars)
    found = made(depth=4, gpus=1, num_iterations=20, total_batch_size=2**20, vocab=65_536)
    at_hand = found["data"]["corpus"]
    assert (at_hand["name"], at_hand["estimated"], at_hand["tokens"]) == ("books", True, chars / 4.8)
    assert at_hand["epochs"] == pytest.approx(20 * 2**20 / (chars / 4.8))
    assert any("corpus books would be read" in line for line in found["warnings"]) == (at_hand["epochs"] > 3)
    assert (at_hand["epochs"] > 30) == warns


def test_a_tokenized_corpus_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(30_000_000)
    tokenizer()
    folder = paths.corpus_dir("books") / "tokens" / "abcdef012345"
    folder.mkdir(parents=True)
    entries = [{"name": "a", "num_tokens": 5_000_000}, {"name": "b", "num_tokens": 2_000_000}]
    files.write_json(folder / "manifest.json", {"splits": {"train": entries, "val": [{"num_tokens": 9}]}})
    found = made(depth=4, gpus=1, num_iterations=20)
    assert found["model"]["vocab_size"] == 1000
    assert dataclasses.asdict(PlanConfig().plan)["vocab"] is None
    assert (found["data"]["corpus"]["tokens"], found["data"]["corpus"]["estimated"]) == (7_000_000, False)
    other = made(depth=4, gpus=1, num_iterations=20, vocab=32_768)
    assert other["data"]["corpus"]["estimated"], "tokens of another vocabulary are not the tokens of this one"


def test_what_is_named_must_be_there() -> None:
    with pytest.raises(MissingArtifact, match="absent"):
        made(depth=4, gpus=1, data="absent")
    with pytest.raises(MissingArtifact, match="absent"):
        made(depth=4, gpus=1, tokenizer="absent")


def test_characters_in_a_token_grow_with_the_vocabulary() -> None:
    assert plan.chars_per_token(65_536) == 4.8
    assert plan.chars_per_token(32_768) == 4.5
    sizes = [plan.chars_per_token(2**power) for power in range(8, 18)]
    assert sizes == sorted(sizes)
    assert sizes[0] >= 1


def test_a_model_that_cannot_fit_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    small = sizing.Target(name="a small box", on_gpu=False, count=1, memory_bytes=2 * estimate.GIB, device=None)
    monkeypatch.setattr(sizing, "target", lambda cfg, gpu=None: small)
    asked = BaseTrainConfig(model=ModelSection(depth=20, max_seq_len=256), compute=ComputeSection(gpus=0))
    net = planning.model_shape(asked, vocab_size=32_768, max_seq_len=256)
    settled = planning.by_scaling_rules(planning.with_values(asked, "model", n_embd=net.n_embd, n_head=net.n_head), net)
    with pytest.raises(
        EnvironmentLacks, match=r"depth 20 does not fit: about .* GiB .*optimizer .*, and a small box has"
    ) as found:
        plan.refuse_what_cannot_fit(settled, asked)
    assert found.value.hint and "--depth 6" in found.value.hint, found.value.hint
    plan.refuse_what_cannot_fit(planning.with_values(settled, "model", depth=2, n_embd=128, n_head=1), asked)


@pytest.mark.parametrize(("depth", "gpus"), [(12, 1), (20, 8), (26, 8)])
def test_rows_that_are_left_open_fill_a_gpu(depth: int, gpus: int) -> None:
    cfg = BaseTrainConfig(model=ModelSection(depth=depth), compute=ComputeSection(gpus=gpus))
    sized, net = sizing.sized(cfg, sizing.target(cfg, "h100"), 32_768)
    rows = sized.batch.device_batch_size
    assert rows is not None and 16 <= rows <= 65_536 // net.max_seq_len
    assert sized.batch.total_batch_size is not None
    assert sized.batch.total_batch_size % (rows * net.max_seq_len * gpus) == 0
