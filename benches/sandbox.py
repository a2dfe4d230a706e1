"""What a sandboxed program costs on top of itself: time per run, and programs per second on all cores.

Usage: python benches/sandbox.py [--runs 100] [--sandbox auto] [--ballast 2000] [--json]

`--ballast` megabytes are held by this process meanwhile: the cost must not depend on the size of the starter.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

from nanochat_cli.core import machine
from nanochat_cli.core.sandbox.limits import Job
from nanochat_cli.core.sandbox.pool import Sandbox

JOB = Job(program="def f(x):\n    return x + 1\n", tests="for i in range(10):\n    assert f(i) == i + 1\n", entry="f")


def alone(sandbox: Sandbox, runs: int) -> tuple[list[float], list[float]]:
    """Wall and processor milliseconds of programs that run one after the other."""
    outcomes = [sandbox.check(JOB) for _ in range(runs + 3)][3:]
    assert all(outcome.passed for outcome in outcomes)
    return [1000 * outcome.seconds for outcome in outcomes], [1000 * outcome.cpu_s for outcome in outcomes]


def together(sandbox: Sandbox, runs: int) -> float:
    """Programs per second, all workers busy."""
    sandbox.check_all([JOB] * sandbox.workers)
    began = time.perf_counter()
    assert all(outcome.passed for outcome in sandbox.check_all([JOB] * runs))
    return runs / (time.perf_counter() - began)


def bare(runs: int) -> list[float]:
    """Milliseconds of a bare interpreter that does nothing, the yardstick."""
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--sandbox", default="auto")
    parser.add_argument("--ballast", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    ballast = bytearray(args.ballast << 20)
    began = time.perf_counter()
    with Sandbox(args.sandbox) as sandbox:
        opened = time.perf_counter() - began
        wall, cpu = alone(sandbox, args.runs)
        rate = together(sandbox, 3 * args.runs)
        tier, workers = sandbox.tier, sandbox.workers
    found = {
        "machine": f"{machine.cpu_name()}, {machine.usable_cores()} cores, Python {platform.python_version()}",
        "tier": tier,
        "workers": workers,
        "ballast_mb": len(ballast) >> 20,
        "open_and_prove_ms": round(1000 * opened, 1),
        "run_ms": round(statistics.median(wall), 2),
        "run_ms_min": round(min(wall), 2),
        "run_cpu_ms": round(statistics.median(cpu), 2),
        "bare_interpreter_ms": round(statistics.median(bare(max(5, args.runs // 5))), 2),
        "programs_per_s": round(rate, 1),
    }
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:20}  {value}")


if __name__ == "__main__":
    main()
