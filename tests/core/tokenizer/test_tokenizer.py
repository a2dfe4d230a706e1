from __future__ import annotations

import errno
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nanochat_cli.core import files
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, DataError, MissingArtifact
from nanochat_cli.core.tokenizer.patterns import PATTERN_NAMES
from nanochat_cli.core.tokenizer.tokenizer import SPECIALS, Tokenizer
from tests.core.tokenizer.conftest import TEXTS
from tests.core.tokenizer.reference import texts, tiktoken_twin

GOLDEN_HASH = "1bc071ebfc3b4060f90004fbfa5b6562f5af8d33659d8de4fc582f64f4e41e05"
GOLDEN_IDS = [269, 263, 268, 297, 44, 32, 327, 329, 32, 353, 150, 135, 286, 152, 128, 10]


@pytest.fixture
def saved(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    tokenizer.save(tmp_path / "tok")
    return tmp_path / "tok"


def test_golden(tokenizer: Tokenizer) -> None:
    """Ids are for ever: a change here makes every checkpoint that exists unreadable."""
    assert tokenizer.encode("The cat's hat, 1234 中文😀\n") == GOLDEN_IDS
    assert tokenizer.hash == GOLDEN_HASH


@pytest.mark.parametrize("pattern", PATTERN_NAMES)
def test_ids_are_those_of_tiktoken(pattern: str) -> None:
    tokenizer = Tokenizer.train(TEXTS, 420, pattern=pattern)
    twin = tiktoken_twin(tokenizer)

    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(st.one_of(texts, st.lists(st.sampled_from("".join(TEXTS).split(" ")), max_size=30).map(" ".join)))
    @example("<|bos|> is only text")
    @example("a" * 300 + " " * 300 + "ab" * 200 + "中" * 100)
    def compare(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == twin.encode_ordinary(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode(text) == ids

    compare()


def test_long_pieces_and_whole_documents_like_tiktoken(tokenizer: Tokenizer) -> None:
    twin = tiktoken_twin(tokenizer)
    for text in [*TEXTS, "".join(TEXTS) * 20, " " * 5000, "thecatsat" * 500, "\n" * 777 + "x", "!?" * 999]:
        assert tokenizer.encode(text) == twin.encode_ordinary(text)


def test_pathological_pieces_take_no_time(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(" " * 1_500_000)) == " " * 1_500_000
    assert len(tokenizer.encode("x" * 300_000)) == 300_000


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(texts, max_size=12), threads=st.sampled_from([None, 1, 3]), bos=st.booleans())
def test_batches_are_single_texts_end_to_end(
    tokenizer: Tokenizer, documents: list[str], threads: int | None, bos: bool
) -> None:
    ids, offsets = tokenizer.encode_batch(documents, threads=threads, bos=bos)
    assert (ids.dtype, offsets.dtype, len(offsets)) == (np.uint16, np.int64, len(documents) + 1)
    start = [tokenizer.bos_id] if bos else []
    assert [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)] == [
        start + tokenizer.encode(t) for t in documents
    ]
    assert offsets[-1] == len(ids)


def test_large_batches_use_threads_and_stay_in_order(tokenizer: Tokenizer) -> None:
    documents = [f"document {i}: {TEXTS[i % 4] * (i % 9)}" for i in range(500)]
    one, two = tokenizer.encode_batch(documents, threads=1), tokenizer.encode_batch(documents, threads=4)
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert tokenizer.decode(one[0][one[1][77] : one[1][78]]) == documents[77]


def test_specials_come_last_and_never_from_text(tokenizer: Tokenizer) -> None:
    assert [tokenizer.special(name) for name in SPECIALS] == list(range(411, 420))
    assert tokenizer.bos_id == 411
    assert [id for id in range(420) if tokenizer.is_special(id)] == list(range(411, 420))
    text = "".join(f"<|{name}|>" for name in SPECIALS)
    assert max(tokenizer.encode(text)) < 411
    assert tokenizer.decode(range(411, 420)) == text
    with pytest.raises(ConfigError, match="unknown special token: eos"):
        tokenizer.special("eos")


def test_token_bytes_are_raw_lengths(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.token_bytes()
    assert (lengths.dtype, lengths.shape) == (np.int32, (420,))
    assert lengths[411:].tolist() == [0] * 9
    assert lengths[0xE4] == 1, "a byte that is no UTF-8 by itself is one byte, not the three of U+FFFD"
    text = "".join(TEXTS)
    assert lengths[tokenizer.encode(text)].sum() == len(text.encode())


def test_decoding_bytes_that_are_no_utf8(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode_bytes([0xE4, 0xB8]) == b"\xe4\xb8"
    assert tokenizer.decode([0xE4, 0xB8, ord("x")]) == "\ufffdx"
    assert tokenizer.decode(np.array(tokenizer.encode("héllo"), dtype=np.uint32)) == "héllo"


@pytest.mark.parametrize("id", [-1, 420, 10**9])
def test_ids_outside_the_vocabulary(tokenizer: Tokenizer, id: int) -> None:
    with pytest.raises(DataError, match=f"outside the vocabulary of 420: {id}"):
        tokenizer.decode([65, id])


def test_text_with_a_lone_surrogate(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="lone surrogate at character 1"):
        tokenizer.encode("a\ud83d")
    with pytest.raises(DataError, match="lone surrogate at character 0 of text 2"):
        tokenizer.encode_batch(["a", "b", "\udfff"])


def test_pieces_show_the_split(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces("It's 123!") == ["It", "'s", " ", "12", "3", "!"]


# ---- files ----


def test_save_and_load(tokenizer: Tokenizer, saved: Path) -> None:
    loaded = Tokenizer.load(saved)
    assert (loaded.hash, loaded.vocab_size, loaded.training) == (tokenizer.hash, 420, tokenizer.training)
    assert loaded.encode(TEXTS[2]) == tokenizer.encode(TEXTS[2])
    info = json.loads((saved / "tokenizer.json").read_text())
    assert info["pattern"]["name"] == "nanochat"
    assert info["special_tokens"]["<|bos|>"] == 411
    assert sorted(path.name for path in saved.parent.rglob("*")) == ["ranks.tiktoken", "tok", "tokenizer.json"]


def test_rank_file_is_tiktokens(tokenizer: Tokenizer, saved: Path) -> None:
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(saved / "ranks.tiktoken"))
    assert ranks == {tokenizer.id_to_bytes(id): id for id in range(411)}


def test_saving_again(tokenizer: Tokenizer, saved: Path) -> None:
    tokenizer.save(saved)
    other = Tokenizer.train(TEXTS, 400)
    with pytest.raises(ConfigError, match="another tokenizer is here already"):
        other.save(saved)
    assert Tokenizer.load(saved).hash == tokenizer.hash
    other.save(saved, replace=True)
    assert Tokenizer.load(saved).hash == other.hash
    assert [path.name for path in saved.parent.iterdir()] == ["tok"]


def test_a_replacement_that_fails_or_is_killed_loses_nothing(
    tokenizer: Tokenizer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Tokenizer.train(TEXTS, 400)

    def full(*_: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as broken:
        broken.setattr(files, "publish_dir", full)
        with pytest.raises(OSError, match="no space"):
            other.save(saved, replace=True)
    assert Tokenizer.load(saved).hash == tokenizer.hash
    saved.rename(files.aside_of(saved))  # where a kill between the two renames leaves it
    assert Tokenizer.load(saved).hash == tokenizer.hash
    assert [path.name for path in saved.parent.iterdir()] == ["tok"]


def test_hash_tells_tokenizers_apart(tokenizer: Tokenizer) -> None:
    others = [Tokenizer.train(TEXTS, 421), Tokenizer.train(TEXTS, 420, pattern="gpt4"), Tokenizer.train(TEXTS[:3], 420)]
    assert len({tokenizer.hash, *(other.hash for other in others)}) == 4
    assert Tokenizer.train(iter(TEXTS), 420).hash == tokenizer.hash


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="no tokenizer here") as caught:
        Tokenizer.load(tmp_path / "absent")
    assert caught.value.hint == "train one: nanochat tok train"


def test_tampered_ranks(saved: Path) -> None:
    path = saved / "ranks.tiktoken"
    content = path.read_bytes()
    path.write_bytes(content.replace(b" 410\n", b" 411\n"))
    with pytest.raises(DamagedArtifact, match=r"hash: .*ranks\.tiktoken"):
        Tokenizer.load(saved)
    path.unlink()
    with pytest.raises(DamagedArtifact, match="lost a file"):
        Tokenizer.load(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pattern", {"name": "gpt4"}),
        ("special_tokens", {"<|bos|>": 0}),
        ("vocab_size", 421),
        ("ranks_sha256", "0" * 64),
        ("hash", "0" * 64),
        ("pattern", None),
    ],
)
def test_tampered_description(saved: Path, key: str, value: object) -> None:
    path = saved / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(DamagedArtifact):
        Tokenizer.load(saved)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1', '{"format": 1}'])
def test_broken_description(saved: Path, content: str) -> None:
    (saved / "tokenizer.json").write_text(content)
    with pytest.raises(DamagedArtifact):
        Tokenizer.load(saved)


def test_a_format_of_the_future(saved: Path) -> None:
    path = saved / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(ConfigError, match="format 2 is not known"):
        Tokenizer.load(saved)
