from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest
import tiktoken
from hypothesis import example, given, settings

from nanochat_cli import _bpe
from nanochat_cli.core.tokenizer.patterns import PATTERN_NAMES, find
from tests.core.tokenizer.reference import HOT, texts, tiktoken_pieces

CRATE = Path(__file__).parents[3] / "rust" / "bpe"


@pytest.mark.parametrize("name", PATTERN_NAMES)
def test_pieces_are_those_of_the_regular_expression(name: str) -> None:
    pattern = find(name)

    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(texts)
    @example("foo \n  ")
    @example("don't'LL'ſx 'ſ")
    @example("a\u0301\u0301 \u00a0 12345٣٤½ \r\n\r\n x")
    def compare(text: str) -> None:
        assert pattern.split(text) == tiktoken_pieces(text, pattern)

    compare()


@pytest.mark.parametrize("seed", range(3))
def test_pieces_of_long_texts(seed: int) -> None:
    """With every pair of bytes a token of random rank, a shifted boundary changes the ids of tiktoken."""
    draw = random.Random(seed)
    spans = [bytes([a, b]) for a in range(256) for b in range(256)]
    draw.shuffle(spans)
    ranks = {span: rank for rank, span in enumerate([bytes([b]) for b in range(256)] + spans)}
    pattern = find("nanochat")
    oracle = tiktoken.Encoding("pairs", pat_str=pattern.regex, mergeable_ranks=ranks, special_tokens={})
    for _ in range(40):
        text = "".join(draw.choice(HOT) if draw.random() < 0.8 else chr(draw.randrange(0xD800)) for _ in range(500))
        pieces = pattern.split(text)
        assert "".join(pieces) == text
        assert [id for piece in pieces for id in oracle._encode_single_piece(piece)] == oracle.encode_ordinary(text)


def test_unicode_tables_are_those_of_tiktoken() -> None:
    """Fires when tiktoken moves to another Unicode version: ids would differ between its encoders and ours."""
    spec = importlib.util.spec_from_file_location("make_unicode", CRATE / "tools" / "make_unicode.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.source() == (CRATE / "src" / "unicode_ranges.rs").read_text()


def test_rejects_what_has_no_utf8() -> None:
    with pytest.raises(ValueError, match="lone surrogate at character 2"):
        find("nanochat").split("ab\ud800")
    for style, max_digits in (("gpt4", 0), ("gpt4", None), ("gpt2", 2), ("gpt5", None)):
        with pytest.raises(ValueError, match=r"max_digits|no such style"):
            _bpe.Splitter(style, max_digits)
