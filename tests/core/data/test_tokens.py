from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from nanochat_cli.core.data import tokenfile, tokens
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.errors import DamagedArtifact


def texts_of(token_set: tokens.TokenSet, split: str) -> list[str]:
    part = token_set.split(split)  # type: ignore[arg-type]
    return [bytes(part.document(i).tolist()).decode() for i in range(part.num_docs)]


def texts_in(corpus: Corpus, split: str) -> list[str]:
    return [text for group in corpus.documents(split) for text in group]  # type: ignore[arg-type]


@pytest.mark.parametrize("shard_tokens", [100, 10_000_000])
def test_documents_in_are_documents_out(make_corpus, texts, tokenizer, monkeypatch, shard_tokens) -> None:
    monkeypatch.setattr(tokens, "SHARD_TOKENS", shard_tokens)
    corpus = make_corpus(texts * 8)  # more than one row group, so that more than one shard can close
    token_set = tokens.ensure(corpus, tokenizer)
    for split in ("train", "val"):
        assert texts_of(token_set, split) == texts_in(corpus, split)
        assert token_set.split(split).num_tokens == corpus.text_bytes(split)
    assert (len(list(token_set.dir.glob("train-*.bin"))) > 1) == (shard_tokens == 100)


def test_read_keeps_the_shape_across_shards(make_corpus, texts, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(tokens, "SHARD_TOKENS", 100)
    split = tokens.ensure(make_corpus(texts * 8), tokenizer).split("train")
    positions = np.random.default_rng(0).integers(0, split.num_tokens, (20, 30))
    flat = split.read(np.arange(split.num_tokens))
    got = split.read(positions)
    assert got.dtype == np.int64 and np.array_equal(got, flat[positions])


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_token_width_follows_the_vocabulary(make_corpus, make_tokenizer, texts, vocab_size, dtype) -> None:
    tokenizer = make_tokenizer(vocab_size, shift=vocab_size - 300)
    token_set = tokens.ensure(make_corpus(texts), tokenizer)
    path = token_set.dir / "train-00000.bin"
    header = tokenfile.read_header(path)
    assert header.dtype == dtype and isinstance(tokenfile.open_arrays(path, header)[0], np.memmap)
    first = texts_in(Corpus.open("small"), "train")[0]
    assert token_set.split("train").document(0).tolist() == tokenizer.encode(first)


def test_encoded_once_and_used_again(make_corpus, texts, tokenizer) -> None:
    corpus = make_corpus(texts)
    tokens.ensure(corpus, tokenizer)
    calls = tokenizer.calls
    again = tokens.ensure(corpus, tokenizer)
    assert tokenizer.calls == calls > 0
    assert sorted(p.name for p in again.dir.iterdir()) == ["manifest.json", "train-00000.bin", "val-00000.bin"]
    assert [p.name for p in again.dir.parent.iterdir()] == [tokenizer.hash[:12]]


def test_tokens_of_two_tokenizers_stand_side_by_side(make_corpus, make_tokenizer, texts, tokenizer) -> None:
    corpus = make_corpus(texts)
    other = make_tokenizer(shift=1)
    a, b = tokens.ensure(corpus, tokenizer), tokens.ensure(corpus, other)
    assert (b.split("train").document(0) - a.split("train").document(0) == 1).all()
    with pytest.raises(DamagedArtifact, match="of another tokenizer"):
        tokens.TokenSet(a.dir, other)


def test_tokens_of_another_text_are_refused(make_corpus, texts, tokenizer) -> None:
    old = tokens.ensure(make_corpus(texts, "old"), tokenizer).dir
    new = make_corpus(texts[:100], "new")
    shutil.copytree(old, tokens.folder(new, tokenizer))
    with pytest.raises(DamagedArtifact, match="of another text"):
        tokens.ensure(new, tokenizer)


@pytest.mark.parametrize("at", [9, 17, 60, 130, -1])
def test_one_changed_bit_is_found_and_the_file_named(make_corpus, texts, tokenizer, at) -> None:
    corpus = make_corpus(texts)
    path = tokens.ensure(corpus, tokenizer).dir / "val-00000.bin"
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(DamagedArtifact, match=r"val-00000\.bin") as caught:
        tokens.ensure(corpus, tokenizer)
    assert "rm -r" in (caught.value.hint or "")
    assert [check.file for check in tokens.check(corpus) if check.problem] == [
        f"tokens/{tokenizer.hash[:12]}/val-00000.bin"
    ]


def test_a_cut_or_foreign_file_is_found_without_rehashing(make_corpus, texts, tokenizer) -> None:
    corpus = make_corpus(texts)
    path = tokens.ensure(corpus, tokenizer).dir / "train-00000.bin"
    whole = path.read_bytes()
    for content in (whole[:-3], whole[:50], b"", b"something else" * 100):
        path.write_bytes(content)
        with pytest.raises(DamagedArtifact, match=r"train-00000\.bin"):
            tokens.ensure(corpus, tokenizer, verify=False)
    path.unlink()
    with pytest.raises(DamagedArtifact, match=r"train-00000\.bin"):
        tokens.ensure(corpus, tokenizer, verify=False)


def test_a_shard_of_the_same_tokenizer_but_another_place_is_refused(make_corpus, texts, tokenizer) -> None:
    corpus = make_corpus(texts)
    folder = tokens.ensure(corpus, tokenizer).dir
    shutil.copy(folder / "val-00000.bin", folder / "train-00000.bin")
    with pytest.raises(DamagedArtifact, match="not the one in the manifest"):
        tokens.ensure(corpus, tokenizer)


@pytest.mark.parametrize("entry", [{"name": "/etc/hostname", "sha256": ""}, {"name": "../x", "sha256": ""}, {}, "x"])
def test_verifying_never_leaves_the_folder(make_corpus, texts, tokenizer, entry) -> None:
    corpus = make_corpus(texts)
    path = tokens.ensure(corpus, tokenizer).dir / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"] = [entry]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedArtifact):
        tokens.check(corpus)


def test_an_error_while_encoding_leaves_nothing(make_corpus, texts, tokenizer, monkeypatch) -> None:
    corpus = make_corpus(texts)
    monkeypatch.setattr(tokenizer, "encode_batch", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tokens.ensure(corpus, tokenizer)
    assert list((corpus.dir / "tokens").iterdir()) == []


def test_another_process_may_be_faster(make_corpus, make_tokenizer, texts, tokenizer, monkeypatch) -> None:
    corpus = make_corpus(texts)
    slow = tokenizer.encode_batch
    other = make_tokenizer()

    def overtaken(*args, **options):  # both started without tokens; the other one publishes first
        if not (tokens.folder(corpus, tokenizer) / "manifest.json").exists():
            tokens.ensure(corpus, other)
        return slow(*args, **options)

    monkeypatch.setattr(tokenizer, "encode_batch", overtaken)
    assert texts_of(tokens.ensure(corpus, tokenizer), "val") == texts_in(corpus, "val")
    assert [p.name for p in (corpus.dir / "tokens").iterdir()] == [tokenizer.hash[:12]]


def test_a_damaged_corpus_is_never_encoded(make_corpus, texts, tokenizer) -> None:
    """A changed byte may still decode as parquet: only its hash tells."""
    corpus = make_corpus(texts)
    shard = corpus.dir / "train-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedArtifact, match=r"train-00000\.parquet \(its SHA-256 differs"):
        tokens.ensure(corpus, tokenizer)
    shard.unlink()
    with pytest.raises(DamagedArtifact, match=r"train-00000\.parquet \(missing"):
        tokens.ensure(corpus, tokenizer)
    assert tokenizer.calls == 0
    assert not (corpus.dir / "tokens").exists()


def test_header_is_documented_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    writer = tokenfile.TokenFileWriter(path, 2, "ab" * 32)
    writer.add(np.array([1, 2, 3]), np.array([1, 2]))
    header = writer.close()
    raw = path.read_bytes()
    assert raw[:8] == b"NCTOKENS" and len(raw) == header.file_bytes == 128 + 8 + 24
    assert raw[128:134] == b"\x01\x00\x02\x00\x03\x00"
    assert np.frombuffer(raw[136:], "<i8").tolist() == [0, 1, 3]
    assert raw[32:64] == bytes.fromhex("ab" * 32)
    assert tokenfile.verify(path) == header


def test_the_real_tokenizer_fits(make_corpus, texts) -> None:
    real = pytest.importorskip("nanochat_cli.core.tokenizer.tokenizer")
    corpus = make_corpus(texts)
    tokenizer = real.Tokenizer.train(iter(texts), 300)
    split = tokens.ensure(corpus, tokenizer).split("val")
    assert [tokenizer.decode(split.document(i).tolist()) for i in range(split.num_docs)] == texts_in(corpus, "val")
    assert split.bos_id == tokenizer.bos_id
    assert os.listdir(corpus.dir / "tokens") == [tokenizer.hash[:12]]
    assert json.loads((tokens.folder(corpus, tokenizer) / "manifest.json").read_text())["vocab_size"] == 300
