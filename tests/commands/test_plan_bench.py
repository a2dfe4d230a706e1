"""`nanochat plan` and `nanochat bench train` as a person uses them."""

from __future__ import annotations

import json
import signal
import sys
from io import StringIO
from typing import Any

import pytest

from nanochat_cli.commands import _sizes
from nanochat_cli.commands import bench as command
from nanochat_cli.core import paths
from nanochat_cli.output import Output, step_figures
from tests.conftest import Cli, spawn, wait_for

TINY = ("--arch", "portable", "--depth", "1", "--vocab", "256", "--max-seq-len", "16", "--total-batch-size", "64")
PLAIN = ("--gpus", "0", "--threads", "1", "--precision", "fp32", "--attention", "fused", "--compile", "off")


def test_plan_needs_nothing_and_writes_nothing(cli: Cli) -> None:
    done = cli("plan", "--depth", "20", "--gpus", "8", "--gpu", "h100")
    assert done.returncode == 0, done.stderr
    for words in ("nanochat, depth 20: width 1,280", "block matrices", "value embeddings", "memory per GPU"):
        assert words in done.stdout
    for words in ("8 x H100 SXM", "FLOPs a token", "shards", "tok/s in FP8", "$3.00 for a GPU-hour", "assumed"):
        assert words in done.stdout
    assert not paths.base_dir().exists()


def test_plan_as_json(cli: Cli) -> None:
    done = cli("plan", "--depth", "12", "--gpus", "2", "--gpu", "a100", "--num-iterations", "100", "--json")
    found = json.loads(done.stdout)
    assert list(found) == [
        "model",
        "parameters",
        "training",
        "data",
        "disk",
        "device",
        "memory",
        "time",
        "assumptions",
        "warnings",
    ]
    assert found["parameters"]["total"] == 286_261_730
    assert found["training"]["flops_per_token"] == pytest.approx(7.60e8, rel=1e-3)
    assert found["device"]["name"] == "A100 80 GB"
    assert found["time"]["fp8"] is False


def test_plan_warns_of_what_does_not_fit(cli: Cli) -> None:
    done = cli("plan", "--depth", "34", "--gpus", "8", "--gpu", "h100", "--device-batch-size", "32")
    assert done.returncode == 0
    assert "warning: does not fit" in done.stderr
    assert "--device-batch-size 8" in done.stderr


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["plan", "--gpu", "voodoo2"], "no such GPU in our table: voodoo2"),
        (["plan", "--mfu", "42"], "plan.mfu must be at most 1 (--mfu): 42"),
        (["bench", "train", "--steps", "0"], "bench.steps must be at least 1 (--steps): 0"),
        (["bench", "train", "--data", "absent"], "no corpus named: absent"),
        (["plan", "--gpus", "1000000"], "compute.gpus must be at most 1024 (--gpus): 1000000"),
        (["train", "base", "--nnodes", "1000000"], "cluster.nnodes must be at most 10000 (--nnodes): 1000000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(cli: Cli, argv: list[str], error: str) -> None:
    done = cli(*argv)
    assert done.returncode in (2, 3)
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {error}"), done.stderr


def test_bench_train_on_a_cpu(cli: Cli) -> None:
    done = cli("bench", "train", *TINY, *PLAIN, "--steps", "3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["steps"], found["precision"], found["attention"]) == (3, "fp32", "fused")
    assert found["tokens_per_s"] > 0
    assert found["mfu"] is None
    assert "asked_to_stop" not in found
    assert not paths.runs_dir().exists()


def test_ctrl_c_ends_the_benchmark_with_what_it_has() -> None:
    process = spawn("bench", "train", *TINY, *PLAIN, "--steps", "1000000", "--json")
    log = paths.cache_dir() / "bench" / "train" / "execution.json"
    wait_for(log, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130), said
    assert "stopping after this step" in said
    assert "Traceback" not in said


def test_the_formula_is_spelled_out() -> None:
    shown = {"arch": "nanochat", "depth": 12, "parameters": 286_261_730, "gpus": 2, "processes": 2, "threads": 8}
    shown |= {"device": "NVIDIA H100 80GB HBM3", "total_batch_size": 524_288, "device_batch_size": 32}
    shown |= {"max_seq_len": 2048, "data": "random tokens", "precision": "bf16", "attention": "fa3", "compiled": True}
    speed = {"tokens_per_s": 1_000_000.0, "best_tokens_per_s": 1_100_000.0, "step_ms": 524.3, "steps": 30}
    speed |= {"flops_per_token": 760_000_000, "tflops": 760.0, "peak_tflops": 989.0, "mfu": 0.3842, "best_mfu": 0.4227}
    speed |= {"peak_memory_bytes": 25 * 10**9, "peak_memory_of": "GPU", "data_stall": 0.004, "compile_s": 61.0}
    out = StringIO()
    command.show({**shown, **speed, "choosing_s": 40.0, "execution": {"fp8": True}}, Output(out=out, err=sys.stderr))
    assert (
        "MFU          38.4 %, best 42.3 % = 7.6e+08 FLOPs/token x 1,000,000 tok/s / (989 TFLOP/s x 2)" in out.getvalue()
    )
    assert "bf16 with FP8 products, attention fa3, compiled" in out.getvalue()
    assert "0.4 % of the time" in out.getvalue()


def test_progress_shows_mfu_where_it_is_known() -> None:
    event = {"kind": "step", "loss": 2.0, "tokens_per_s": 1000.0, "mfu": 0.4213, "eta_s": 5.0}
    assert step_figures(event) == ["loss 2.0000", "1,000 tok/s", "MFU 42.1 %", "ETA 5 s"]
    del event["mfu"]
    assert step_figures(event) == ["loss 2.0000", "1,000 tok/s", "ETA 5 s"]


def test_one_of_a_thing_has_no_s() -> None:
    assert ", 1 head, vocabulary" in _sizes.network(_model(n_head=1))
    assert ", 2 heads (1 for keys and values), " in _sizes.network(_model(n_head=2))
    training = {"total_batch_size": 256, "device_batch_size": 1, "grad_accum_steps": 1}
    assert _sizes.batch(training, 1) == "256 tokens a step: 1 row at a time, once"
    many = {"total_batch_size": 4096, "device_batch_size": 2, "grad_accum_steps": 2}
    assert _sizes.batch(many, 4) == "4,096 tokens a step: 2 rows at a time on each of 4 processes, 2 times"


def _model(n_head: int) -> dict[str, Any]:
    sizes = {"n_layer": 1, "n_embd": 64, "n_kv_head": 1, "vocab_size": 300, "max_seq_len": 64}
    return {"arch": "portable", "window_pattern": "L", "n_head": n_head, **sizes}
