"""Ctrl-C and `kill -9` while a tokenizer is trained: how long until the prompt is back, and the same bytes in the end.

Usage: python benches/bpe_interrupt.py FOLDER [--vocab 65536] [--stops 8] [--save-every 0.3] [--json]
FOLDER holds parquet shards with a column `text`. The training is stopped at moments spread over its time, by SIGINT and
by SIGKILL in turn, and goes on with --resume; then the ranks are compared with those of a training that was left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nanochat_cli.core import machine

# The command line with a shorter time between two saves: the real one is longer than the whole training.
START = (
    "import sys; from nanochat_cli.core.tokenizer import training, unfinished; "
    "unfinished.SAVE_EVERY_S = float(sys.argv.pop(1)); training._WORTH_SAVING_S = 0.0; "
    "from nanochat_cli.main import main; sys.exit(main())"
)


def start(args: argparse.Namespace, name: str, *more: str) -> subprocess.Popen[bytes]:
    """Start a training; SIGINT works in it even if this script runs in the background."""
    files = sorted(map(str, args.folder.glob("*.parquet")))
    inputs = [word for path in files for word in ("--input", path)]
    argv = [sys.executable, "-c", START, str(args.save_every), "tok", "train", "--vocab", str(args.vocab)]
    return subprocess.Popen(
        [*argv, *inputs, "--name", name, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def ranks(base: str, name: str) -> str:
    """SHA-256 of what the training has published."""
    folder = Path(base) / "tokenizers" / name
    both = (folder / "ranks.tiktoken").read_bytes() + (folder / "tokenizer.json").read_bytes()
    return hashlib.sha256(both).hexdigest()


def main() -> None:
    """Print the seconds from the signal to the end of the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab", type=int, default=65_536)
    parser.add_argument("--stops", type=int, default=8)
    parser.add_argument("--save-every", type=float, default=0.3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as base:
        os.environ["NANOCHAT_BASE_DIR"] = base
        began = time.perf_counter()
        start(args, "whole").wait()
        whole_s = time.perf_counter() - began
        stops: list[dict[str, Any]] = []
        for number in range(args.stops):
            state = Path(base) / "tokenizers" / ".torn.unfinished" / "state.json"
            process = start(args, "torn", *(["--resume"] if state.is_file() else []))
            time.sleep(0.25 * whole_s + 0.6 * whole_s * number / max(1, args.stops - 1))
            if process.poll() is not None:
                break
            kind = signal.SIGKILL if number % 2 else signal.SIGINT
            began = time.perf_counter()
            process.send_signal(kind)
            process.wait()
            seconds = time.perf_counter() - began
            counted = state.is_file() and json.loads(state.read_text())["counted"]
            stops.append({"signal": kind.name, "seconds": seconds, "all_counted": counted})
        if not (Path(base) / "tokenizers" / "torn").is_dir():
            start(args, "torn", *(["--resume"] if state.is_file() else [])).wait()
        equal = ranks(base, "whole") == ranks(base, "torn")
    if args.json:
        print(json.dumps({"machine": machine.describe(), "whole_s": whole_s, "stops": stops, "equal": equal}))
        return
    print(f"{machine.cpu_name()}, {machine.usable_cores()} cores; left alone {whole_s:.2f} s")
    for stop in stops:
        where = "while merging or later" if stop["all_counted"] else "while counting"
        print(f"{stop['signal']:8} {where:24} {stop['seconds'] * 1000:6.0f} ms to the end of the process")
    waits = [stop["seconds"] for stop in stops if stop["signal"] == "SIGINT"]
    if waits:
        print(f"Ctrl-C: median {statistics.median(waits) * 1000:.0f} ms, longest {max(waits) * 1000:.0f} ms")
    print(f"same bytes as the training that was left alone: {equal}")


if __name__ == "__main__":
    main()
