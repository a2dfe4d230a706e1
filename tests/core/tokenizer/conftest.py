from __future__ import annotations

import pytest

from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "The cat sat on the mat. The cat isn't fat; they've said it's the other cat's hat!\n\n" * 3,
    "What is 27 + 45? 27 + 45 = 72. And 1234 - 999 = 235.\r\n\tIndented text,   spaced   out.  \n" * 2,
    "Größe, naïve café; Привет, мир. 中文字符和中文字。 한국어 텍스트 नमस्ते 😀👩🏽‍🚀 e\u0301 ½ ٣٤",
    "def area(width, height):\n    return width * height  # twice as wide, twice as large\n" * 2,
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 420)
