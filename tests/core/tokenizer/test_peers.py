"""The same tokens as rustbpe, which nanochat trains with."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import rustbpe

from nanochat_cli.core.tokenizer.patterns import find
from nanochat_cli.core.tokenizer.tokenizer import SPECIALS, Tokenizer
from tests.core.tokenizer.reference import HOT


def tokens_of_rustbpe(texts: list[str], num_tokens: int, pattern: str) -> list[bytes]:
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter(texts), num_tokens, pattern=find(pattern).regex)
    return [bytes(token) for token, _ in sorted(peer.get_mergeable_ranks(), key=lambda pair: pair[1])]


def tokens(texts: list[str], num_tokens: int, pattern: str) -> list[bytes]:
    return Tokenizer.train(texts, num_tokens + len(SPECIALS), pattern=pattern).ordinary


@pytest.mark.parametrize("pattern", ["nanochat", "gpt4", "digit", "gpt2"])
def test_made_up_text(pattern: str) -> None:
    draw = random.Random(pattern)
    stems = ["".join(draw.choices(HOT + "abcdefgh" * 8, k=draw.randint(1, 12))) for _ in range(300)]
    texts = [" ".join(draw.choices(stems, k=60)) for _ in range(40)]
    assert tokens(texts, 700, pattern) == tokens_of_rustbpe(texts, 700, pattern)


def test_real_text(real_data: Path) -> None:
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted((real_data / "text").glob("*.txt"))]
    assert sum(map(len, texts)) > 1_000_000
    assert tokens(texts, 3000, "nanochat") == tokens_of_rustbpe(texts, 3000, "nanochat")
