"""What this computer is, as far as it can be told without torch: for the report and for `nanochat doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GIB = 1024**3


def describe() -> dict[str, Any]:
    """The facts a reader needs to judge a speed: processor, cores, memory, GPUs, system, Python. Never fails."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(total_memory() / GIB, 1),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.machine()}".strip(),
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Processor") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def cpu_flags() -> frozenset[str]:
    """The instruction sets the processor names (`avx2`, `avx512_bf16`, `asimd`, …); empty where unknown."""
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def usable_cores() -> int:
    """Cores this process may use: fewer than the machine has inside a container with a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _lines(Path("/sys/fs/cgroup/cpu.max"))
    if quota and quota[0].split()[0].isdigit():
        limit, period = map(int, quota[0].split()[:2])
        cores = max(1, min(cores, round(limit / period)))
    return cores


def total_memory() -> int:
    """Bytes of memory this process may use; 0 where unknown."""
    limits = [int(text[0]) for text in [_lines(Path("/sys/fs/cgroup/memory.max"))] if text and text[0].isdigit()]
    installed = _meminfo("MemTotal") or _sysconf_memory()
    return min([installed, *limits]) if installed else 0


def free_memory() -> int:
    """Bytes of memory that can still be had without swapping; 0 where unknown."""
    return _meminfo("MemAvailable")


def reset_peak_memory() -> bool:
    """Let `peak_memory` count from now on. False where the system cannot: then it counts since the process began."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> int:
    """The most memory in bytes that this process has had in use at a time; 0 where unknown."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024


def gpus() -> list[dict[str, Any]]:
    """Names and memory of the NVIDIA GPUs, as their driver's tool tells; empty without GPUs or without the tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    asked = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in told.splitlines()]
    return [
        {"name": row[0], "memory_gib": round(int(row[1]) / 1024, 1), "driver": row[2]}
        for row in rows
        if len(row) == 3 and row[1].isdigit()
    ]


def count_gpus(environ: Mapping[str, str] = os.environ, dev: Path = Path("/dev")) -> int:
    """GPUs that a process started here would see, told by their device files and `CUDA_VISIBLE_DEVICES`.

    That list counts up to its first entry that is no GPU, as CUDA reads it; names (`GPU-…`, `MIG-…`) are taken at their
    word.
    """
    installed = sum(path.name.removeprefix("nvidia").isdigit() for path in dev.glob("nvidia[0-9]*"))
    if not installed and (dev / "dxg").exists():  # Windows' Linux shows its GPUs through one device of its own
        installed = len(gpus())
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None or not installed:
        return installed
    seen: list[str] = []
    for name in map(str.strip, listed.split(",")):
        if name in seen or not (name.startswith(("GPU-", "MIG-")) or (name.isdigit() and int(name) < installed)):
            break
        seen.append(name)
    return len(seen)


def _meminfo(key: str) -> int:
    for line in _lines(Path("/proc/meminfo")):
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return 0


def _sysconf_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
