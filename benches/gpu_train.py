"""Training speed on one GPU: steps per case with MFU, memory, data stall and the optimizer's share, in one go.

    python benches/gpu_train.py [--cases d12 d20 d26 d26-fp8] [--budget 420] [--out DIR] [--json] [--profile]
    python benches/gpu_train.py --projected [--gpu h200]      without a GPU: what public runs let expect

A case is a depth, and what is to differ from what training would choose: `d26-fp8-flex-r16-b512k` is depth 26 in FP8
with that attention kernel, 16 rows per forward pass and 512 x 1,024 tokens per step. Each runs in a process of its own
with a time limit, so that one that fails does not end the others; cases for which the budget does not last are dropped
from the end, by name. DIR/gpu_train.json is written anew after every case. Needs neither a corpus, a tokenizer, the
native module, the repository's history nor a network. MFU is counted against the dense bf16 peak, for FP8, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEFAULT = ("d12", "d20", "d26", "d26-fp8")
BARS = {"d12": 0.45, "d20": 0.52, "d26": 0.55, "d26-fp8": 0.60}
_START_S, _COMPILE_S, _COMPILE_LAYER_S = 15.0, 15.0, 1.5  # what a case costs before its first timed step, roughly
_LAST_WORDS_S = 10.0  # kept back of a case's limit, for it to end by itself
COLUMNS = (
    ("case", "case", "{}"),
    ("precision", "precision", "{}"),
    ("attention", "attention", "{}"),
    ("device_batch", "rows", "{}"),
    ("total_batch", "tokens/step", "{:,}"),
    ("compile_s", "compile s", "{:.0f}"),
    ("step_ms", "ms/step", "{:,.1f}"),
    ("tokens_per_s", "tok/s", "{:,.0f}"),
    ("mfu", "MFU", "{:.1%}"),
    ("bar", "bar", "{:.0%}"),
    ("peak_gib", "peak GiB", "{:.1f}"),
    ("data_stall", "data stall", "{:.2%}"),
    ("optimizer_share", "optimizer", "{:.1%}"),
)


def main() -> None:
    """Print a table, or one JSON object with --json."""
    args = parse()
    if args.projected:
        finish(args, [projection(name, args.gpu) for name in args.cases], {})
        return
    ends = time.monotonic() + args.budget
    rows: list[dict[str, Any]] = []
    for name in args.cases:
        left = ends - time.monotonic()
        need = 0.0 if args.device == "cpu" else expected_s(name, args)
        if left < need or left <= 0:
            row: dict[str, Any] = {"case": name, "dropped": f"{left:.0f} s left, about {need:.0f} s needed"}
        else:
            row = run_case(name, args, left)
        rows.append(row | ({"bar": BARS[name]} if name in BARS else {}))
        write(args, rows)
        if not args.json:
            print(line(rows[-1]), file=sys.stderr, flush=True)
    finish(args, rows, {"seconds": round(args.budget - (ends - time.monotonic()), 1)})


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(DEFAULT), metavar="CASE")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds for everything (default: 420)")
    parser.add_argument("--case-seconds", type=float, default=180.0, help="most seconds of one case (default: 180)")
    parser.add_argument("--steps", type=int, default=10, help="most timed steps of a case (default: 10)")
    parser.add_argument("--seconds", type=float, default=15.0, help="timed seconds after which two steps are enough")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--threads", type=int, default=None, help="threads of torch on the CPU")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes, by kernel")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="folder for gpu_train.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--projected", action="store_true", help="compute from public figures; measure nothing")
    parser.add_argument("--gpu", default="h200", help="what to project for (default: h200)")
    return parser.parse_args()


def depth_of(name: str) -> int:
    """Return the depth in a case's name."""
    word = name.split("-")[0]
    if word != "tiny" and not (word[:1] == "d" and word[1:].isdigit()):
        sys.exit(f"no such case: {name} (for example d12, d26-fp8, tiny)")
    return 2 if word == "tiny" else int(word[1:])


def expected_s(name: str, args: argparse.Namespace) -> float:
    """Return about how many seconds a case takes; short of that it is not begun."""
    return _START_S + _COMPILE_S + _COMPILE_LAYER_S * depth_of(name) + min(args.seconds, 15.0)


def run_case(name: str, args: argparse.Namespace, left: float) -> dict[str, Any]:
    """Run one case in a process of its own; where memory runs out, once more with half the rows."""
    limit = min(left, args.case_seconds)
    began = time.monotonic()
    row = _child(name, args, limit)
    rest = limit - (time.monotonic() - began)
    if "out of memory" in row.get("failed", "") and row.get("device_batch", 1) > 1 and rest > _START_S:
        again = _child(f"{name}-r{row['device_batch'] // 2}", args, rest)
        return again | {"case": name, "note": f"{row['device_batch']} rows ran out of memory"}
    return row


def _child(name: str, args: argparse.Namespace, limit: float) -> dict[str, Any]:
    asked = {
        "steps": args.steps,
        "seconds": args.seconds,
        "left_s": max(1.0, limit - _LAST_WORDS_S),
        "profile": args.profile,
        "threads": args.threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        argv = [sys.executable, str(HERE / "gpu_case.py"), name, args.device, str(file), json.dumps(asked)]
        try:
            ended = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=limit)
            words = ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"]
            failure = None if ended.returncode == 0 else words[-1][:300]
        except subprocess.TimeoutExpired:
            failure = f"stopped after {limit:.0f} s"
        found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"case": name}
    if failure is not None:
        found["cut_short" if "step_ms" in found else "failed"] = failure
    return found


def environment() -> dict[str, str]:
    """Return what a case's process gets: this checkout first, and memory as training workers have it."""
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [env.get("PYTHONPATH")])])
    if "PYTORCH_ALLOC_CONF" not in env:
        env.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    return env


def projection(name: str, gpu: str) -> dict[str, Any]:
    """Return what public runs of such models let expect on a GPU: nothing here was measured."""
    sys.path.insert(0, str(HERE.parent))
    from nanochat_cli.core import devices, estimate, scaling
    from nanochat_cli.core.models import shape

    depth, narrow = depth_of(name), "fp8" in name.split("-")
    device = devices.named(gpu)
    net = shape.from_depth(depth, 32_768, 2048, arch="nanochat")
    assumed = estimate.assumed_mfu(depth, device, fp8=narrow)
    flops, total = shape.flops_per_token(net), scaling.total_batch_size(net)
    speed = estimate.tokens_per_s(flops, device, 1, assumed.mfu)
    return {
        "case": name,
        "projected": True,
        "source": assumed.source,
        "device": device.title,
        "precision": "fp8" if narrow else "bf16",
        "total_batch": total,
        "tokens_per_s": round(speed, 1),
        "step_ms": round(1000 * total / speed, 1),
        "mfu": assumed.mfu,
        "flops_per_token": flops,
        **({"bar": BARS[name]} if name in BARS else {}),
    }


def result_of(args: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return everything as one object."""
    return {"benchmark": "gpu_train", "projected": args.projected, "cases": rows}


def write(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Put what is known so far into DIR/gpu_train.json."""
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "gpu_train.json").write_text(json.dumps(result_of(args, rows), indent=1), encoding="utf-8")


def line(row: dict[str, Any]) -> str:
    """Return a case in one line of the table."""
    for problem in ("dropped", "failed"):
        if problem in row:
            return f"{row['case']:<20} {problem}: {row[problem]}"
    cells = [form.format(row[key]) if row.get(key) is not None else "-" for key, _, form in COLUMNS]
    rest = [f"cut short: {row['cut_short']}"] if "cut_short" in row else []
    rest += [] if row.get("compiled", True) else ["EAGER"]
    return "  ".join([f"{cells[0]:<20}", *(f"{cell:>11}" for cell in cells[1:]), *rest])


def finish(args: argparse.Namespace, rows: list[dict[str, Any]], more: dict[str, Any]) -> None:
    """Print the table, or the object."""
    write(args, rows)
    if args.json:
        print(json.dumps(result_of(args, rows) | more))
        return
    if args.projected:
        print(f"PROJECTED for one {args.gpu}, from public figures; nothing was measured")
    print("  ".join([f"{COLUMNS[0][1]:<20}", *(f"{title:>11}" for _, title, _ in COLUMNS[1:])]))
    for row in rows:
        print(line(row))
    for row in rows:
        for warning in row.get("warnings", ()):
            print(f"{row['case']}: {warning}")
    profiled = [row for row in rows if "profile" in row]
    if profiled:
        sys.path.insert(0, str(HERE))
        from gpu_profile import lines

        for row in profiled:
            print(f"\n{row['case']}")
            print("\n".join(lines(row["profile"])))
    facts = next((row for row in rows if "torch" in row), None)
    if facts is not None:
        print(f"\n{facts['device']}, torch {facts['torch']}, {more.get('seconds', 0):.0f} s in all")
    dropped = [row["case"] for row in rows if "dropped" in row]
    if dropped:
        print(f"not measured for want of time: {', '.join(dropped)}")


if __name__ == "__main__":
    main()
