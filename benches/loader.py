"""The loader on documents as long as those of the web: how fast rows come, and what each packing drops and pads.

Usage: python benches/loader.py [--documents 200000] [--context 2048] [--rows 32] [--json]
Document lengths are log-normal (median 400 tokens, sigma 1.1, which makes a mean of about 730); tokens are made in
memory, so no disk is measured. Rows are read in the shuffled order of training, --rows at a time, on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

from nanochat_cli.core import machine
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.data.packing import Packing, pack_documents
from nanochat_cli.core.data.tokens import TokenSplit

PACKINGS: tuple[Packing, ...] = ("whole", "crop")


def web_text(args: argparse.Namespace) -> TokenSplit:
    """Return random tokens in documents of many lengths."""
    random = np.random.default_rng(0)
    lengths = np.exp(random.normal(np.log(args.median), args.sigma, args.documents)).astype(np.int64) + 1
    tokens = random.integers(0, 32_000, lengths.sum(), dtype=np.uint16)
    return TokenSplit([(tokens, np.append(0, np.cumsum(lengths)))], bos_id=32_759)


def measure(split: TokenSplit, packing: Packing, args: argparse.Namespace) -> dict[str, Any]:
    """Pack once and read some micro-batches; the time of one is the median over all."""
    began = time.perf_counter()
    rows = pack_documents(split, args.context + 1, packing)
    pack_s = time.perf_counter() - began
    batches = Batches(rows, rows_per_step=args.rows, seed=0)
    batches.step(0)
    taken = []
    for step in range(1, args.batches + 1):
        began = time.perf_counter()
        batches.step(step)
        taken.append(time.perf_counter() - began)
    rows_per_s = args.rows / statistics.median(taken)
    return {
        "packing": packing,
        "pack_s_per_million_documents": round(1e6 * pack_s / split.num_docs, 2),
        "rows": rows.num_rows,
        "dropped_fraction": round(rows.dropped_fraction, 4),
        "padding_fraction": round(rows.padding_fraction, 6),
        "rows_per_s": round(rows_per_s),
        "tokens_per_s": round(rows_per_s * args.context),
    }


def main() -> None:
    """Print a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"documents": 200_000, "context": 2048, "rows": 32, "batches": 100, "median": 400}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sigma", type=float, default=1.1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(1)
    split = web_text(args)
    lengths = np.diff(split.doc_offsets)
    result = {
        "benchmark": "loader",
        "documents": split.num_docs,
        "tokens": split.num_tokens,
        "context": args.context,
        "beyond_context": round(float(np.maximum(lengths - args.context, 0).sum() / split.num_tokens), 4),
        "results": [measure(split, packing, args) for packing in PACKINGS],
        "machine": {"cpu": machine.cpu_name(), "cores": machine.usable_cores(), "numpy": np.__version__},
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"{split.num_docs:,} documents, {split.num_tokens:,} tokens, context {args.context}; ", end="")
    print(f"{result['beyond_context']:.1%} of the tokens are beyond the context of their document")
    print(
        f"{'packing':8}{'dropped':>9}{'padding':>9}{'rows':>12}{'s per million docs':>20}{'rows/s':>10}{'tokens/s':>14}"
    )
    for found in result["results"]:
        print(
            f"{found['packing']:8}{found['dropped_fraction']:9.1%}{found['padding_fraction']:9.3%}{found['rows']:12,}"
            f"{found['pack_s_per_million_documents']:20.2f}{found['rows_per_s']:10,}{found['tokens_per_s']:14,}"
        )
    print(f"{result['machine']['cpu']}, {result['machine']['cores']} cores, numpy {np.__version__}")


if __name__ == "__main__":
    main()
