"""Speed of tokenizer training and of encoding, beside tiktoken on the same tokens, text and threads.

Usage: python benches/bench_tokenizer.py [--json] [FILES…]; without files it makes up 16 MB of text.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiktoken

from nanochat_cli.core import machine
from nanochat_cli.core.tokenizer.tokenizer import SPECIALS, Tokenizer

VOCAB_SIZE = 8_192
ROUNDS = 3


def made_up_text(num_documents: int = 4_000) -> list[str]:
    """About 16 MB of words with natural frequencies, numbers and punctuation; always the same."""
    draw = random.Random(0)
    letters = "eeeeetttaaaooiinnsshhrrdlcumwfgypbvk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(20_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return [
        " ".join(draw.choices(words, weights, k=700)) + f". {draw.randrange(10**6)} items, isn't it?\n\n"
        for _ in range(num_documents)
    ]


def best_seconds(work: Callable[[], Any]) -> float:
    """Wall time of the fastest of a few rounds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Measures and prints."""
    files = [arg for arg in sys.argv[1:] if arg != "--json"]
    texts = [Path(file).read_text(encoding="utf-8") for file in files] or made_up_text()
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    threads = machine.usable_cores()
    tokenizer = Tokenizer.train(texts, VOCAB_SIZE)
    twin = tiktoken.Encoding(
        "twin",
        pat_str=tokenizer.pattern.regex,
        mergeable_ranks={tokenizer.id_to_bytes(id): id for id in range(VOCAB_SIZE - len(SPECIALS))},
        special_tokens={},
    )
    seconds = {
        f"train to {VOCAB_SIZE:,} tokens, {threads} threads": best_seconds(lambda: Tokenizer.train(texts, VOCAB_SIZE)),
        "encode, 1 thread": best_seconds(lambda: tokenizer.encode_batch(texts, threads=1)),
        "tiktoken, 1 thread": best_seconds(lambda: twin.encode_ordinary_batch(texts, num_threads=1)),
        f"encode, {threads} threads": best_seconds(lambda: tokenizer.encode_batch(texts, threads=threads)),
        f"tiktoken, {threads} threads": best_seconds(lambda: twin.encode_ordinary_batch(texts, num_threads=threads)),
    }
    if "--json" in sys.argv:
        speeds = {name: megabytes / s for name, s in seconds.items()}
        print(json.dumps({"machine": machine.describe(), "megabytes": megabytes, "megabytes_per_s": speeds}))
        return
    print(f"{machine.cpu_name()}, {threads} cores, {megabytes:.1f} MB of text")
    for name, s in seconds.items():
        print(f"  {name:<36}{s:8.3f} s{megabytes / s:9.1f} MB/s")


if __name__ == "__main__":
    main()
