"""What this computer is, as far as it can be told without torch: for the report and for `nanochat doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat_cli.core import cgroups

GIB = 1024**3
TOPOLOGY = Path("/sys/devices/system/cpu")


def describe() -> dict[str, Any]:
    """The facts a reader needs to judge a speed: processor, cores, memory, GPUs, system, Python. Never fails."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "physical_cores": physical_cores(),
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
    """Logical processors this process may use: fewer than the machine has inside a container with a limit."""
    return _within_quota(len(_processors()))


def physical_cores() -> int:
    """Cores with arithmetic units of their own that this process may use: what matrix products can keep busy.

    Two hardware threads of a core share its units, so a second thread there only gets in the first one's way.
    """
    if sys.platform == "darwin":
        return _within_quota(_sysctl("hw.physicalcpu") or len(_processors()))
    cores = {_siblings(number) or str(number) for number in _processors()}
    return _within_quota(len(cores))


def _processors() -> list[int]:
    """The numbers of the logical processors that this process is allowed on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _siblings(number: int) -> str:
    """The processors that share a core with this one, as the kernel lists them ("0,64"); empty where unknown."""
    return "".join(_lines(TOPOLOGY / f"cpu{number}" / "topology" / "thread_siblings_list")).strip()


def _within_quota(cores: int) -> int:
    quota = cgroups.cpu_quota()
    return max(1, cores if quota is None else min(cores, round(quota)))


def _sysctl(name: str) -> int:
    """A number that macOS knows about the hardware; 0 where it does not tell."""
    try:
        told = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(told) if told.strip().isdigit() else 0


def total_memory() -> int:
    """Bytes of memory this process may use; 0 where unknown."""
    installed = _meminfo("MemTotal") or _sysconf_memory()
    limit = cgroups.memory_limit()
    return installed if limit is None else min(installed or limit, limit)


def free_memory() -> int:
    """Bytes of memory that can still be had without swapping, within a container's limit; 0 where unknown."""
    free, left = _meminfo("MemAvailable"), cgroups.memory_left()
    return free if left is None else min(free or left, max(1, left))  # 1: no room at all is not "unknown"


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
