"""Loss scaling leaves out steps that overflow and no others; FP8 is taken where it can be had and asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nanochat_cli.core import checkpoint, events
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError, Diverged, EnvironmentLacks
from nanochat_cli.core.models import fp8
from nanochat_cli.core.settings import ComputeSection, OptimSection
from nanochat_cli.core.train import loop, precision, probe, schedule, stage
from nanochat_cli.core.train.precision import Scaler
from tests.core.train.conftest import MakeJob

HERE, GPU, CPU = Dist(), torch.device("cuda", 0), torch.device("cpu")
HALF = torch.float16


# ---- the scaler alone ------------------------------------------------------------------------------------------------


def test_gradients_are_divided_exactly(make_job: MakeJob) -> None:
    job = make_job()
    for number, param in enumerate(job.model.parameters()):
        param.grad = torch.full_like(param, 2.0 ** (number % 5 + 16))
    want = sum(p.numel() * 4.0 ** (number % 5) for number, p in enumerate(job.model.parameters())) ** 0.5
    assert float(job.optimizer.clip(None, 2.0**16)) == pytest.approx(want, rel=1e-6)
    assert {float(value) for grad in job.optimizer.collect() for value in grad.unique()} == {1.0, 2.0, 4.0, 8.0, 16.0}  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_an_overflow_halves_the_scale_and_is_counted(bad: float) -> None:
    said: list[str] = []
    scaler = Scaler(HALF, events.Listener(lambda event: said.append(event["text"])))
    assert not scaler.accepts(bad, 4)
    assert scaler.facts() == {"loss_scale": 2.0**15, "skipped_steps": 1}
    assert said == ["step 5 left out: a gradient overflowed fp16; loss scale now 32768"]


def test_the_scale_doubles_after_two_thousand_good_steps_in_a_row() -> None:
    scaler = Scaler(HALF)
    for step in range(1999):
        scaler.accepts(1.0, step)
    assert scaler.scale == 2.0**16
    scaler.accepts(float("inf"), 1999)
    for step in range(1999):
        scaler.accepts(1.0, 2000 + step)
    assert scaler.scale == 2.0**15
    scaler.accepts(1.0, 4000)
    assert scaler.scale == 2.0**16 and scaler.skipped == 1
    scaler.scale, scaler.good_steps = 2.0**32, 1999
    scaler.accepts(1.0, 4001)
    assert scaler.scale == 2.0**32  # nothing to win beyond


def test_overflowing_without_any_scaling_is_divergence() -> None:
    scaler = Scaler(HALF)
    for step in range(16):
        assert not scaler.accepts(float("nan"), step)
    assert scaler.scale == 1
    with pytest.raises(Diverged, match="at step 17: gradients overflow fp16") as caught:
        scaler.accepts(float("nan"), 16, last_saved=10)
    assert caught.value.hint and "step 10 is saved" in caught.value.hint


def test_its_state_comes_back() -> None:
    scaler = Scaler(HALF)
    scaler.accepts(float("inf"), 0)
    scaler.accepts(1.0, 1)
    again = Scaler(HALF)
    again.restore(scaler.state())
    assert again.state() == scaler.state() == {"scale": 2.0**15, "good_steps": 1, "skipped": 1}
    again.restore({})  # from a checkpoint of another precision
    assert again.scale == 2.0**15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_are_left_alone(dtype: torch.dtype) -> None:
    scaler = Scaler(dtype)
    assert scaler.accepts(float("inf"), 0)
    assert scaler.scale == 1.0 and scaler.facts() == scaler.state() == {}
    scaler.restore({"scale": 4.0, "good_steps": 0, "skipped": 0})
    assert scaler.scale == 1.0


# ---- in the loop -----------------------------------------------------------------------------------------------------


def half_job(make_job: MakeJob, folder: str, num_steps: int, **changes: Any) -> loop.Job:
    """A job that computes in fp16 and learns from its first step on."""
    plan = schedule.plan(num_steps, OptimSection(warmup_steps=0, weight_decay=0.0))
    job = make_job(folder, num_steps=num_steps, schedule=plan, **changes)
    job.model.set_precision("fp16")
    return job


def test_training_in_fp16_learns_as_in_fp32(make_job: MakeJob) -> None:
    losses = {}
    for name in ("fp32", "fp16"):
        heard: list[events.Event] = []
        job = half_job(make_job, name, 20)
        job.model.set_precision(name)
        loop.train(job, HERE, events.Listener(heard.append))
        steps = [event for event in heard if event["kind"] == "step"]
        losses[name] = [event["raw_loss"] for event in steps]
        assert ("loss_scale" in steps[-1]) == (name == "fp16")
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_overflowing_steps_change_nothing_and_the_run_goes_on(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_FIRST_SCALE", 2.0**34)
    job = half_job(make_job, "stage", 30, save_every=3, keep_last=30)
    before = {name: weight.clone() for name, weight in job.model.state_dict().items()}
    heard: list[events.Event] = []
    loop.train(job, HERE, events.Listener(heard.append))
    steps = [event for event in heard if event["kind"] == "step"]
    left_out = [event["step"] for event in steps if event["grad_norm"] == 0.0]
    assert left_out[:3] == [1, 2, 3] and 3 <= len(left_out) < 25
    assert steps[-1]["skipped_steps"] == len(left_out)
    assert steps[-1]["loss_scale"] == 2.0 ** (34 - len(left_out))
    saved = checkpoint.load(job.stage_dir, 3).weights
    assert all(torch.equal(saved[name], weight) for name, weight in before.items())
    assert steps[-1]["raw_loss"] < 0.7 * steps[0]["raw_loss"]


def test_a_resumed_run_keeps_the_scale_and_the_bits(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_FIRST_SCALE", 2.0**34)
    told: list[dict[str, Any]] = []

    def run(folder: str, until: int | None = None, resumed: bool = False) -> checkpoint.Loaded:
        job = half_job(make_job, folder, 24, save_every=12)
        if until is not None:
            (job.stage_dir / "stop").touch()
        result = loop.train(job, HERE, events.NULL, checkpoint.load(job.stage_dir) if resumed else None)
        told.append(result)
        (job.stage_dir / "stop").unlink(missing_ok=True)
        return checkpoint.load(job.stage_dir)

    whole = run("whole")
    run("parts", until=1)
    parts = run("parts", resumed=True)
    assert told[1] == {"stopped": 1}
    assert whole.state["scaler"] == parts.state["scaler"] and whole.state["scaler"]["scale"] < 2.0**34
    assert all(torch.equal(parts.weights[name], weight) for name, weight in whole.weights.items())


def test_a_loss_that_is_no_number_still_stops_the_run(make_job: MakeJob) -> None:
    job = half_job(make_job, "stage", 4)
    with torch.no_grad():
        job.model.embed.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="loss nan"):
        loop.train(job, HERE, events.NULL)


@pytest.mark.parametrize("form", ["fused", "matmul"])
def test_scores_beyond_the_range_of_fp16_as_exponents(form: str, make_job: MakeJob) -> None:
    """Two to the power of a score of 20 is more than fp16 holds; the weights that come of it are not."""
    model = make_job().model
    model.set_attention(form)
    attention: Any = next(m for m in model.modules() if type(m).__name__ == "Attention")
    shape = (1, 16, attention.n_head, attention.head_dim)
    q = torch.full(shape, (20.0 * attention.head_dim**-0.5) ** 0.5, dtype=HALF)
    v = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(HALF)
    found = attention.mix(q, q, v)
    assert found.dtype == HALF and torch.allclose(found, v.cumsum(1) / torch.arange(1, 17)[:, None, None], atol=0.01)


# ---- which formats ---------------------------------------------------------------------------------------------------


def test_old_gpus_try_fp16_instead_of_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.candidates(CPU) == ("fp32", "bf16")
    assert precision.candidates(torch.device("mps")) == ("fp32",)
    modern, old = ("bf16",), ("fp32", "fp16")
    for capability, want in (((7, 0), old), ((7, 5), old), ((8, 0), modern), ((9, 0), modern)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert precision.candidates(GPU) == want
    assert [precision.of_optimizer(dtype) for dtype in precision.DTYPES] == ["fp32", "bf16", "fp32"]


@pytest.mark.parametrize(
    ("n_layer", "dtype", "compiled", "reason", "taken"),
    [
        (20, "bf16", True, None, True),
        (24, "bf16", True, None, True),
        (19, "bf16", True, None, False),
        (20, "bf16", False, None, False),
        (20, "fp32", True, None, False),
        (20, "bf16", True, "too old", False),
    ],
)
def test_automatic_fp8(
    n_layer: int, dtype: str, compiled: bool, reason: str | None, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp8, "lacking", lambda device: reason)
    facts: Any = {"n_layer": n_layer, "dtype": dtype, "compiled": compiled}
    assert precision.use_fp8("auto", GPU, **facts) == taken
    assert not precision.use_fp8("off", GPU, **facts)


def test_fp8_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: Any = {"n_layer": 4, "dtype": "bf16", "compiled": True}
    with pytest.raises(EnvironmentLacks, match=r"capability 8\.9 or more: cpu") as caught:
        precision.use_fp8("on", CPU, **facts)
    assert caught.value.hint and "--fp8 off" in caught.value.hint
    monkeypatch.setattr(fp8, "lacking", lambda device: None)
    assert precision.use_fp8("on", GPU, **facts)
    with pytest.raises(ConfigError, match="not with precision: fp32"):
        precision.use_fp8("on", GPU, **{**facts, "dtype": "fp32"})


def test_a_resumed_run_keeps_its_choice_and_old_runs_have_none() -> None:
    saved = {"dtype": "bf16", "attention": "fused", "compile": True}
    assert stage._as_before(ComputeSection(), saved).fp8 == "off"
    assert stage._as_before(ComputeSection(), {**saved, "fp8": True}).fp8 == "on"
    assert stage._as_before(ComputeSection(fp8="off"), {**saved, "fp8": True}).fp8 == "off"


def test_a_stage_converts_its_model(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = make_job().model, []
    monkeypatch.setattr(stage.fp8, "convert", asked.append)
    for narrow in (False, True):
        how = probe.Execution(dtype="bf16", attention="fused", compile=False, fp8=narrow)
        stage.adopt(model, how, events.NULL)
    assert asked == [model]
