"""Compiling within a time limit: a child process does it first, and its kernels are taken from the cache.

A compiler that takes too long cannot be interrupted inside the process that trains: it holds locks, runs threads and
other programs, and leaves its tables half written. A child can be ended at any moment. It compiles the same training
step for the same number of rows, runs it once forwards and backwards, and thereby fills the folder of compiled kernels;
the training process then has only to trace the step and to load them. Were that folder lost in between, compiling would
take as long again as it took the child, which was within the limit. A child that fails or is too slow means: no
compiling, said aloud.

The file is also the child's program: `python -m` with its task as a line of JSON on standard input, which stays open
for as long as the parent lives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch

from nanochat_cli import __version__
from nanochat_cli.core import files
from nanochat_cli.core.models.shape import ModelConfig

_CHILD = (sys.executable, "-m", "nanochat_cli.core.train.compile_ahead")
_FAILED = 3
_NO_MATTER = ("tokens_per_s", "eager_because")  # of an execution, for what is compiled


def missing(device: torch.device) -> str | None:
    """Return what compiling for a device needs and this machine lacks, in words; None if all is there."""
    if device.type == "cpu":
        given, known = os.environ.get("CXX"), ("g++", "clang++", "c++")
        return None if any(map(shutil.which, [*([given] if given else []), *known])) else "a C++ compiler (g++)"
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "the package triton"
        given, known = os.environ.get("CC"), ("gcc", "clang", "cc")  # for the stubs that start triton's kernels
        return None if any(map(shutil.which, [*([given] if given else []), *known])) else "a C compiler (gcc)"
    return f"support for compiling on {device.type}"


def prepare(config: ModelConfig, how: Any, rows: int, device: torch.device, limit_s: float) -> str | None:
    """Compile a training step into the cache; return None, or why it could not be done, in words.

    `how` is a `probe.Execution`. What was compiled before, and still lies in the cache, is not compiled again.
    """
    task = {
        "model": dataclasses.asdict(config),
        "how": {key: value for key, value in dataclasses.asdict(how).items() if key not in _NO_MATTER},
        "rows": rows,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    mark = _mark(task, device)
    if mark is not None and mark.is_file():
        return None
    problem = _run_child(json.dumps(task), limit_s)
    if problem is None and mark is not None:
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    return problem


def _mark(task: dict[str, Any], device: torch.device) -> Path | None:
    """The file that says that a task's kernels lie beside it; None without a folder of our own."""
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if not folder:
        return None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Path(folder) / f"made-{files.sha256_json([task, torch.__version__, __version__, name])[:16]}"


def _run_child(task: str, limit_s: float) -> str | None:
    """Run the task in a process group of its own, to end the compiler's own children with it."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            _CHILD, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        try:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(task.encode() + b"\n")
                child.stdin.flush()
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"took longer than {limit_s:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()  # type: ignore[union-attr]
        if code == 0:
            return None
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
        return f"failed: {lines[-1][:200]}" if lines else f"failed with exit code {code}"


# ---- the child -------------------------------------------------------------------------------------------------------


def main() -> int:
    """Do the task on standard input and return the exit code; the reason of a failure is the last line of stderr."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from nanochat_cli.core.train import probe

    torch.set_num_threads(task["threads"])
    if task["deterministic"]:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    config = ModelConfig.from_dict(task["model"])
    try:
        probe.compile_once(config, probe.Execution(**task["how"]), task["rows"], torch.device(task["device"]))
    except Exception as problem:
        sys.stderr.write(f"\n{probe.first_line(problem)}\n")
        return _FAILED
    return 0


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.readline():
            pass
    if os.getpgrp() == os.getpid():  # a group of our own: nobody but us and what compiles for us
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(_FAILED)


if __name__ == "__main__":
    sys.exit(main())
