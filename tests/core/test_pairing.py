"""The tokenizer of a corpus is one that was trained on it, whatever it is called."""

from __future__ import annotations

import os
from typing import Any

import pytest

from nanochat_cli.core import files, pairing, paths, planning, sizing
from nanochat_cli.core.data import vocabulary
from nanochat_cli.core.data.shards import CorpusWriter
from nanochat_cli.core.settings import TokSection


def corpus(name: str, fingerprint: str | None = "f") -> None:
    folder = paths.corpus_dir(name)
    folder.mkdir(parents=True)
    files.write_json(folder / "manifest.json", {"fingerprint": fingerprint})


def tokenizer(name: str, age: int, *trained_on: tuple[str, str]) -> None:
    folder = paths.tokenizer_dir(name)
    folder.mkdir(parents=True)
    facts: dict[str, Any] = {"vocab_size": 300}
    if trained_on:
        facts["training"] = {"corpora": [{"name": n, "fingerprint": f} for n, f in trained_on]}
    files.write_json(folder / "tokenizer.json", facts)
    os.utime(folder / "tokenizer.json", (10**9 - age, 10**9 - age))


def test_the_one_trained_on_the_corpus_comes_before_newer_ones() -> None:
    corpus("books")
    tokenizer("mine", 30, ("books", "f"))
    tokenizer("latest", 1, ("other", "g"))
    assert pairing.tokenizer_for("books") == "mine"
    assert sizing.tokenizer_at_hand(None, "books") == "mine"
    tokenizer("mine2", 20, ("other", "g"), ("books", "f"))
    assert pairing.tokenizer_for("books") == "mine2", "the newest of several"
    assert sizing.tokenizer_at_hand("mine", "books") == "mine", "what is named is taken"


def test_the_text_as_it_is_now_comes_before_one_that_was_replaced() -> None:
    corpus("books", "now")
    tokenizer("old-text", 1, ("books", "before"))
    tokenizer("new-text", 9, ("books", "now"))
    assert pairing.tokenizer_for("books") == "new-text"


def test_older_tokenizers_that_do_not_know_their_corpus_are_found_by_name() -> None:
    corpus("books")
    tokenizer("books", 9)
    tokenizer("latest", 1, ("other", "g"))
    assert pairing.tokenizer_for("books") == "books"
    assert pairing.tokenizer_for(None) == pairing.tokenizer_for("unknown") == "latest"


@pytest.mark.parametrize("content", ["", "[]", '{"training": 3}', '{"training": {"corpora": ["x", 1]}}'])
def test_a_damaged_description_is_passed_over(content: str) -> None:
    corpus("books")
    tokenizer("mine", 5, ("books", "f"))
    (paths.tokenizers_dir() / "bad").mkdir()
    (paths.tokenizers_dir() / "bad" / "tokenizer.json").write_text(content)
    assert pairing.tokenizer_for("books") == "mine"


def test_there_may_be_none() -> None:
    corpus("books")
    assert pairing.tokenizer_for("books") is None


def test_a_tokenizer_trained_under_another_name_is_found_for_training() -> None:
    for name, text in (("a", "the red fox runs home"), ("b", "a blue bird sings")):
        with CorpusWriter(name) as writer:
            for number in range(200):
                writer.add(f"{text} {number}")
    vocabulary.train(vocabulary.plan_of(TokSection(vocab=265, input=("a",), name="mine")))
    vocabulary.train(vocabulary.plan_of(TokSection(vocab=265, input=("b",), name="b")))
    from tests.core.test_planning import base

    assert planning.make("base", base("corpus.data=a", "horizon.num_iterations=1")).config.corpus.tokenizer == "mine"
    assert planning.make("base", base("corpus.data=b", "horizon.num_iterations=1")).config.corpus.tokenizer == "b"
