"""The whole demo for several seeds, one after the other: time, memory, held-out answers, and the worst of all seeds.

Usage: python benches/demo_seeds.py [--seeds 0 1 2] [--base FOLDER] [--rl] [--json]
With --rl the model before reinforcement learning answers the same 200 questions a family, to see what that changed.
A finished run in FOLDER is not trained again, but read; its time and memory are then those of reading.
Memory is that of the largest process; the command that started it adds about 100 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nanochat_cli.core import machine

# Family: least share of right answers with trained wordings, and with wordings that were never trained on.
GATES: dict[str, tuple[float, float | None]] = {
    "add-2": (0.97, 0.95), "add-3": (0.97, 0.95), "sub-2": (0.97, 0.95), "sub-3": (0.97, 0.95), "spell": (0.95, 0.85),
    "first-letter": (0.90, None), "last-letter": (0.90, None), "word-length": (0.90, None), "count": (0.85, 0.70),
    "facts": (0.90, None), "next-number": (0.85, None), "tell": (0.95, None), "chat": (0.98, None),
    "story/who-moved": (0.65, None), "ends its turn": (0.98, None),
}  # fmt: skip


STORY_MARGIN = 0.10  # all story questions: right answers above those of the shortcut
RL_MAY_COST = 0.03  # of a family's answers, between fine-tuning and reinforcement learning


def run_demo(seed: int, base: Path) -> dict[str, Any]:
    """The demo's own result, with wall seconds and the peak memory of its largest process."""
    env = {**os.environ, "NANOCHAT_BASE_DIR": str(base)}
    executable = Path(sys.executable).with_name("nanochat")
    began = time.perf_counter()
    argv = [str(executable), "demo", "--no-chat", "--json", "-q", "--seed", str(seed)]
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {**json.loads(done.stdout), "wall_s": seconds, "peak_mb": peak}


def before_rl(seed: int, base: Path) -> dict[str, Any]:
    """The answers of the fine-tuned model to the questions that the demo asks at its end."""
    env = {**os.environ, "NANOCHAT_BASE_DIR": str(base)}
    run = "demo" if seed == 0 else f"demo-s{seed}"
    argv = [str(Path(sys.executable).with_name("nanochat")), "eval", "--run", run, "--source", "sft"]
    argv += ["--limit", "200", "--config", "demo", "-q"]
    subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, check=True)
    return json.loads((base / "runs" / run / "eval" / "sft.json").read_text(encoding="utf-8"))


def print_changes(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """What reinforcement learning changed, in held-out keys: counts before and after for each seed."""
    print("\nheld: before -> after reinforcement learning")
    pairs = [(shares(b, "held"), shares(a, "held")) for b, a in zip(before, after, strict=True)]
    for family in pairs[0][0]:
        changes = [(b[family][0], a[family][0], a[family][1]) for b, a in pairs]
        worst = min((a - b) / total for b, a, total in changes)
        mark = "COSTS" if worst < -RL_MAY_COST else ""
        print(f"{family:18} {worst:+6.1%} {mark:5}  {'  '.join(f'{b}->{a}' for b, a, _ in changes)}")


def shares(result: dict[str, Any], split: str) -> dict[str, tuple[int, int, int | None]]:
    """Right answers, questions and what the shortcut gets right, by family."""
    task = next(task for task in result["tasks"] if task["split"] == split)
    found = {name: (s["correct"], s["total"], s.get("shortcut")) for name, s in task["families"].items()}
    return found | {"ends its turn": (task["all"]["well_formed"], task["all"]["total"], None)}


def rows(results: list[dict[str, Any]], split: str) -> list[tuple[str, list[str], float, float | None]]:
    """One row per family: counts by seed, the worst share, and the gate."""
    found = []
    by_seed = [shares(result, split) for result in results]
    for family in by_seed[0]:
        counts = [f"{s[family][0]}/{s[family][1]}" for s in by_seed]
        worst = min(s[family][0] / s[family][1] for s in by_seed)
        gate = GATES.get(family, (None, None))[0 if split == "held" else 1]
        if family == "story" and split == "held" and all(s[family][2] is not None for s in by_seed):
            gate = max(s[family][2] / s[family][1] for s in by_seed) + STORY_MARGIN
            counts = [f"{c} (shortcut {s[family][2]})" for c, s in zip(counts, by_seed, strict=True)]
        found.append((family, counts, worst, gate))
    return found


def main() -> None:
    """Print a table per split, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", type=Path)
    parser.add_argument("--rl", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = args.base or Path(folder)
        results = [run_demo(seed, base) for seed in args.seeds]
        before = [before_rl(seed, base) for seed in args.seeds] if args.rl else None
    if args.json:
        print(json.dumps({"machine": machine.describe(), "seeds": args.seeds, "results": results}))
        return
    print(f"{machine.cpu_name()}, {machine.usable_cores()} cores; seeds {args.seeds}")
    print("wall s:", *(f"{r['wall_s']:.0f}" for r in results), " peak MB:", *(f"{r['peak_mb']:.0f}" for r in results))
    for split in ("held", "held-wording"):
        print(f"\n{split:16} worst   gate")
        for family, counts, worst, gate in rows(results, split):
            mark = "" if gate is None else "ok" if worst >= gate else "BELOW"
            print(f"{family:18} {worst:6.1%} {'' if gate is None else f'{gate:.0%}':>5} {mark:5}  {'  '.join(counts)}")
    if before is not None:
        print_changes(before, results)


if __name__ == "__main__":
    main()
