"""Training speed of one model, side by side in one run: plain fp32 against what the start-up probe chooses.

    python benches/train_speed.py [--json] [--rounds 8] [--rows 16] ...

Baseline: the same model and optimizer in plain fp32, eager, `scaled_dot_product_attention`, cross-entropy over fp32
logits, in a process as Python starts it. Chosen: what `nanochat train base` would run, in the environment its workers
get. Each lives in a process of its own and they take turns, a few steps at a time, so that whatever else the machine
does hits both; the figures are medians. A step is forward, backward, clipping and both optimizers.
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
from nanochat_cli.core.settings import ComputeSection


def main() -> None:
    """Print a table, or one JSON object with --json."""
    args = parse()
    if args.role:
        serve(args)
        return
    sides = {"baseline": start("baseline", args, dict(os.environ)), "chosen": start("chosen", args, tuned(args))}
    ready = {name: answer(process) for name, process in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, process in sides.items():
            print("go", file=process.stdin, flush=True)
            seconds[name] += answer(process)["seconds"]
    for process in sides.values():
        process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        process.wait()
    report(args, ready, seconds)


def parse() -> argparse.Namespace:
    """Return the options; the defaults are the shape of `nanochat demo`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"layers": 4, "width": 128, "heads": 2, "context": 128, "vocab": 1024, "rows": 16}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=machine.physical_cores())
    parser.add_argument("--rounds", type=int, default=8, help="turns of each side, of three steps")
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--attention", default="auto", choices=("auto", "fused", "matmul"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--role", choices=("baseline", "chosen"), help=argparse.SUPPRESS)
    return parser.parse_args()


def tuned(args: argparse.Namespace) -> dict[str, str]:
    """Return the environment that a training worker gets."""
    return launch.worker_env(ComputeSection(gpus=0, threads=args.threads), 1)


def start(role: str, args: argparse.Namespace, env: dict[str, str]) -> subprocess.Popen[str]:
    """Start one side as a process that takes its turn for each line it reads."""
    argv = [sys.executable, __file__, *sys.argv[1:], "--role", role]
    env = {**env, "OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    return subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the next line that a side prints."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        sys.exit("a side of the comparison failed; its error is above")
    return json.loads(line)


def serve(args: argparse.Namespace) -> None:
    """Set one side up, say so, then time three steps for each line that comes in."""
    import torch
    import torch.nn.functional as F

    from nanochat_cli.core import optim
    from nanochat_cli.core.models.build import build
    from nanochat_cli.core.models.shape import from_depth
    from nanochat_cli.core.settings import OptimSection
    from nanochat_cli.core.train import probe

    torch.set_num_threads(args.threads)
    config = from_depth(args.layers, args.vocab, args.context, n_embd=args.width, n_head=args.heads)
    model = build(config)
    facts: dict[str, Any] = {"params": model.num_params()}
    precision = "fp32"
    if args.role == "baseline":

        def losses(x_BT: torch.Tensor, y_BT: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(model(x_BT).flatten(0, 1), y_BT.flatten(), ignore_index=-1, reduction="none")
    else:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            how = probe.choose(
                config,
                device_batch_size=args.rows,
                threads=args.threads,
                requested=ComputeSection(
                    gpus=0, precision=args.precision, attention=args.attention, compile=args.compile
                ),
                cache_path=Path(folder) / "probe.json",
                planned_tokens=15_000_000,
            )
            facts |= {
                "choice": how.name,
                "measured": how.tokens_per_s,
                "probe_s": round(time.perf_counter() - began, 1),
            }
        precision = how.dtype
        model.set_precision(how.dtype)
        model.set_attention(how.attention)
        losses = torch.compile(model.losses, dynamic=False) if how.compile else model.losses
    optimizer = optim.build(model.param_groups(), OptimSection(), precision=precision)
    ids = torch.randint(args.vocab, (args.rows, args.context + 1), generator=torch.Generator().manual_seed(0))
    x_BT, y_BT = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> float:
        began = time.perf_counter()
        (losses(x_BT, y_BT).sum() / y_BT.numel()).backward()
        optimizer.clip(1.0)
        optimizer.step(1.0, 0.95, 0.0)
        optimizer.zero_grad()
        return time.perf_counter() - began

    for _ in range(3):
        step()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        step()  # bring the other side's leftovers out of the caches
        print(json.dumps({"seconds": [step() for _ in range(3)]}), flush=True)


def report(args: argparse.Namespace, ready: dict[str, Any], seconds: dict[str, list[float]]) -> None:
    """Print medians, their ratio, and what they were measured on."""
    import torch

    tokens = args.rows * args.context
    speed = {name: tokens / statistics.median(taken) for name, taken in seconds.items()}
    pairs = zip(seconds["baseline"], seconds["chosen"], strict=True)
    result = {
        "benchmark": "train_speed",
        "shape": {k: getattr(args, k) for k in ("layers", "width", "heads", "context", "vocab", "rows", "threads")},
        "params": ready["baseline"]["params"],
        "tokens_per_s": {name: round(value) for name, value in speed.items()},
        "best_tokens_per_s": {name: round(tokens / min(taken)) for name, taken in seconds.items()},
        "ratio": round(speed["chosen"] / speed["baseline"], 2),
        "ratio_by_turn_median": round(statistics.median(a / b for a, b in pairs), 2),
        **{k: v for k, v in ready["chosen"].items() if k != "params"},
        "machine": {"cpu": machine.cpu_name(), "cores": machine.usable_cores(), "torch": torch.__version__},
    }
    if args.json:
        print(json.dumps(result))
        return
    shape = " ".join(f"{k}={v}" for k, v in result["shape"].items())
    print(f"{result['params']:,} parameters; {shape}; {tokens:,} tokens per step")
    print(f"{'':34}{'median tok/s':>13}{'best tok/s':>12}{'ms/step':>9}")
    for name, label in (("baseline", "plain fp32, eager, fused"), ("chosen", f"chosen: {ready['chosen']['choice']}")):
        ms = 1000 * statistics.median(seconds[name])
        print(f"{label:34}{speed[name]:13,.0f}{result['best_tokens_per_s'][name]:12,}{ms:9.1f}")
    print(f"ratio of medians {result['ratio']:.2f}, median of ratios turn by turn {result['ratio_by_turn_median']:.2f}")
    print(f"probe {result['probe_s']} s: {result['measured']}")
    print(f"{result['machine']['cpu']}, {result['machine']['cores']} cores, torch {result['machine']['torch']}")


if __name__ == "__main__":
    main()
