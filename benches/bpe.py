"""Tokenizer training and encoding beside rustbpe, Hugging Face tokenizers and tiktoken, on the same parquet shards.

Usage: python benches/bpe.py FOLDER [--vocab 65536] [--rounds 3] [--peers ours rustbpe hf] [--encode-mb 64] [--json]
FOLDER holds parquet shards with a column `text`. Each peer trains in a process of its own, the peers taking turns; the
medians count. Training runs from the shards to saved files, and the tokens must be equal; so must ids and tiktoken's.
rustbpe and tokenizers are not dependencies: pip install rustbpe tokenizers.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from nanochat_cli.core import machine
from nanochat_cli.core.data.ahead import read_ahead
from nanochat_cli.core.tokenizer import patterns
from nanochat_cli.core.tokenizer.tokenizer import SPECIALS, Tokenizer

PATTERN = "nanochat"
PEERS = ("ours", "rustbpe", "hf")


def arrays(folder: Path) -> Iterator[pa.Array]:
    """The texts of all shards, as Arrow arrays."""
    for path in sorted(folder.glob("*.parquet")):
        with parquet.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                yield from file.read_row_group(index, columns=["text"])[0].chunks


def texts(folder: Path) -> Iterator[str]:
    """The texts of all shards, as Python strings."""
    for array in arrays(folder):
        yield from array.to_pylist()


def train_ours(folder: Path, vocab: int, into: Path) -> list[bytes]:
    """Train with this project."""
    tokenizer = Tokenizer.train_on_batches(read_ahead(arrays(folder)), vocab + len(SPECIALS), pattern=PATTERN)
    tokenizer.save(into / "ours")
    return [tokenizer.id_to_bytes(id) for id in range(vocab)]


def train_rustbpe(folder: Path, vocab: int, into: Path) -> list[bytes]:
    """Train with rustbpe, as nanochat does."""
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(texts(folder), vocab, pattern=patterns.find(PATTERN).regex)
    ranks = tokenizer.get_mergeable_ranks()
    tokens = [bytes(token) for token, _ in sorted(ranks, key=lambda pair: pair[1])]
    (into / "rustbpe").write_bytes(b"\n".join(token.hex().encode() for token in tokens))
    return tokens


def train_hf(folder: Path, vocab: int, into: Path) -> list[bytes]:
    """Train with Hugging Face tokenizers. Its order of ties is its own, so that its tokens are not compared."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(patterns.find(PATTERN).regex), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, show_progress=False, min_frequency=0, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts(folder), trainer)
    tokenizer.save(str(into / "hf.json"))
    return []


def run_one(peer: str, folder: Path, vocab: int) -> dict[str, Any]:
    """Train once and return seconds, peak memory and a hash of the tokens."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as into:
        began = time.perf_counter()
        tokens = {"ours": train_ours, "rustbpe": train_rustbpe, "hf": train_hf}[peer](folder, vocab, Path(into))
        seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "peer": peer,
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
        "idle_mb": before,
        "tokens": len(tokens),
        "hash": hashlib.sha256(b"|".join(tokens)).hexdigest()[:16] if tokens else None,
    }


def compare_encoding(folder: Path, vocab: int, megabytes: float, rounds: int) -> dict[str, Any]:
    """MB/s of ours and of tiktoken with one thread and with two, taking turns; and whether all ids are equal."""
    import tiktoken

    sample, size = [], 0
    for text in texts(folder):
        sample.append(text)
        size += len(text.encode())
        if size > megabytes * 1e6:
            break
    tokenizer = Tokenizer.train_on_batches(read_ahead(arrays(folder)), vocab + len(SPECIALS), pattern=PATTERN)
    ranks = {tokenizer.id_to_bytes(id): id for id in range(vocab)}
    regex = patterns.find(PATTERN).regex
    twin = tiktoken.Encoding("twin", pat_str=regex, mergeable_ranks=ranks, special_tokens={})
    column = pa.array(sample)
    speeds: dict[str, list[float]] = {}
    equal = True
    for _ in range(rounds):
        for threads in (1, 2):
            for name in ("ours", "tiktoken"):
                began = time.perf_counter()
                if name == "ours":
                    ids, _ = tokenizer.encode_batch(column, threads=threads)
                else:
                    found = twin.encode_ordinary_batch(sample, num_threads=threads)
                speeds.setdefault(f"{name}, {threads} threads", []).append(size / 1e6 / (time.perf_counter() - began))
            equal = equal and ids.tolist() == [id for one in found for id in one]
    return {"megabytes": size / 1e6, "equal": equal, "speeds": {k: statistics.median(v) for k, v in speeds.items()}}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--encode-mb", type=float, default=64)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    vocab = args.vocab - len(SPECIALS)
    if args.one:
        print(json.dumps(run_one(args.one, args.folder, vocab)))
        return
    modules = {"ours": "nanochat_cli", "rustbpe": "rustbpe", "hf": "tokenizers"}
    peers = [peer for peer in args.peers if importlib.util.find_spec(modules[peer])]
    runs: dict[str, list[dict[str, Any]]] = {peer: [] for peer in peers}
    for _ in range(args.rounds):
        for peer in peers:
            argv = [sys.executable, __file__, str(args.folder), "--vocab", str(args.vocab), "--one", peer]
            runs[peer].append(json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout))
    encoding = compare_encoding(args.folder, vocab, args.encode_mb, args.rounds) if args.encode_mb else None
    if args.json:
        print(json.dumps({"machine": machine.describe(), "vocab": args.vocab, "training": runs, "encoding": encoding}))
        return
    print(f"{machine.cpu_name()}, {machine.usable_cores()} cores; vocabulary {args.vocab:,}; medians of {args.rounds}")
    ours = statistics.median(run["seconds"] for run in runs["ours"]) if "ours" in runs else None
    for peer in peers:
        seconds = statistics.median(run["seconds"] for run in runs[peer])
        peak = statistics.median(run["peak_mb"] for run in runs[peer])
        ratio = f"{seconds / ours:6.1f} x" if ours else ""
        print(f"train {peer:8} {seconds:8.2f} s {ratio}  peak {peak:6.0f} MB  tokens {runs[peer][0]['hash']}")
    if {"ours", "rustbpe"} <= set(peers):
        print(f"tokens equal to rustbpe's: {runs['ours'][0]['hash'] == runs['rustbpe'][0]['hash']}")
    if encoding:
        for name, speed in encoding["speeds"].items():
            print(f"encode {name:22} {speed:8.1f} MB/s")
        print(f"ids of {encoding['megabytes']:.0f} MB equal: {encoding['equal']}")


if __name__ == "__main__":
    main()
