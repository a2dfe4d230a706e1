"""Short windows are kept where they pay, left out aloud where they do not, and never changed by a resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Listener
from nanochat_cli.core.models.shape import ModelConfig, from_depth
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import ComputeSection
from nanochat_cli.core.train import precision, probe, stage, windows
from nanochat_cli.core.train.probe import Execution
from tests.core.models.oracle import CPU, Flash, Gpu, gpu
from tests.core.train.test_probe import Clock

__all__ = ["gpu"]
SIZES: dict[str, Any] = {"vocab_size": 50, "max_seq_len": 64, "n_embd": 32, "n_head": 2, "arch": "nanochat"}
NET = from_depth(2, **SIZES, window_pattern="SL", short_window=16)
FULL = from_depth(2, **SIZES, window_pattern="L")


def fit(net: ModelConfig = NET, **requested: Any) -> tuple[ModelConfig, str]:
    said: list[str] = []
    log = Listener(lambda event: said.append(f"{event['kind']}: {event['text']}"))
    compute = ComputeSection(precision="bf16", **{"compile": "off", **requested})
    return windows.fitting_windows(net, CPU, compute, log), "\n".join(said)


def test_a_cpu_keeps_them() -> None:
    assert fit() == (NET, "")


def test_a_kernel_with_windows_keeps_them(gpu: Gpu) -> None:
    gpu.install("flash_attn")
    assert fit() == (NET, "")


def test_without_such_a_kernel_every_layer_sees_everything(gpu: Gpu) -> None:
    net, said = fit()
    assert net == FULL
    assert said.startswith("warning: every layer sees the whole context (window_pattern L instead of SL)")
    for told in ("fa4: not installed", "fa3: not installed", "flex: needs triton", "pip install flash-attn-4"):
        assert told in said
    assert fit(FULL) == (FULL, ""), "nothing to say where there are no windows"


def test_a_kernel_that_leaks_does_not_count(gpu: Gpu) -> None:
    gpu.install("flash_attn", Flash(ahead=1))
    net, said = fit()
    assert net == FULL
    assert "attention kernel fa2 is passed over in bf16: lets a token see later ones" in said
    assert "fa2: does not work" in said


def test_old_gpus_are_not_told_to_install_anything(gpu: Gpu) -> None:
    gpu.be(7, 5)
    net, said = fit()
    assert net == FULL
    assert "pip" not in said


def test_who_asks_for_the_mask_keeps_them(gpu: Gpu) -> None:
    net, said = fit(attention="fused")
    assert net == NET
    assert said == "warning: windows are slow with attention fused: --window-pattern L does without them"


def context(folder: Path, *, resume: bool) -> RunContext:
    return RunContext(run="r", stage="base", dir=folder, resume=resume, command="nanochat train base")


def save(folder: Path, step: int, config: ModelConfig | None) -> None:
    inside = folder / f"step-{step:06d}"
    inside.mkdir(parents=True)
    (inside / "MANIFEST.json").write_text("{}")
    text = "{half" if config is None else json.dumps({"model": dataclasses.asdict(config)})
    (inside / "config.json").write_text(text)


def settle(folder: Path, *, resume: bool) -> tuple[ModelConfig, str]:
    said: list[str] = []
    log = Listener(lambda event: said.append(event["text"]))
    compute = ComputeSection(precision="bf16", compile="off")
    return windows.settled(NET, compute, context(folder, resume=resume), Dist(), log), "\n".join(said)


def test_a_resumed_run_keeps_what_it_began_with(tmp_path: Path, gpu: Gpu) -> None:
    assert settle(tmp_path / "new", resume=True)[0] == FULL, "nothing was saved: as on a first start"
    save(tmp_path / "short", 10, NET)
    net, said = settle(tmp_path / "short", resume=True)
    assert net == NET, "though this machine would leave them out"
    assert said == "this run began with short windows and keeps them; they are slow here, as no kernel skips the rest"
    gpu.install("flash_attn")
    assert settle(tmp_path / "short", resume=True) == (NET, "")
    save(tmp_path / "full", 10, FULL)
    save(tmp_path / "full", 20, None)
    net, said = settle(tmp_path / "full", resume=True)
    assert net == FULL, "though this machine could have them"
    assert "as when this run began" in said
    assert settle(tmp_path / "full", resume=False)[0] == NET


def test_another_shape_is_not_taken_from_the_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 10, dataclasses.replace(FULL, n_layer=3))
    assert settle(tmp_path, resume=True)[0] == NET, "that it differs is told when the checkpoint is loaded"


# ---- the race --------------------------------------------------------------------------------------------------------

SPEEDS = {"fp32_fused": 0.9, "bf16_fused": 0.5, "bf16_fa2": 0.2, "bf16_fa3": 0.1, "bf16_matmul": 0.01}


def choose(tmp_path: Path, said: list[str], **requested: Any) -> Execution:
    return probe.choose(
        NET,
        device_batch_size=4,
        threads=1,
        requested=ComputeSection(**{"compile": "off", **requested}),
        cache_path=tmp_path / "probe.json",
        planned_tokens=1,
        log=Listener(lambda event: said.append(event["text"])),
    )


def test_the_fastest_package_wins_and_is_recorded(tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch, **SPEEDS), list[str]()
    gpu.install("flash_attn")
    gpu.install("flash_attn_interface")
    how = choose(tmp_path, said)
    assert (how.name, how.kernel) == ("bf16/fa3", "flash-attn-3 of unknown version")
    assert set(clock.steps) == {"fp32_fused", "bf16_fused", "bf16_fa2", "bf16_fa3"}, "none of them knows fp32"
    assert said[-1] == "computing in bf16, attention fa3 (flash-attn-3 of unknown version), eager"


def test_a_package_that_leaks_is_passed_over(tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch, **SPEEDS), list[str]()
    gpu.install("flash_attn_interface", Flash(ahead=1))
    gpu.install("flash_attn")
    assert choose(tmp_path, said).name == "bf16/fa2"
    assert "attention kernel fa3 is passed over in bf16: lets a token see later ones" in said
    assert "bf16_fa3" not in clock.steps, "it is not even timed"


def test_what_is_asked_for_and_absent_is_an_error(tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, **SPEEDS)
    with pytest.raises(Exception, match="attention kernel fa3 cannot be used here: not installed"):
        choose(tmp_path, [], attention="fa3")
    gpu.install("flash_attn")
    assert choose(tmp_path, [], attention="fa2").name == "bf16/fa2"
    with pytest.raises(Exception, match="bf16 and fp16 only"):
        choose(tmp_path, [], attention="fa2", precision="fp32")


def test_candidates_of_apple_gpus() -> None:
    mps, auto = torch.device("mps"), ComputeSection()
    assert [how.name for how in probe._candidates(NET, auto, mps)] == ["fp32/fused", "fp32/matmul"]
    long = dataclasses.replace(NET, max_seq_len=4096)
    assert [how.name for how in probe._candidates(long, auto, mps)] == ["fp32/fused"]
    narrow = probe._candidates(NET, ComputeSection(precision="bf16"), mps)
    assert [how.name for how in narrow] == ["bf16/fused", "bf16/matmul"], "if asked for"


# ---- what a stage does with the choice -------------------------------------------------------------------------------


class SecondProcess(Dist):
    """A process that hears what the first one sends."""

    def __init__(self, sent: list[int]) -> None:
        super().__init__(rank=1, world=2)
        self.sent = sent

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.sent)


@pytest.mark.parametrize("form", ["fa4", "fa3", "fa2", "flex", "fused", "matmul"])
def test_all_processes_compute_alike(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    class First(Dist):
        def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
            sent.extend(tensor.tolist())
            return tensor

    monkeypatch.setattr(stage.probe, "choose", lambda *a, **k: Execution(dtype="bf16", attention=form, compile=True))
    facts: dict[str, Any] = {"device_batch_size": 1, "planned_tokens": 1}
    model: Any = type("Model", (), {"config": NET})
    for dist in (First(rank=0, world=2), SecondProcess(sent)):
        how = stage.execution(
            model, ComputeSection(), context(tmp_path, resume=False), dist, Listener(lambda event: None), **facts
        )
        assert (how.dtype, how.attention, how.compile) == ("bf16", form, True)


def test_a_resume_elsewhere_takes_another_kernel_and_says_so(
    tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    Clock(monkeypatch, **SPEEDS)
    (tmp_path / "execution.json").write_text(
        json.dumps({"dtype": "bf16", "attention": "fa3", "compile": False, "kernel": "flash-attn-3 3.0"})
    )
    gpu.install("flash_attn")
    model: Any = type("Model", (), {"config": NET})
    monkeypatch.setattr(stage.paths, "cache_dir", lambda: tmp_path)
    log = Listener(lambda event: said.append(event["text"]))
    how = stage.execution(
        model, ComputeSection(), context(tmp_path, resume=True), Dist(), log, device_batch_size=4, planned_tokens=1
    )
    assert how.name == "bf16/fa2"
    assert "attention kernel fa3, which this run began with, is passed over: not installed" in said
    told = "attention kernel flash-attn of unknown version instead of flash-attn-3 3.0, which this run began with"
    assert told in said
    assert precision.TORCH[how.dtype] == torch.bfloat16
