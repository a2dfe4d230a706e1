"""Texts that defeat byte-pair tokenizers: how long training and encoding take, at two sizes, beside tiktoken.

Usage: python benches/bpe_worst.py [--vocab 2048] [--limit 60] [--json]
"ratio" is the time for twice the text: 2 is linear, 4 quadratic. tiktoken runs in a process of its own with a limit in
seconds; it may fail, or take longer. Its ids are compared where it answers, and ours are decoded in any case.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import random
import time
from typing import Any

import pyarrow as pa

from nanochat_cli.core import machine
from nanochat_cli.core.tokenizer import twin
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.tokenizer.training import Options


def cases() -> dict[str, tuple[str, str]]:
    """Each text, and the same at half its size."""
    draw = random.Random(0)
    noise = base64.b64encode(draw.randbytes(7_500_000)).decode()
    letters = "".join(draw.choices("abcdefghij", k=300_000))
    points = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    cjk = "".join(chr(draw.randrange(0x4E00, 0x9FFF)) for _ in range(1_000_000))
    return {
        "1.5 M spaces": (" " * 1_500_000, " " * 750_000),
        "10 MB of base64 without a break": (noise, noise[: len(noise) // 2]),
        "300 k letters, one word": (letters, letters[:150_000]),
        "300 k times the same letter": ("a" * 300_000, "a" * 150_000),
        "every code point": (points, points[: len(points) // 2]),
        "1 M Chinese characters without a break": (cjk, cjk[:500_000]),
        "1 M line breaks": ("\n" * 1_000_000, "\n" * 500_000),
        "1 M apostrophes": ("'" * 1_000_000, "'" * 500_000),
    }


def train(text: str, vocab: int) -> tuple[float, Tokenizer]:
    """Seconds of training on one document, and the tokenizer."""
    began = time.perf_counter()
    options = Options(threads=machine.usable_cores(), allow_smaller=True)
    tokenizer = Tokenizer.train_on_batches([pa.array([text])], vocab, pattern="nanochat", options=options)
    return time.perf_counter() - began, tokenizer


def encode(tokenizer: Tokenizer, text: str) -> tuple[float, list[int]]:
    """Seconds of encoding, and the ids."""
    began = time.perf_counter()
    ids = tokenizer.encode(text)
    return time.perf_counter() - began, ids


def _peer(tokens: list[bytes], text: str, answer: Any) -> None:
    encoding = twin.encoding(Tokenizer(tokens, _pattern()))
    began = time.perf_counter()
    try:
        ids = encoding.encode_ordinary(text)
    except BaseException as problem:  # its panics are no Exceptions
        answer.put((type(problem).__name__, []))
        return
    answer.put((time.perf_counter() - began, ids))


def _pattern() -> Any:
    from nanochat_cli.core.tokenizer import patterns

    return patterns.find("nanochat")


def tiktoken(tokenizer: Tokenizer, text: str, limit: float) -> tuple[float | str, list[int]]:
    """Seconds that tiktoken takes or why it has no answer, and its ids."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_peer, args=(tokenizer.ordinary, text, answer))
    process.start()
    try:
        return answer.get(timeout=limit)
    except Exception:
        return f"> {limit:.0f} s", []
    finally:
        process.kill()
        process.join()


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--limit", type=float, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for name, (text, half) in cases().items():
        half_train, _ = train(half, args.vocab)
        train_s, tokenizer = train(text, args.vocab)
        half_encode, _ = encode(tokenizer, half)
        encode_s, ids = encode(tokenizer, text)
        peer_s, peer_ids = tiktoken(tokenizer, text, args.limit)
        rows.append(
            {
                "text": name,
                "megabytes": len(text.encode()) / 1e6,
                "train_s": train_s,
                "train_ratio": train_s / half_train,
                "encode_s": encode_s,
                "encode_ratio": encode_s / half_encode,
                "decodes": tokenizer.decode(ids) == text,
                "tiktoken_s": peer_s,
                "equal": ids == peer_ids if peer_ids else None,
            }
        )
    if args.json:
        print(json.dumps({"machine": machine.describe(), "vocab": args.vocab, "cases": rows}))
        return
    print(f"{machine.cpu_name()}, {machine.usable_cores()} cores; vocabulary {args.vocab:,} at most")
    for row in rows:
        peer = row["tiktoken_s"] if isinstance(row["tiktoken_s"], str) else f"{row['tiktoken_s']:.3f} s"
        print(
            f"{row['text']:40} {row['megabytes']:5.1f} MB  train {row['train_s']:6.3f} s (x {row['train_ratio']:.1f})  "
            f"encode {row['encode_s']:6.3f} s (x {row['encode_ratio']:.1f})  decodes {row['decodes']}  "
            f"tiktoken {peer}, equal {row['equal']}"
        )


if __name__ == "__main__":
    main()
