"""Where the time of a training step goes on a CPU: matrix products, attention, loss, optimizer, the rest.

    python benches/cpu_profile.py [--depth 4] [--rows 16] [--json] ...

The model is that of `--preset cpu` (heads of 64, context 512, vocabulary 32,768, full windows), trained as the start-up
probe chooses, in the environment that a worker gets. The profiler counts the time of each operator without its parts;
matrix products are all GEMM calls, those inside attention included. Optimizer time is measured apart from that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nanochat_cli.core import launch, machine
from nanochat_cli.core.settings import ComputeSection, OptimSection

GROUPS = {
    "matrix products": ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "mkldnn", "onednn"),
    "attention kernels": ("flash_attention", "scaled_dot_product"),
    "compiled loops": ("cpp_fused", "graph_"),
    "embedding look-ups": ("embedding", "index_select", "index_put", "index_add", "scatter", "gather"),
    "optimizer kernel": ("fused_adam",),
    "exponentials": ("exp2", "exp", "sigmoid", "log", "reciprocal", "tanh"),
    "copies and casts": ("copy_", "to_copy", "clone", "contiguous", "cat", "stack", "fill_", "zero_", "empty"),
}


def main() -> None:
    """Print a table, or one JSON object with --json."""
    args = parse()
    if not args.inside:  # again, with the threads and the allocator that workers get
        env = launch.worker_env(ComputeSection(gpus=0, threads=args.threads), 1)
        sys.exit(subprocess.run([sys.executable, *sys.argv, "--inside"], env={**os.environ, **env}).returncode)
    result = measure(args)
    print(json.dumps(result) if args.json else table(result))


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"depth": 4, "context": 512, "vocab": 32_768, "head-dim": 64, "rows": 16, "steps": 5}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--arch", default="nanochat")
    parser.add_argument("--threads", type=int, default=machine.physical_cores())
    for name, choices in (("precision", ("auto", "bf16", "fp32")), ("attention", ("auto", "fused", "matmul"))):
        parser.add_argument(f"--{name}", default="auto", choices=choices)
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return milliseconds per step by kind of work."""
    import torch

    from nanochat_cli.core import optim
    from nanochat_cli.core.models.build import build
    from nanochat_cli.core.models.shape import from_depth, num_params
    from nanochat_cli.core.train import probe

    torch.set_num_threads(args.threads)
    config = from_depth(
        args.depth, args.vocab, args.context, head_dim=args.head_dim, arch=args.arch, window_pattern="L"
    )
    with tempfile.TemporaryDirectory() as folder:
        how = probe.choose(
            config,
            device_batch_size=args.rows,
            threads=args.threads,
            requested=ComputeSection(gpus=0, precision=args.precision, attention=args.attention, compile=args.compile),
            cache_path=Path(folder) / "probe.json",
            planned_tokens=80_000_000,
        )
    model = build(config)
    model.set_precision(how.dtype)
    model.set_attention(how.attention)
    losses = torch.compile(model.losses, dynamic=False) if how.compile else model.losses
    optimizer = optim.build(model.param_groups(), OptimSection(), precision=how.dtype)
    ids = torch.randint(args.vocab, (args.rows, args.context + 1), generator=torch.Generator().manual_seed(0))
    x_BT, y_BT = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def gradient() -> None:
        (losses(x_BT, y_BT).sum() / y_BT.numel()).backward()

    def update() -> None:
        optimizer.clip(None)
        optimizer.step(1.0, 0.95, 0.1)
        optimizer.zero_grad()

    for _ in range(2):
        gradient()
        update()
    seconds: dict[str, list[float]] = {"gradient": [], "optimizer": []}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(args.steps):
            began = time.perf_counter()
            gradient()
            middle = time.perf_counter()
            update()
            seconds["gradient"].append(middle - began)
            seconds["optimizer"].append(time.perf_counter() - middle)
    groups: dict[str, float] = {}
    others: dict[str, float] = {}
    for event in profile.key_averages():
        ms = event.self_cpu_time_total / 1000 / args.steps
        group = kind(event.key)
        groups[group] = groups.get(group, 0.0) + ms
        if group == "other":
            others[event.key] = ms
    step_ms = 1000 * statistics.median(a + b for a, b in zip(*seconds.values(), strict=True))
    return {
        "benchmark": "cpu_profile",
        "shape": {k: getattr(args, k) for k in ("arch", "depth", "head_dim", "context", "vocab", "rows", "threads")},
        "params": num_params(config),
        "choice": how.name,
        "measured": how.tokens_per_s,
        "step_ms": step_ms,
        "optimizer_ms": 1000 * statistics.median(seconds["optimizer"]),
        "tokens_per_s": 1000 * args.rows * args.context / step_ms,
        "groups_ms": groups,
        "other": dict(sorted(others.items(), key=lambda item: -item[1])[:8]),
        "machine": {"cpu": machine.cpu_name(), "cores": machine.usable_cores(), "torch": torch.__version__},
    }


def kind(operator: str) -> str:
    """Return the group of an operator by its name."""
    name = operator.removeprefix("aten::").lower()
    parts = set(name.replace("::", "_").split("_")) | {name}
    for group, words in GROUPS.items():
        if any(word in parts or (len(word) > 5 and word in name) for word in words):
            return group
    return "other"


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    total = sum(result["groups_ms"].values())
    lines = [f"{' '.join(f'{k}={v}' for k, v in result['shape'].items())}; {result['params']:,} parameters"]
    lines.append(f"{result['choice']}: {result['tokens_per_s']:,.0f} tok/s, {result['step_ms']:.0f} ms a step, ")
    lines[-1] += f"{result['optimizer_ms']:.0f} of them the optimizer"
    for name, ms in sorted(result["groups_ms"].items(), key=lambda item: -item[1]):
        lines.append(f"{name:20}{ms:9.1f} ms{100 * ms / total:7.1f} %")
    lines.append("other: " + ", ".join(f"{name} {ms:.1f}" for name, ms in result["other"].items()))
    lines.append(f"{result['machine']['cpu']}, {result['machine']['cores']} cores, torch {result['machine']['torch']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
