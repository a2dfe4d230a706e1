"""Compiling happens in a child that can be ended; its kernels serve the training process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.train import compile_ahead
from nanochat_cli.core.train.probe import Execution

CONFIG = from_depth(1, vocab_size=50, max_seq_len=16, n_embd=32, n_head=2)
CPU = torch.device("cpu")
HOW = Execution(dtype="fp32", attention="fused", compile=True, tokens_per_s={"x": 1.0})


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(compile_ahead, "_CHILD", (sys.executable, "-S", "-c", code))


def prepare(limit_s: float = 60.0, how: Execution = HOW, rows: int = 2) -> str | None:
    return compile_ahead.prepare(CONFIG, how, rows, CPU, limit_s)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_slow_compiler_is_ended_with_all_its_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); "
        f"open({str(told)!r}, 'w').write(str(p.pid)); time.sleep(600)"
    )
    child(monkeypatch, code)
    assert prepare(limit_s=2.0) == "took longer than 2 s"
    pid, deadline = int(told.read_text()), time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


def test_a_failing_compiler_gives_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    child(monkeypatch, "import sys; sys.stderr.write('noise\\nCppCompileError: no space left\\n'); sys.exit(3)")
    assert prepare() == "failed: CppCompileError: no space left"
    child(monkeypatch, "raise SystemExit(9)")
    assert prepare() == "failed with exit code 9"
    assert not (tmp_path / "kernels").exists()


def test_what_was_compiled_before_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    check = "import json, sys; t = json.loads(sys.stdin.readline()); assert t['rows'] == 2 and t['how']['compile']"
    child(monkeypatch, check)
    assert prepare() is None
    child(monkeypatch, "raise SystemExit(9)")
    assert prepare() is None, "the mark lies beside the kernels"
    assert prepare(rows=4) is not None
    assert prepare(how=Execution(dtype="bf16", attention="fused", compile=True)) is not None
    for mark in (tmp_path / "kernels").iterdir():
        mark.unlink()
    assert prepare() is not None, "without its folder it is compiled anew"


def test_the_child_says_in_one_line_why_it_fails() -> None:
    task = '{"model": {"n_layer": 1}, "how": {}, "rows": 1, "device": "cpu", "threads": 1, "deterministic": false}'
    said = compile_ahead._run_child(task, 100)
    assert said is not None
    assert said.startswith("failed: ") and "model config key is missing: max_seq_len" in said


def test_the_child_ends_with_its_parent() -> None:
    """Its standard input closes when the parent dies; it must then end, and nobody outside its group with it."""
    ended = subprocess.run(compile_ahead._CHILD, input="", capture_output=True, text=True, timeout=100)
    assert ended.returncode != 0


@pytest.mark.slow
def test_really_compiled_in_a_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if compile_ahead.missing(CPU):
        pytest.skip("no compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert prepare(limit_s=280) is None
    assert len(list(tmp_path.rglob("*.so"))) > 0


# ---- what it needs ---------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    have: set[str] = set()
    monkeypatch.setattr(compile_ahead.shutil, "which", lambda name: name if name in have else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    cuda = torch.device("cuda")
    assert compile_ahead.missing(CPU) == "a C++ compiler (g++)"
    assert compile_ahead.missing(cuda) == "the package triton"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert compile_ahead.missing(cuda) == "a C compiler (gcc)"
    have |= {"icpx", "clang"}
    assert compile_ahead.missing(cuda) is None
    monkeypatch.setenv("CXX", "icpx")
    assert compile_ahead.missing(CPU) is None
    assert compile_ahead.missing(torch.device("mps")) == "support for compiling on mps"
