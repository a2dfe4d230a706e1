"""A corpus as token shards, end to end: read and check the text, encode, write, hash, publish.

Usage: python benches/token_shards.py FOLDER [--vocab 65536] [--rounds 3] [--threads 1 2] [--json]
FOLDER holds parquet shards with a column `text`, from which a corpus and a tokenizer are made first. MB are those of
the text; one core means that the whole process may use one core (Linux: sched_setaffinity).
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

from nanochat_cli.core import machine
from nanochat_cli.core.data import importer, tokens, vocabulary
from nanochat_cli.core.data.corpus import SPLITS, Corpus
from nanochat_cli.core.tokenizer import library

NAME = "bench"


def prepare(base: Path, folder: Path, vocab: int) -> None:
    """Make the corpus and the tokenizer."""
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    importer.add_files(sorted(folder.glob("*.parquet")), NAME)
    vocabulary.train(vocabulary.make_plan([NAME], vocab=vocab))


def build(threads: int) -> dict[str, Any]:
    """Encode the corpus once, on as many cores as threads, and return seconds and megabytes."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    corpus, tokenizer = Corpus.open(NAME), library.open(NAME)
    began, cpu = time.perf_counter(), time.process_time()
    made = tokens.ensure(corpus, tokenizer, threads=threads, verify=False)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    megabytes = sum(corpus.text_bytes(split) for split in SPLITS) / 1e6
    return {
        "threads": threads,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "megabytes": megabytes,
        "tokens": sum(made.split(split).num_tokens for split in SPLITS),
    }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(build(args.one)))
        return
    with tempfile.TemporaryDirectory() as base:
        prepare(Path(base), args.folder, args.vocab)
        runs: dict[int, list[dict[str, Any]]] = {threads: [] for threads in args.threads}
        for _ in range(args.rounds):
            for threads in args.threads:
                argv = [sys.executable, __file__, str(args.folder), "--one", str(threads)]
                runs[threads].append(json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout))
                made = tokens.folder(Corpus.open(NAME), library.open(NAME))
                for path in sorted(made.iterdir()):
                    path.unlink()
                made.rmdir()
    if args.json:
        print(json.dumps({"machine": machine.describe(), "vocab": args.vocab, "runs": runs}))
        return
    print(f"{machine.cpu_name()}, {machine.usable_cores()} cores; vocabulary {args.vocab:,}; medians of {args.rounds}")
    for threads, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        cpu = statistics.median(run["cpu_seconds"] for run in found)
        megabytes = found[0]["megabytes"]
        print(
            f"{threads} cores: {seconds:6.2f} s, {megabytes / seconds:6.1f} MB/s, "
            f"{megabytes / seconds / threads:6.1f} MB/s per core, {megabytes / cpu:6.1f} MB per CPU second"
        )


if __name__ == "__main__":
    main()
