"""How long the command line takes to start: medians of whole processes, warm.

Usage: python benches/start_up.py [--runs 15] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from nanochat_cli.core import machine

COMMANDS = (["--version"], ["--help"], ["train", "base", "--help"], ["runs", "ls"])


def milliseconds(argv: list[str], runs: int) -> list[float]:
    """Wall time of `runs` processes after two that warm the caches."""
    executable = Path(sys.executable).with_name("nanochat")
    taken = []
    for _ in range(runs + 2):
        began = time.perf_counter()
        subprocess.run([executable, *argv], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        taken.append(1000 * (time.perf_counter() - began))
    return taken[2:]


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = {"nanochat " + " ".join(argv): milliseconds(argv, args.runs) for argv in COMMANDS}
    medians = {name: round(statistics.median(taken), 1) for name, taken in found.items()}
    where = f"{machine.cpu_name()}, {machine.usable_cores()} cores, Python {platform.python_version()}"
    if args.json:
        print(json.dumps({"machine": where, "median_ms": medians}))
        return
    print(where)
    for name, taken in found.items():
        print(
            f"{name:28}  median {medians[name]:6.1f} ms  min {min(taken):6.1f}  max {max(taken):6.1f}  n={len(taken)}"
        )


if __name__ == "__main__":
    main()
