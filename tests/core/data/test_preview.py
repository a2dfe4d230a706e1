from __future__ import annotations

import json

import pytest

from nanochat_cli.core.data import preview
from nanochat_cli.core.data.corpus import Corpus

tokenizers = pytest.importorskip("nanochat_cli.core.tokenizer.tokenizer")


@pytest.fixture(scope="module")
def real():
    return tokenizers.Tokenizer.train(["some words to learn from, hé ho"] * 20, 270)


def test_sample_is_spread_and_numbered(make_corpus, texts) -> None:
    corpus = make_corpus(texts * 9)
    everything = [text for group in corpus.documents("train") for text in group]
    found = corpus.sample("train", 5)
    assert [number for number, _ in found] == [len(everything) * i // 5 for i in range(5)]
    assert all(everything[number] == text for number, text in found)
    assert len(corpus.sample("val", 10**6)) == corpus.num_documents("val")


def test_documents_with_and_without_tokens(make_corpus, texts, real) -> None:
    corpus: Corpus = make_corpus(texts)
    plain, shown = preview.documents(corpus, "val", 2), preview.documents(corpus, "val", 2, real)
    assert [item.text for item in plain] == [item.text for item in shown] and plain[0].ids is None
    assert "".join(text for text, trained in preview.spans(real, shown[0]) if trained) == shown[0].text


def test_chats_show_what_is_trained_on(tmp_path, real) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "say hé", "output": "ho ho"}) + "\n")
    (item,) = preview.chats(path, 3, real)
    trained = "".join(text for text, trained in preview.spans(real, item) if trained)
    assert trained.startswith("ho ho") and "hé" not in trained
    assert set(item.to_json()) == {"number", "messages", "ids", "mask"}
