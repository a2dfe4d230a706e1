"""Where the time of a training step goes on a GPU: kernels by name, and shares of what they are for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = (
    ("attention", r"flash|fmha|flex|attention|attn|fa3|mha_"),
    (
        "gemm",
        r"gemm|gemv|nvjet|cutlass|xmma|cublas|wgmma|_mm\b|_mm_|::mm|addmm|bmm|matmul|splitk|triton_tem|mkldnn|onednn",
    ),
    ("copy", r"memcpy|memset|copy_device|direct_copy|nccl"),
    (
        "elementwise",
        r"triton|elementwise|reduce|norm|vectorized|index|embedding|scatter|gather|cat|fill|foreach|aten::",
    ),
)
"""First match decides. What stands in none of them is `other`."""
TOP = 25


def kind_of(name: str) -> str:
    """Return what a kernel is for, by its name."""
    low = name.lower()
    return next((kind for kind, pattern in KINDS if re.search(pattern, low)), "other")


def kernels_of(work: Callable[[], object], device: torch.device) -> dict[str, tuple[float, int]]:
    """Run `work` and return milliseconds and calls by kernel (by operator on a CPU)."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    if on_gpu:
        torch.cuda.synchronize(device)
    with profile(activities=activities) as seen:
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
    found: dict[str, tuple[float, int]] = {}
    for event in seen.key_averages():
        if on_gpu and not _is_kernel(event):
            continue
        micros = _device_time(event) if on_gpu else event.self_cpu_time_total
        ms, calls = found.get(event.key, (0.0, 0))
        found[event.key] = (ms + micros / 1000, calls + event.count)
    return found


def _is_kernel(event: Any) -> bool:
    """Whether it is work of the device: operators, and ranges that were given a name, count their kernels once more."""
    named = getattr(event, "is_user_annotation", False) or event.key.startswith(("## Call", "Torch-Compiled"))
    return "CUDA" in str(event.device_type) and not named


def _device_time(event: Any) -> float:
    """Microseconds on the device, under the name that this version of torch gives them."""
    return getattr(event, "self_device_time_total", None) or getattr(event, "self_cuda_time_total", 0.0)


def summary(
    micro: Mapping[str, tuple[float, int]], update: Mapping[str, tuple[float, int]], num_micros: int
) -> dict[str, Any]:
    """Return one step's top kernels and shares, from one micro-batch (of `num_micros`) and one optimizer update.

    Everything that the update runs counts as `optimizer`, whatever its name.
    """
    total: dict[tuple[str, str], tuple[float, int]] = {}
    for part, times, found in (("model", num_micros, micro), ("optimizer", 1, update)):
        for name, (ms, calls) in found.items():
            total[part, name] = (times * ms, times * calls)
    shares: dict[str, float] = dict.fromkeys(("gemm", "attention", "elementwise", "copy", "optimizer", "other"), 0.0)
    for (part, name), (ms, _) in total.items():
        shares["optimizer" if part == "optimizer" else kind_of(name)] += ms
    busy = sum(shares.values())
    top = sorted(total.items(), key=lambda item: -item[1][0])[:TOP]
    return {
        "busy_ms": round(busy, 3),
        "shares": {kind: round(ms / busy, 4) if busy else 0.0 for kind, ms in shares.items()},
        "top": [
            {
                "name": name[:120],
                "kind": "optimizer" if part == "optimizer" else kind_of(name),
                "ms": round(ms, 3),
                "calls": calls,
                "share": round(ms / busy, 4) if busy else 0.0,
            }
            for (part, name), (ms, calls) in top
        ],
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return a summary as text."""
    shares = "  ".join(f"{kind} {share:.1%}" for kind, share in found["shares"].items())
    head = f"kernels of one step: {found['busy_ms']:,.1f} ms; {shares}"
    rows = [
        f"  {row['ms']:10,.2f} ms {row['share']:6.1%} {row['calls']:7,} x  {row['kind']:<11} {row['name']}"
        for row in found["top"]
    ]
    return [head, *rows]
