"""What saving costs a training: how long it waits for a checkpoint, and how much slower steps beside the writing are.

    python benches/saving.py [--json] [--mb 2000] [--saves 4] [--cadence 600] [--folder DIR]

A model and an optimizer of so many MB are saved while a loop of matrix products stands for training. The share of time
is what one save costs, waiting and slower steps together, of the time between two. Nothing is left in the folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_cli.core import events, machine, slices
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.slices import Slice
from nanochat_cli.core.stepdirs import Keep
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train.saver import Saver


def main() -> None:
    """Print what was found, as text or one JSON object."""
    args = parse()
    folder = Path(tempfile.mkdtemp(prefix="saving-", dir=args.folder))
    try:
        found = {"machine": machine.describe().get("cpu"), "torch": torch.__version__, **stalls(args, folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:>28}  {value}")


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=2000, help="size of the checkpoint")
    parser.add_argument("--saves", type=int, default=4, help="saves to measure")
    parser.add_argument("--cadence", type=float, default=600, help="seconds between saves, for the share of time")
    parser.add_argument("--folder", default=None, help="where to write (default: the temporary folder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


class Holds:
    """An optimizer that only has a state."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Tensor]:
        return self.state

    def slices(self) -> list[Slice]:
        return slices.whole(self.state)


def stalls(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """How long training waits for a save, and what steps take while one is written."""
    each = args.mb * 1_000_000 // 4 // 3
    count = max(1, each // 4_000_000)
    weights = {f"w{i}": torch.rand(each // count) for i in range(count)}
    state = Holds({f"{kind}{i}": torch.rand(each // count) for kind in ("m", "v") for i in range(count)})
    saver = Saver(
        folder,
        Dist(),
        events.NULL,
        record={"model": {}, "tokenizer": {}},
        tokenizer=Tokenizer.train(["a cat and a dog " * 20], 270),
        keep=Keep(last=1),
    )
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)

    def step() -> float:
        began = time.perf_counter()
        a @ b
        return time.perf_counter() - began

    saver.prepare(weights, state)
    alone = [step() for _ in range(200)]
    beside: list[float] = []
    waits, writes = [], []
    for number in range(args.saves):
        began = time.perf_counter()
        saver.start(number + 1, weights, state, {})
        wait = time.perf_counter() - began
        took: list[float] = []
        while saver._job is not None:
            took.append(step())
            saver.settle(0, 0)
        waits.append(wait)
        writes.append(saver.seconds)
        beside += took
    saver.close()
    slower = statistics.fmean(beside) / statistics.fmean(alone) - 1
    lost = statistics.median(waits) + max(0.0, slower) * statistics.median(writes)
    return {
        "checkpoint MB": args.mb,
        "wait, first save s": round(waits[0], 3),
        "wait, median s": round(statistics.median(waits), 3),
        "wait, longest s": round(max(waits), 3),
        "until published, median s": round(statistics.median(writes), 2),
        "steps beside it, slower by %": round(100 * slower, 1),
        "longest step beside it ms": round(1000 * max(beside), 1),
        "median step alone ms": round(1000 * statistics.median(alone), 2),
        f"share of time at every {args.cadence:g} s %": round(100 * lost / args.cadence, 3),
    }


if __name__ == "__main__":
    main()
