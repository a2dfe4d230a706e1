"""The native splitter against tiktoken's regular expression, for a minute of made-up text.

With every pair of bytes a token of random rank, a boundary in another place changes the ids; the ranks are drawn anew
now and then. NANOCHAT_FUZZ_S sets how long, `-m slow` runs ten times as long; a failure tells the seed of its text.
"""

from __future__ import annotations

import os
import random
import time

import pytest
import tiktoken

from nanochat_cli.core.tokenizer.patterns import PATTERN_NAMES, find
from tests.core.tokenizer.reference import HOT

SECONDS = float(os.environ.get("NANOCHAT_FUZZ_S", "60"))
ASCII_HOT = "".join(c for c in HOT if c < "\x80") + "abcdefg  \n\n00112233..,,''"
EDGES = (15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 127, 128, 129, 191, 192, 193)
TEXTS_PER_RANKING = 1500


def oracle(draw: random.Random, regex: str) -> tiktoken.Encoding:
    spans = [bytes([a, b]) for a in range(256) for b in range(256)]
    draw.shuffle(spans)
    ranks = {span: rank for rank, span in enumerate([bytes([b]) for b in range(256)] + spans)}
    return tiktoken.Encoding("pairs", pat_str=regex, mergeable_ranks=ranks, special_tokens={})


def made_up(seed: int) -> str:
    """A text of characters that the rules are about, some of them many times, some in a sea of ordinary words."""
    draw = random.Random(seed)
    alphabet = (ASCII_HOT, ASCII_HOT, HOT, "")[seed % 4]
    length = draw.choice(EDGES) + draw.randint(-2, 2) if draw.random() < 0.5 else draw.randint(1, 60)
    text = ""
    while len(text.encode()) < length:
        c = draw.choice(alphabet) if alphabet else chr(draw.choice((draw.randrange(0xD800), draw.randrange(128))))
        text += c * (draw.randint(1, 9) if draw.random() < 0.2 else 1)
    return text


def fuzz(seconds: float, first_seed: int) -> int:
    """Compare for a while and return how many texts were compared."""
    deadline, start = time.monotonic() + seconds, first_seed
    while time.monotonic() < deadline:
        pattern = find(PATTERN_NAMES[start % len(PATTERN_NAMES)])
        encoding = oracle(random.Random(start), pattern.regex)
        for seed in range(start, start + TEXTS_PER_RANKING):
            text = made_up(seed)
            pieces = pattern.split(text)
            assert "".join(pieces) == text, f"seed {seed}"
            ids = [id for piece in pieces for id in encoding._encode_single_piece(piece)]
            assert ids == encoding.encode_ordinary(text), f"seed {seed}: {text!r} cut into {pieces}"
        start += TEXTS_PER_RANKING + 1
    return start - first_seed


@pytest.mark.timeout(600)
def test_no_difference_in_a_minute() -> None:
    assert fuzz(SECONDS, 0) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_difference_in_a_long_time() -> None:
    assert fuzz(10 * SECONDS, 1 << 40) > 0
