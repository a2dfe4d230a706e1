"""The start-up measurement takes the fastest correct way, drops hopeless ones, remembers, survives a bad compiler."""

from __future__ import annotations

import json
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nanochat_cli.core import machine
from nanochat_cli.core.events import Listener
from nanochat_cli.core.models.attention import Attention
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.settings import ComputeSection
from nanochat_cli.core.train import compile_ahead, probe
from nanochat_cli.core.train.probe import Execution

CONFIG = from_depth(1, vocab_size=50, max_seq_len=16, n_embd=32, n_head=2)
CPU = torch.device("cpu")
LONG = 10**12


class Clock:
    """Stands in for the timed step: each candidate takes the time that the test gives it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float | list[float]) -> None:
        self.steps: Counter[str] = Counter()
        clock = self

        class Runner:
            def __init__(self, bench: Any, how: Execution) -> None:
                self.name = how.name.replace("/", "_")

            def seconds(self) -> float:
                clock.steps[self.name] += 1
                taken = seconds[self.name]
                return taken if isinstance(taken, float) else taken[min(clock.steps[self.name], len(taken)) - 1]

        monkeypatch.setattr(probe, "_Runner", Runner)
        monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
        self.prepared = 0
        monkeypatch.setattr(compile_ahead, "missing", lambda device: None)
        monkeypatch.setattr(compile_ahead, "prepare", self._prepare)

    def _prepare(self, *args: Any) -> str | None:
        self.prepared += 1
        return None


def choose(tmp_path: Path, planned: int = 1, said: list[str] | None = None, **requested: Any) -> Execution:
    log = Listener(lambda event: said.append(event["text"]) if said is not None and "text" in event else None)
    return probe.choose(
        CONFIG,
        device_batch_size=4,
        threads=1,
        requested=ComputeSection(**requested),
        cache_path=tmp_path / "cache" / "probe.json",
        planned_tokens=planned,
        log=log,
    )


def test_the_fastest_wins_and_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, fp32_matmul=0.3, fp32_fused=0.25, bf16_matmul=0.1, bf16_fused=0.2)
    how = choose(tmp_path)
    assert (how.dtype, how.attention, how.compile) == ("bf16", "matmul", False)
    assert how.tokens_per_s == {"fp32/matmul": 213.3, "fp32/fused": 256.0, "bf16/matmul": 640.0, "bf16/fused": 320.0}
    before = clock.steps.copy()
    assert choose(tmp_path) == how
    assert clock.steps == before, "an equal question is answered from the cache"


def test_a_hopeless_dtype_is_left_after_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, fp32_matmul=0.3, fp32_fused=0.25, bf16_matmul=3.4, bf16_fused=9.0)
    how = choose(tmp_path)
    assert (how.dtype, how.attention) == ("fp32", "fused")
    assert clock.steps["bf16_matmul"] == 1
    assert clock.steps["bf16_fused"] == 0


def test_one_slow_moment_does_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, fp32_matmul=0.3, fp32_fused=0.3, bf16_matmul=[1.5, 0.9, 0.1, 0.9], bf16_fused=0.2)
    assert choose(tmp_path).name == "bf16/matmul"


def test_what_is_asked_for_is_not_varied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, fp32_matmul=0.3, fp32_fused=0.25, bf16_matmul=0.1, bf16_fused=0.2)
    assert choose(tmp_path, precision="fp32", attention="matmul", compile="off").name == "fp32/matmul"
    assert set(clock.steps) == {"fp32_matmul"}


def test_no_bf16_is_tried_without_its_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, fp32_matmul=0.3, fp32_fused=0.25)
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"sse2", "avx2"}))
    assert choose(tmp_path).name == "fp32/fused"
    assert set(clock.steps) == {"fp32_matmul", "fp32_fused"}


def test_other_instruction_limits_are_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, fp32_matmul=0.3, fp32_fused=0.25, bf16_matmul=0.1, bf16_fused=0.2)
    choose(tmp_path)
    before = clock.steps.total()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    choose(tmp_path)
    assert clock.steps.total() == 2 * before
    kept = json.loads((tmp_path / "cache" / "probe.json").read_text())
    assert len([key for key in kept if not key.endswith("/gains")]) == 2


@pytest.mark.parametrize("content", ["{half", "[]", "\x00"])
def test_a_damaged_cache_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    Clock(monkeypatch, fp32_matmul=0.3, fp32_fused=0.25, bf16_matmul=0.1, bf16_fused=0.2)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "probe.json").write_text(content)
    assert choose(tmp_path).name == "bf16/matmul"
    assert json.loads((tmp_path / "cache" / "probe.json").read_text())


def test_a_kernel_that_sees_ahead_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, fp32_matmul=0.3, fp32_fused=0.25, bf16_matmul=0.1, bf16_fused=0.2)
    right = Attention.mix

    def mix(self: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if self.form != "matmul":
            return right(self, q, k, v)
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    monkeypatch.setattr(Attention, "mix", mix)
    said: list[str] = []
    assert choose(tmp_path, said=said).name == "bf16/fused"
    assert any("bf16/matmul lets a token see later ones" in text for text in said)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("form", ["fused", "matmul"])
def test_our_kernels_do_not_see_ahead(dtype: str, form: str) -> None:
    assert not probe.sees_ahead(CONFIG, Execution(dtype=dtype, attention=form, compile=False), CPU)


FOUR = {"fp32_matmul": 0.3, "fp32_fused": 0.25, "bf16_matmul": 0.1, "bf16_fused": 0.2}


def test_compiled_for_long_runs_only_and_only_if_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, **FOUR, bf16_matmul_compiled=0.07)
    assert not choose(tmp_path / "a", planned=640 * 50).compile
    assert choose(tmp_path / "a", planned=LONG).compile
    assert not choose(tmp_path / "a", planned=LONG, compile="off").compile
    Clock(monkeypatch, **FOUR, bf16_matmul_compiled=0.12)
    assert not choose(tmp_path / "b", planned=LONG).compile
    assert choose(tmp_path / "b", planned=1, compile="on").compile


def test_a_busy_minute_while_compiling_changes_no_later_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slower_later = {**FOUR, "bf16_matmul": [0.1] * 4 + [0.5] * 40}
    clock = Clock(monkeypatch, **slower_later, bf16_matmul_compiled=0.3, bf16_fused_compiled=0.1)
    assert choose(tmp_path, planned=LONG).name == "bf16/matmul/compiled"
    before = clock.steps.copy()
    assert choose(tmp_path, planned=LONG).name == "bf16/matmul/compiled"
    assert clock.steps == before, "nothing is measured again"


def test_a_gpu_compiles_without_a_second_model_beside_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = probe._Bench(CONFIG, 4, torch.device("cuda"))
    monkeypatch.setattr(bench, "race", lambda candidates: pytest.fail("nothing is to be raced"))
    monkeypatch.setattr(compile_ahead, "prepare", lambda *args: None)
    best = Execution(dtype="bf16", attention="fused", compile=False)
    memory = probe._Memory(Path("nowhere"), "key")
    assert probe._compiled_if_faster(best, bench, memory, ComputeSection(), probe.NULL).compile


@pytest.mark.parametrize("switch", ["auto", "on"])
def test_without_a_compiler_training_stays_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: Any) -> None:
    really = compile_ahead.missing
    Clock(monkeypatch, **FOUR)
    monkeypatch.setattr(compile_ahead, "missing", really)
    monkeypatch.setattr(compile_ahead.shutil, "which", lambda name: None)
    said: list[str] = []
    assert not choose(tmp_path, planned=LONG, said=said, compile=switch).compile
    assert any("not compiling, for which this machine lacks a C++ compiler" in text for text in said)


@pytest.mark.parametrize("switch", ["auto", "on"])
def test_compiling_too_long_is_given_up_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: Any) -> None:
    clock = Clock(monkeypatch, **FOUR)
    asked: list[tuple[Any, ...]] = []

    def slow(*args: Any) -> str:
        asked.append(args)
        return "took longer than 7 s"

    monkeypatch.setattr(compile_ahead, "prepare", slow)
    heard: list[Any] = []
    how = probe.choose(
        CONFIG,
        device_batch_size=4,
        threads=1,
        requested=ComputeSection(compile=switch, compile_limit_s=7.0),
        cache_path=tmp_path / "probe.json",
        planned_tokens=LONG,
        log=Listener(heard.append),
    )
    assert how.name == "bf16/matmul"
    assert [e["text"] for e in heard if e["kind"] == "warning"] == [
        "compiling took longer than 7 s: training goes on without it, and slower"
    ]
    assert asked[0][2:] == (4, CPU, 7.0) and asked[0][1].compile
    assert not [name for name in clock.steps if "compiled" in name], "nothing was compiled in this process"


def test_what_did_not_gain_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, **FOUR, bf16_matmul_compiled=0.12)
    assert not choose(tmp_path, planned=LONG).compile
    assert not choose(tmp_path, planned=LONG).compile
    assert clock.prepared == 1


def test_no_memory_to_compare_means_compiling_on_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, **FOUR)
    fake: Any = probe._Runner

    def runner(bench: Any, how: Execution) -> Any:
        if how.compile:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fake(bench, how)

    monkeypatch.setattr(probe, "_Runner", runner)
    assert choose(tmp_path, planned=LONG).compile


def test_candidates_give_way_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, **FOUR)
    fake: Any = probe._Runner
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def runner(bench: Any, how: Execution) -> Any:
        if len(alive) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        made = fake(bench, how)
        alive.add(made)
        return made

    monkeypatch.setattr(probe, "_Runner", runner)
    how = choose(tmp_path)
    assert how.name == "bf16/matmul"
    assert len(how.tokens_per_s) == 4


def broken_compile(function: Any, **options: Any) -> Any:
    def fail(*args: Any) -> Any:
        raise RuntimeError("g++ said no\nand more")

    return fail


def test_a_failing_compiler_is_loud_and_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", broken_compile)
    monkeypatch.setattr(compile_ahead, "missing", lambda device: None)
    monkeypatch.setattr(compile_ahead, "prepare", lambda *args: None)
    torch.set_num_threads(1)
    said: list[str] = []
    assert not choose(tmp_path, planned=LONG, said=said).compile
    assert any("compiling failed, training goes on without it: RuntimeError: g++ said no" in text for text in said)
    assert not choose(tmp_path, compile="on", said=said).compile
    assert len([text for text in said if "g++ said no" in text]) == 2


def test_a_compiler_that_fails_only_later_is_harmless_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", broken_compile)
    model, said = build(CONFIG), list[str]()
    how = Execution(dtype="fp32", attention="fused", compile=True)
    losses = probe.TrainingLosses(model, how, Listener(lambda event: said.append(event["text"])))
    ids = torch.arange(16)[None]
    assert torch.equal(losses(ids, ids), model.losses(ids, ids))
    assert torch.equal(losses(ids, ids), model.losses(ids, ids))
    assert len(said) == 1
    assert "compiling failed" in said[0]


def test_really_measured(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    how = choose(tmp_path, compile="off")
    assert how.tokens_per_s[how.name] == max(how.tokens_per_s.values()) > 0


def test_two_trainings_that_measure_at_the_same_time_keep_what_both_found(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    one, other, elsewhere = (probe._Memory(path, key) for key in ("shape", "shape", "another"))
    one.keep({"fp32/fused": 100.0})
    other.keep({"fp32/fused/compiled": 150.0}, gain=1.5)
    elsewhere.keep({"fp32/matmul": 7.0})
    found = probe._Memory(path, "shape")
    assert found.speeds == {"fp32/fused": 100.0, "fp32/fused/compiled": 150.0}
    assert found.gains == {"fp32/fused/compiled": 1.5}
    assert probe._Memory(path, "another").speeds == {"fp32/matmul": 7.0}


# ---- what is recorded of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requested", "planned", "lacks", "problem", "because"),
    [
        ({"compile": "off"}, LONG, None, None, "not asked for"),
        ({}, 1, None, None, "the run is too short to gain by it"),
        ({}, LONG, "a C++ compiler (g++)", None, "this machine lacks a C++ compiler (g++)"),
        ({"compile": "on"}, LONG, None, "took longer than 600 s", "compiling took longer than 600 s"),
        ({}, LONG, None, None, "measured to be no faster"),
    ],
)
def test_why_nothing_is_compiled_is_recorded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    requested: dict[str, Any],
    planned: int,
    lacks: str | None,
    problem: str | None,
    because: str,
) -> None:
    times = {"fp32_matmul": 0.3, "fp32_fused": 0.25, "bf16_matmul": 0.1, "bf16_fused": 0.2, "bf16_matmul_compiled": 0.1}
    Clock(monkeypatch, **times)
    monkeypatch.setattr(compile_ahead, "missing", lambda device: lacks)
    monkeypatch.setattr(compile_ahead, "prepare", lambda *args: problem)
    how = choose(tmp_path, planned, **requested)
    assert (how.compile, how.eager_because) == (False, because)


def test_what_is_compiled_has_no_excuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {
        "fp32_matmul": 0.3,
        "fp32_fused": 0.25,
        "bf16_matmul": 0.1,
        "bf16_fused": 0.2,
        "bf16_matmul_compiled": 0.05,
    }
    Clock(monkeypatch, **times)
    how = choose(tmp_path, LONG)
    assert (how.compile, how.eager_because) == (True, "")
