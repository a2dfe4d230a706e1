"""The benchmark makes real steps, times them honestly, and ends when asked to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_cli.core import benchmark, devices, files, paths
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import MissingArtifact
from nanochat_cli.core.events import Listener
from nanochat_cli.core.models import shape
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import BatchSection, BenchSection, BenchTrainConfig, ComputeSection, ModelSection
from nanochat_cli.core.train import bench, loop, stage
from nanochat_cli.core.train.schedule import Schedule
from tests.core.train.conftest import MakeJob

TINY = BenchTrainConfig(
    bench=BenchSection(steps=3, vocab=256),
    model=ModelSection(arch="portable", depth=1, n_embd=32, n_head=2, max_seq_len=16),
    batch=BatchSection(total_batch_size=128, device_batch_size=4),
    compute=ComputeSection(gpus=0, threads=1, precision="fp32", attention="fused", compile="off"),
)


def context(folder: Path) -> RunContext:
    folder.mkdir(parents=True, exist_ok=True)
    return RunContext("bench-train", "bench", folder, False, "nanochat bench train")


def test_three_steps_of_a_tiny_model(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    found = bench.run(TINY, context(tmp_path / "b"), Dist(), Listener(seen.append))
    net = shape.from_depth(1, vocab_size=256, max_seq_len=16, n_embd=32, n_head=2)
    assert found["steps"] == 3
    assert 0 < found["tokens_per_s"] <= found["best_tokens_per_s"]
    assert found["flops_per_token"] == shape.flops_per_token(net)
    assert found["parameters"] == shape.num_params(net)
    assert 0 <= found["data_stall"] < 1
    assert found["compile_s"] >= 0
    assert found["peak_memory_bytes"] > found["estimated_memory_bytes"] > 4 * shape.num_params(net)
    assert (found["precision"], found["attention"], found["compiled"]) == ("fp32", "fused", False)
    assert found["mfu"] is found["peak_tflops"] is None
    assert [e["done"] for e in seen if e.get("task") == "timing"] == [1, 2, 3, 4, 5]


def test_speed_and_mfu_are_those_of_the_timed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    net = shape.from_depth(12, 32_768, 2048, arch="nanochat")
    h100 = devices.named("h100")
    monkeypatch.setattr(stage, "gpu_of", lambda device: h100)
    timed = [bench.Timed(seconds, 0.1, 1_000_000) for seconds in (1.0, 2.0, 4.0)]
    found = bench._speed(net, timed, [bench.Timed(62.0, 0.0, 1_000_000)], Dist(world=4))
    assert (found["tokens_per_s"], found["best_tokens_per_s"], found["step_ms"]) == (500_000, 1_000_000, 2000)
    assert found["compile_s"] == 60.0
    assert found["data_stall"] == pytest.approx(0.3 / 7, abs=1e-5)
    assert found["mfu"] == pytest.approx(devices.mfu(shape.flops_per_token(net), 500_000, h100, 4), abs=1e-4)
    assert found["best_mfu"] == pytest.approx(2 * found["mfu"], abs=2e-4)


def test_random_rows_are_divided_among_ranks() -> None:
    rows = bench.RandomRows(50, 8, 10, seed=3)
    whole = torch.cat([x for x, _ in rows.step(0)])
    parts = [x for rank in range(3) for x, _ in rows.step(5, rank, 3, 2)]
    assert torch.equal(torch.cat(parts), whole)
    assert max(map(len, parts)) == 2
    x_BT, y_BT = rows.step(0)[0]
    assert torch.equal(x_BT[:, 1:], y_BT[:, :-1])
    assert (int(whole.min()) >= 0, int(whole.max()) < 50) == (True, True)


def test_asked_to_stop_before_the_first_timed_step(tmp_path: Path) -> None:
    here = context(tmp_path / "b")
    (here.dir / "stop").touch()
    seen: list[dict[str, Any]] = []
    assert bench.run(TINY, here, Dist(), Listener(seen.append)) == {"stopped": 0}
    assert seen[-1]["kind"] == "stopped"


def test_asked_to_stop_on_the_way_it_reports_what_it_has(tmp_path: Path) -> None:
    here = context(tmp_path / "b")

    def stop_after_four(event: dict[str, Any]) -> None:
        if event.get("task") == "timing" and event["done"] == 4:
            (here.dir / "stop").touch()

    assert bench.run(TINY, here, Dist(), Listener(stop_after_four))["steps"] == 2


def test_the_plan_works_in_the_cache_with_every_size_settled() -> None:
    job = benchmark.make(BenchTrainConfig(model=ModelSection(arch="portable", depth=2), compute=ComputeSection(gpus=0)))
    assert paths.cache_dir() in job.dir.parents
    assert (job.config.bench.vocab, job.config.model.max_seq_len) == (32_768, 256)
    batch = job.config.batch
    assert batch.total_batch_size % (256 * batch.device_batch_size) == 0


def test_a_corpus_needs_a_tokenizer() -> None:
    cfg = BenchTrainConfig(bench=BenchSection(data="books"), model=TINY.model, compute=TINY.compute)
    for name in ("other", "more"):
        paths.corpus_dir(name).mkdir(parents=True)
        files.write_json(paths.corpus_dir(name) / "manifest.json", {})
    with pytest.raises(MissingArtifact, match="no corpus named: books") as caught:
        benchmark.make(cfg)
    assert caught.value.hint == "corpora: more, other"
    with pytest.raises(MissingArtifact, match="no tokenizer yet"):
        benchmark.make(dataclasses.replace(cfg, bench=BenchSection(data="other")))


def test_training_steps_tell_their_mfu_on_a_known_gpu(make_job: MakeJob) -> None:
    def steps(folder: str, **known: Any) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        job = make_job(folder, num_steps=2, schedule=Schedule(num_steps=2), flops_per_token=1e9, **known)
        loop.train(job, Dist(), Listener(seen.append))
        return [event for event in seen if event["kind"] == "step"]

    h100 = devices.named("h100")
    for event in steps("known", gpu=h100):
        assert event["mfu"] == devices.mfu(1e9, event["tokens_per_s"], h100, 1)
    assert all("mfu" not in event for event in steps("unknown"))
    assert stage.gpu_of(torch.device("cpu")) is None
