from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat_cli import _bpe
from nanochat_cli.core import events
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.tokenizer.tokenizer import SPECIALS, Tokenizer
from nanochat_cli.core.tokenizer.training import Options
from tests.core.tokenizer.conftest import TEXTS
from tests.core.tokenizer.reference import naive_tokens

SPLITTER = _bpe.Splitter("gpt4", 2)


def native_tokens(documents: list[str], num_tokens: int, threads: int = 1) -> tuple[list[bytes], int]:
    counter = _bpe.Counter(SPLITTER, threads)
    for document in documents:
        counter.feed([document])
    trainer = _bpe.Trainer(counter.finish(), num_tokens)
    while not trainer.step(10):
        pass
    return trainer.tokens(), trainer.encoded_length()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.text("ab c1'", max_size=30), max_size=8))
@example(["aaaa aaaaa aaa"])
@example(["abababa", "bababab"])
@example(["é中é中 é中é中中中中"])
def test_merges_are_those_of_a_full_recount(documents: list[str]) -> None:
    words = Counter(piece.encode() for document in documents for piece in SPLITTER.split(document))
    tokens, length = native_tokens(documents, 300)
    assert tokens == naive_tokens(words, 300 - 256)
    encoder = _bpe.Encoder(tokens, SPLITTER)
    assert length == sum(len(encoder.encode(document)) for document in documents)


def test_real_prose_like_a_full_recount() -> None:
    draw = random.Random(5)
    stems = ["".join(draw.choice("abcdeé") for _ in range(draw.randint(1, 9))) for _ in range(150)]
    documents = [" ".join(draw.choices(stems, k=40)) for _ in range(30)]
    words = Counter(piece.encode() for document in documents for piece in SPLITTER.split(document))
    assert native_tokens(documents, 456)[0] == naive_tokens(words, 200)


def test_neither_threads_nor_order_change_the_outcome() -> None:
    documents = [text * n for n in range(1, 40) for text in TEXTS]
    shuffled = random.Random(3).sample(documents, len(documents))
    hashes = {
        Tokenizer.train(texts, 450, threads=threads).hash for texts in (documents, shuffled) for threads in (1, 2, 7)
    }
    assert len(hashes) == 1


def test_tokens_are_distinct_and_ids_dense(tokenizer: Tokenizer) -> None:
    learned = [tokenizer.id_to_bytes(id) for id in range(tokenizer.vocab_size - len(SPECIALS))]
    assert len(set(learned)) == len(learned) == 411
    assert learned[:256] == [bytes([b]) for b in range(256)]


def test_facts_about_the_text(tokenizer: Tokenizer) -> None:
    data = [text.encode() for text in TEXTS]
    assert tokenizer.training["documents"] == len(TEXTS)
    assert tokenizer.training["bytes"] == sum(map(len, data))
    assert tokenizer.training["tokens"] == sum(len(tokenizer.encode(text)) for text in TEXTS)


@pytest.mark.parametrize("vocab_size", [-1, 0, 256, 264])
def test_a_vocabulary_without_room_for_bytes_and_specials(vocab_size: int) -> None:
    with pytest.raises(ConfigError, match=f"smaller than 265.*: {vocab_size}$") as caught:
        Tokenizer.train(TEXTS, vocab_size)
    assert caught.value.hint and "265" in caught.value.hint


def test_the_smallest_vocabulary() -> None:
    tokenizer = Tokenizer.train(["ab"], 265)
    assert tokenizer.encode("ab é") == list("ab é".encode())
    assert tokenizer.bos_id == 256


def test_a_vocabulary_larger_than_the_text_supports() -> None:
    with pytest.raises(DataError, match="5000 asked, 267 reached") as caught:
        Tokenizer.train(["abc"], 5000)
    assert caught.value.hint and "--vocab 267" in caught.value.hint
    assert Tokenizer.train(["abc"], 267).vocab_size == 267
    smaller = Tokenizer.train_on_batches([["abc"]], 5000, options=Options(threads=1, allow_smaller=True))
    assert smaller.vocab_size == 267


@pytest.mark.parametrize("documents", [[], [""], ["", ""]])
def test_no_text(documents: list[str]) -> None:
    with pytest.raises(DataError, match="no text"):
        Tokenizer.train(documents, 300)


def test_text_with_a_lone_surrogate() -> None:
    with pytest.raises(DataError, match="lone surrogate at character 3 of text 1"):
        Tokenizer.train(["fine", "bad\udc00"], 300)


def test_unknown_pattern() -> None:
    with pytest.raises(ConfigError, match="unknown split pattern: gpt5") as caught:
        Tokenizer.train(TEXTS, 300, pattern="gpt5")
    assert caught.value.hint and "choose one of: nanochat, gpt4, digit, gpt2" in caught.value.hint


@pytest.mark.parametrize(
    ("pattern", "pieces"), [("digit", ["1", "2", "3"]), ("nanochat", ["12", "3"]), ("gpt4", ["123"])]
)
def test_digits_per_token(pattern: str, pieces: list[str]) -> None:
    tokenizer = Tokenizer.train(["123 " * 50 + "abc"], 267, pattern=pattern)
    assert [tokenizer.decode([id]) for id in tokenizer.encode("123")] == pieces


def test_progress_is_told_and_can_stop_the_work() -> None:
    seen: list[events.Event] = []
    Tokenizer.train(TEXTS, 400, log=events.Listener(seen.append))
    assert {event["task"] for event in seen} == {"counting pieces", "merging pairs"}
    assert (seen[-1]["done"], seen[-1]["total"]) == (400 - 9 - 256,) * 2

    def interrupt(event: events.Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tokenizer.train(TEXTS, 400, log=events.Listener(interrupt))


def test_native_calls_are_short() -> None:
    counter = _bpe.Counter(SPLITTER, 1)
    counter.feed(TEXTS)
    trainer = _bpe.Trainer(counter.finish(), 400)
    assert not trainer.step(0)
    assert trainer.num_tokens == 257


def test_other_threads_run_meanwhile() -> None:
    counter = _bpe.Counter(SPLITTER, 1)
    documents = ["".join(TEXTS) * 100] * 100
    work = threading.Thread(target=counter.feed, args=(documents,))
    ticks = 0
    work.start()
    while work.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert counter.bytes > 5_000_000
    assert ticks > 5
