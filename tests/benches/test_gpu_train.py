"""The GPU benchmark runs real steps anywhere, keeps what it found, and names what it could not measure."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

BENCHES = Path(__file__).resolve().parents[2] / "benches"
sys.path.insert(0, str(BENCHES))

import gpu_case  # noqa: E402  # pyright: ignore[reportMissingImports]
import gpu_profile  # noqa: E402  # pyright: ignore[reportMissingImports]
import gpu_train  # noqa: E402  # pyright: ignore[reportMissingImports]

from nanochat_cli.core import devices, scaling  # noqa: E402


def bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(BENCHES / "gpu_train.py"), *words, "--out", str(folder)]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_tiny_case_on_a_cpu_and_one_that_fails(tmp_path: Path) -> None:
    ended = bench(
        tmp_path, "--device", "cpu", "--cases", "tiny-eager-r4-b1k", "tiny-fp8", "--steps", "2", "--threads", "1"
    )
    assert ended.returncode == 0, ended.stderr
    first, second = json.loads((tmp_path / "gpu_train.json").read_text())["cases"]
    assert (first["steps"], first["device_batch"], first["total_batch"]) == (2, 4, 1024)
    assert first["tokens_per_s"] == pytest.approx(1000 * 1024 / first["step_ms"], rel=0.5)
    assert first["mfu"] is None
    assert 0 < first["optimizer_share"] < 1
    assert 0 <= first["data_stall"] < 1
    assert first["peak_gib"] > 0
    assert "FP8 needs an NVIDIA GPU" in second["failed"]
    assert "tiny-eager-r4-b1k" in ended.stdout
    assert "failed: FP8 needs" in ended.stdout


def test_cases_beyond_the_budget_are_dropped_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]

    def child(name: str, args: argparse.Namespace, limit: float) -> dict[str, Any]:
        clock[0] += 150.0
        return {"case": name, "step_ms": 1.0, "mfu": 0.5}

    monkeypatch.setattr(gpu_train.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(gpu_train, "_child", child)
    monkeypatch.setattr(sys, "argv", ["gpu_train.py", "--budget", "350", "--out", str(tmp_path)])
    gpu_train.main()
    rows = json.loads((tmp_path / "gpu_train.json").read_text())["cases"]
    assert [row["case"] for row in rows if "dropped" in row] == ["d26", "d26-fp8"]
    assert [row["bar"] for row in rows] == [0.45, 0.52, 0.55, 0.60]
    assert "not measured for want of time: d26, d26-fp8" in capsys.readouterr().out


def test_out_of_memory_is_tried_once_more_with_half_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def child(name: str, args: argparse.Namespace, limit: float) -> dict[str, Any]:
        asked.append(name)
        if len(asked) == 1:
            return {"case": name, "device_batch": 32, "failed": "out of memory: tried to allocate"}
        return {"case": name, "device_batch": 16, "step_ms": 1.0}

    monkeypatch.setattr(gpu_train, "_child", child)
    row = gpu_train.run_case("d26-fp8", argparse.Namespace(case_seconds=180.0), 400.0)
    assert asked == ["d26-fp8", "d26-fp8-r16"]
    assert (row["case"], row["note"]) == ("d26-fp8", "32 rows ran out of memory")


def test_a_case_that_hangs_is_ended_and_keeps_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], **options: Any) -> Any:
        Path(argv[4]).write_text(json.dumps({"case": "d12", "step_ms": 3.0}))
        raise subprocess.TimeoutExpired(argv, options["timeout"])

    monkeypatch.setattr(gpu_train.subprocess, "run", run)
    args = argparse.Namespace(steps=1, seconds=1.0, profile=False, threads=None, device="cuda")
    row = gpu_train._child("d12", args, 20.0)
    assert row == {"case": "d12", "step_ms": 3.0, "cut_short": "stopped after 20 s"}
    assert gpu_train.line(row).endswith("cut short: stopped after 20 s")


def test_names_of_cases() -> None:
    case = gpu_case.parse("d26-fp8-flex-r16-b512k")
    assert (case.depth, case.precision, case.fp8, case.attention) == (26, "bf16", True, "flex")
    assert (case.rows, case.total, case.compiled) == (16, 524_288, True)
    assert not gpu_case.parse("d12-eager").compiled
    for wrong in ("d0", "d12-", "d12-fa9", "26", "d12 -r4"):
        with pytest.raises(ValueError, match="no such case"):
            gpu_case.parse(wrong)


def test_batches_are_those_of_training_and_warming_up_is_short() -> None:
    case = gpu_case.parse("d12-r32")
    net = gpu_case.shape_of(case)
    size = gpu_case.sizes(case, net, torch.device("cpu"))
    assert size == gpu_case.Sizes(scaling.total_batch_size(net), 32)
    rows = gpu_case.RandomTokens(gpu_case.shape_of(gpu_case.parse("tiny")), gpu_case.Sizes(512, 2))
    assert [len(rows.step(step, device_batch_size=2)) for step in (0, 2, 3)] == [2, 2, 4]
    x_BT, y_BT = rows.step(3, device_batch_size=2)[1]
    assert torch.equal(x_BT[:, 1:], y_BT[:, :-1])
    assert not torch.equal(x_BT, rows.step(3, device_batch_size=2)[0][0]), "every micro-batch has rows of its own"


def test_no_matrix_is_all_zero() -> None:
    model = gpu_case.build(gpu_case.shape_of(gpu_case.parse("tiny")), torch.device("cpu"))
    assert all(bool(weight.any()) for weight in model.parameters() if weight.dim() == 2)


def test_projections_say_so(tmp_path: Path) -> None:
    told = bench(tmp_path, "--projected", "--cases", "d12", "d26-fp8").stdout
    assert "PROJECTED" in told
    result = json.loads((tmp_path / "gpu_train.json").read_text())
    assert result["projected"]
    for row in result["cases"]:
        assert row["projected"]
        want = devices.mfu(row["flops_per_token"], row["tokens_per_s"], devices.named("h200"))
        assert row["mfu"] == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_256x128_64x4_2x1_v_bz_coopA_TNT", "gemm"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "gemm"),
        ("void cutlass::device_kernel<flash::FlashAttnFwdSm90<...>>", "attention"),
        ("triton_tem_fused_flex_attention_backward_3", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("triton_red_fused__to_copy_mul_rms_norm_5", "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4>", "elementwise"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("something new", "other"),
    ],
)
def test_kernels_are_sorted_by_what_they_are_for(name: str, kind: str) -> None:
    assert gpu_profile.kind_of(name) == kind


def test_a_step_is_its_micro_batches_and_one_update() -> None:
    micro = {"gemm_a": (10.0, 2), "flash_fwd": (5.0, 1)}
    found = gpu_profile.summary(micro, {"gemm_a": (40.0, 4)}, 4)
    assert found["busy_ms"] == 100.0
    assert (found["shares"]["gemm"], found["shares"]["attention"], found["shares"]["optimizer"]) == (0.4, 0.2, 0.4)
    assert [(row["kind"], row["ms"], row["calls"]) for row in found["top"]] == [
        ("gemm", 40.0, 8),
        ("optimizer", 40.0, 4),
        ("attention", 20.0, 4),
    ]


def test_ranges_with_a_name_do_not_count_their_kernels_again() -> None:
    def event(key: str, device: str, annotation: bool = False) -> SimpleNamespace:
        return SimpleNamespace(key=key, device_type=f"DeviceType.{device}", is_user_annotation=annotation)

    assert gpu_profile._is_kernel(event("nvjet_tst", "CUDA"))
    assert not gpu_profile._is_kernel(event("aten::mm", "CPU"))
    assert not gpu_profile._is_kernel(event("step", "CUDA", annotation=True))
    assert not gpu_profile._is_kernel(event("## Call CompiledFxGraph f3 ##", "CUDA"))


def test_kernels_of_real_work_on_a_cpu() -> None:
    x = torch.randn(64, 64)
    found = gpu_profile.kernels_of(lambda: x @ x, torch.device("cpu"))
    assert found["aten::mm"][1] == 1
