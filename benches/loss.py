"""Time and peak memory of the loss part of a training step, forward and backward: from hidden states to gradients.

    python benches/loss.py [--json] [--tokens 4096] [--width 768] [--vocab 65536] [--dtype bf16] [--compile] ...

naive: `F.cross_entropy` over all logits in fp32. kept: our loss with all logits kept, in their own dtype. again: our
loss with logits made chunk by chunk, and again in the backward pass. chosen: what the size decides. Each runs in a
process of its own.
Memory is the peak above what lay there before: weight, hidden states and targets do not count, both gradients and the
weight's copy in the narrow dtype do. On a GPU it is what torch allocated, on Linux without one the peak of the process.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat_cli.core import machine

WAYS = ("naive", "kept", "again", "chosen")
MIB = 1 << 20


def main() -> None:
    """Print a table, or one JSON object with --json."""
    args = parse()
    if args.way:
        print(json.dumps(measure(args)))
        return
    found: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        argv = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        ended = subprocess.run(argv, capture_output=True, text=True)
        told = ended.stdout.strip().splitlines() if ended.returncode == 0 else []
        last = (ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"])[-1]
        found[way] = json.loads(told[-1]) if told else {"failed": last[:200]}
    report(args, found)


def parse() -> argparse.Namespace:
    """Return the options; the defaults are a sixteenth of a depth-12 step of 32 rows of 2,048 tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"tokens": 4096, "width": 768, "vocab": 65_536, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=machine.physical_cores())
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp16", "fp32"))
    parser.add_argument("--device", default=None, help="cpu or cuda (default: a GPU if there is one)")
    parser.add_argument("--compile", action="store_true", help="compile each way, as training does")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return milliseconds, peak MiB and the mean loss of one way."""
    import torch
    import torch.nn.functional as F

    from nanochat_cli.core.models import loss
    from nanochat_cli.core.models.loss import softcapped_cross_entropy

    torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[args.dtype]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, args.tokens, args.width, generator=g).to(dtype).to(device).requires_grad_()
    weight = (torch.randn(args.vocab, args.width, generator=g) * args.width**-0.5).to(device).requires_grad_()
    target = torch.randint(args.vocab, (1, args.tokens), generator=g).to(device)

    def naive(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = 15.0 * torch.tanh(F.linear(x, weight.to(x.dtype)).float() / 15.0)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1, reduction="none")

    def ours(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return softcapped_cross_entropy(x, weight, target, 15.0)

    loss.KEPT_BYTES = {"kept": 1 << 62, "again": 0}.get(args.way, loss.KEPT_BYTES)
    way = naive if args.way == "naive" else ours
    way = torch.compile(way, dynamic=False) if args.compile else way
    gpu = device.type == "cuda"

    def step() -> float:
        x.grad = weight.grad = None
        began = time.perf_counter()
        mean = way(x, weight, target).mean()
        mean.backward()
        value = mean.item()
        if gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        return value

    seconds: list[float] = []
    value = step()  # warms up, and compiles
    x.grad = weight.grad = None
    gc.collect()
    peak = cuda_peak(step, device) if gpu else process_peak(step)
    seconds.clear()
    for _ in range(args.rounds):
        step()
    name = torch.cuda.get_device_name(device) if gpu else machine.cpu_name()
    facts = {"device": name, "torch": torch.__version__}
    return {"ms": 1000 * statistics.median(seconds), "peak_mib": peak, "mean_loss": value, **facts}


def cuda_peak(step: Callable[[], float], device: Any) -> float:
    """Return the MiB that torch allocates on top during a step."""
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


def process_peak(step: Callable[[], float]) -> float | None:
    """Return the MiB by which the process grows at most during a step; None where the system does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        step()
        return None
    reset.write_text("5")  # the peak starts anew

    def kib(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    before = kib("VmRSS")
    step()
    return (kib("VmHWM") - before) / 1024


def report(args: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    """Print what each way took."""
    keys = ("tokens", "width", "vocab", "dtype", "compile", "threads", "rounds")
    result = {"benchmark": "loss", "shape": {key: getattr(args, key) for key in keys}, "ways": found}
    if args.json:
        print(json.dumps(result))
        return
    print(" ".join(f"{key}={value}" for key, value in result["shape"].items()))
    print(f"{'':8}{'ms':>10}{'peak MiB':>11}{'mean loss':>12}")
    for way, told in found.items():
        if "failed" in told:
            print(f"{way:8}  failed: {told['failed']}")
            continue
        peak = f"{told['peak_mib']:11,.0f}" if told["peak_mib"] is not None else f"{'?':>11}"
        print(f"{way:8}{told['ms']:10,.1f}{peak}{told['mean_loss']:12.5f}")
    ran = [told for told in found.values() if "device" in told]
    if ran:
        print(f"{ran[0]['device']}, torch {ran[0]['torch']}")


if __name__ == "__main__":
    main()
