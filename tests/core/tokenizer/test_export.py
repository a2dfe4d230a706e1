"""What others load gives the same ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiktoken
from tiktoken.load import load_tiktoken_bpe

from nanochat_cli.core.tokenizer import export
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "the cat sat on the mat, 12345 times\n\n",
    "naïve café 中文 😀",
    "  don't  \t we'll\r\n",
    "aaaa bbbb " * 30,
    "\x00\x7f\xa0",
]


@pytest.fixture(params=["nanochat", "gpt4", "digit"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.train(TEXTS * 5, 300, pattern=request.param)


def test_tiktoken_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    export.write(tokenizer, "tiktoken", tmp_path)
    facts = json.loads((tmp_path / "encoding.json").read_text(encoding="utf-8"))
    ranks = load_tiktoken_bpe(str(tmp_path / facts.pop("ranks")))
    encoding = tiktoken.Encoding(mergeable_ranks=ranks, **facts)
    for text in TEXTS:
        assert encoding.encode_ordinary(text) == tokenizer.encode(text)
    assert encoding.encode("<|bos|>", allowed_special="all") == [tokenizer.bos_id]
    assert encoding.n_vocab == tokenizer.vocab_size


def test_hugging_face_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    (path,) = export.write(tokenizer, "hf", tmp_path)
    other = tokenizers.Tokenizer.from_file(str(path))
    for text in TEXTS:
        assert other.encode(text).ids == tokenizer.encode(text)
        assert other.decode(tokenizer.encode(text)) == text
    assert other.encode("<|bos|>").ids == [tokenizer.bos_id]
    assert other.get_vocab_size() == tokenizer.vocab_size


def test_merges_join_what_was_learned_before(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.ordinary
    merges = tokenizer.merges()
    assert [tokens[left] + tokens[right] for left, right in merges] == tokens[256:]
    assert all(max(pair) < 256 + place for place, pair in enumerate(merges))
