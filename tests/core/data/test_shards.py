from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from pyarrow import parquet

from nanochat_cli.core import files
from nanochat_cli.core.data import corpus as corpora
from nanochat_cli.core.data import shards, split_writer, staging
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.shards import CorpusWriter, choose_val
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, DataError, MissingArtifact, NanochatError


def everything(corpus: Corpus) -> dict[str, list[str]]:
    return {split: [text for group in corpus.documents(split) for text in group] for split in corpora.SPLITS}


def test_documents_in_are_documents_out(make_corpus, texts) -> None:
    corpus = make_corpus(texts)
    out = everything(corpus)
    assert Counter(out["train"] + out["val"]) == Counter(texts)
    assert corpus.num_documents("train") + corpus.num_documents("val") == 300
    assert corpus.num_chars("train") + corpus.num_chars("val") == sum(map(len, texts))
    assert corpus.text_bytes("train") == sum(len(text.encode()) for text in out["train"])


def test_layout_is_one_text_column_in_zstd_with_groups_of_1024(make_corpus) -> None:
    corpus = make_corpus([f"document {i}" for i in range(3000)])
    with parquet.ParquetFile(corpus.dir / "train-00000.parquet") as file:
        assert file.schema_arrow.names == ["text"]
        assert file.metadata.row_group(0).num_rows == 1024
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
        assert file.metadata.num_row_groups > 1


def test_small_shards_keep_the_last_partial_one(make_corpus, monkeypatch) -> None:
    monkeypatch.setattr(split_writer, "GROUP_ROWS", 10)
    texts = [f"document number {i}" for i in range(205)]
    corpus = make_corpus(texts, shard_chars=400)
    assert len(corpus.shards_of("train")) > 3
    assert corpus.shards_of("train")[-1].rows < corpus.shards_of("train")[0].rows
    out = everything(corpus)
    assert Counter(out["train"] + out["val"]) == Counter(texts)
    corpus.verify()


def test_val_depends_on_content_and_seed_only(make_corpus, texts) -> None:
    val = {
        name: set(everything(make_corpus(order, name, seed=seed))["val"])
        for name, order, seed in (("a", texts, 0), ("b", texts[::-1], 0), ("c", texts, 1))
    }
    assert val["a"] == val["b"] != val["c"]


def test_val_never_in_train_even_with_duplicates(make_corpus, texts) -> None:
    out = everything(make_corpus(texts * 3))
    assert not set(out["val"]) & set(out["train"])
    assert out["val"] and len(out["val"]) % 3 == 0


def test_val_share_of_a_large_corpus(monkeypatch, make_corpus) -> None:
    monkeypatch.setattr(shards, "MIN_VAL_CHARS", 0)
    corpus = make_corpus([f"document {i}" for i in range(8000)], val_fraction=0.05)
    assert 330 < corpus.num_documents("val") < 470


@pytest.mark.parametrize("num", [2, 3, 10, 50])
def test_small_corpora_have_a_val_split_of_useful_size(make_corpus, num) -> None:
    corpus = make_corpus([f"this is document {i} of the small ones" for i in range(num)])
    assert corpus.num_documents("val") >= 1
    assert 1 <= corpus.num_documents("val") <= max(1, num // 5)
    assert corpus.num_documents("train") >= 1
    assert [p.name for p in corpus.dir.glob("again*")] == []
    corpus.verify()


def test_one_document_cannot_be_split(make_corpus, base) -> None:
    with pytest.raises(DataError, match=r"at least two different documents.*: 1") as caught:
        make_corpus(["same", "same"])
    assert "--split" in (caught.value.hint or "")
    assert list((base / "data").iterdir()) == []


def test_choose_val_passes_over_documents_that_are_too_large() -> None:
    assert choose_val({1: 1000, 2: 10, 3: 10, 4: 10}, least=15) == {2, 3}
    assert choose_val({1: 1000, 2: 500}, least=15) == {2}
    assert len(choose_val(dict.fromkeys(range(5), 1), least=99)) == 4


def test_an_existing_corpus_is_kept_or_replaced(make_corpus, texts) -> None:
    make_corpus(texts)
    with pytest.raises(ConfigError, match="corpus small exists already") as caught:
        make_corpus(texts[:50])
    assert "--name" in (caught.value.hint or "") and "--force" in (caught.value.hint or "")
    assert Corpus.open("small").num_documents("train") > 50
    make_corpus(texts[:50], force=True)
    assert Corpus.open("small").num_documents("train") < 50
    assert [p.name for p in Corpus.open("small").dir.parent.iterdir()] == ["small"]


def test_replacement_killed_between_its_renames_loses_nothing(make_corpus, texts) -> None:
    corpus = make_corpus(texts)
    corpus.dir.rename(files.aside_of(corpus.dir))
    assert Corpus.open("small").fingerprint == corpus.fingerprint


def test_an_error_leaves_nothing_behind(base, texts) -> None:
    with pytest.raises(RuntimeError), CorpusWriter("broken") as writer:
        for text in texts:
            writer.add(text)
        raise RuntimeError
    assert list((base / "data").iterdir()) == []


def test_what_a_killed_writer_left_is_swept_but_not_a_living_one(base, make_corpus, texts) -> None:
    dead = base / "data" / ".old.12345678.tmp"
    dead.mkdir(parents=True)
    (dead / "train-00000.parquet").write_bytes(b"half")
    with staging.staged(base / "data" / "other") as living:
        for folder in (dead, living):
            os.utime(folder, (0, 0))
        make_corpus(texts)
        assert living.is_dir() and not dead.exists()
    assert not living.exists()


def test_a_full_disk_is_one_clear_line(base, monkeypatch, texts) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", full)
    with pytest.raises(NanochatError, match="the disk is full while writing"), CorpusWriter("full") as writer:
        for text in texts:
            writer.add(text)
    assert list((base / "data").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_one_clear_line(base, make_corpus, texts) -> None:
    base.mkdir()
    base.chmod(0o500)
    with pytest.raises(NanochatError, match="no permission to write"):
        make_corpus(texts)


def test_text_that_is_not_unicode_is_refused(make_corpus) -> None:
    with pytest.raises(DataError, match="half a surrogate pair"):
        make_corpus(["fine", "\ud800"])


def test_fingerprint_follows_the_content(make_corpus, texts) -> None:
    same = [make_corpus(texts, name).fingerprint for name in ("a", "b")]
    assert same[0] == same[1]
    assert make_corpus([*texts[:-1], "changed"], "c").fingerprint != same[0]


def test_missing_corpus_lists_the_choices(make_corpus, texts) -> None:
    make_corpus(texts, "books")
    with pytest.raises(MissingArtifact, match="no such corpus: absent") as caught:
        Corpus.open("absent")
    assert "books" in (caught.value.hint or "")


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x40
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_verify_names_the_damaged_shard(make_corpus, texts, harm, log) -> None:
    corpus = make_corpus(texts)
    corpus.verify(log)
    path = corpus.dir / "val-00000.parquet"
    if harm == "flip":
        flip(path, path.stat().st_size // 2)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.unlink()
    with pytest.raises(DamagedArtifact, match=r"val-00000\.parquet") as caught:
        corpus.verify()
    assert "train-00000" not in str(caught.value)


def test_verify_counts_the_documents(make_corpus, texts) -> None:
    corpus = make_corpus(texts)
    manifest = json.loads((corpus.dir / "manifest.json").read_text())
    manifest["shards"][0]["rows"] += 1
    files.write_json(corpus.dir / "manifest.json", manifest)
    with pytest.raises(DamagedArtifact, match=r"train-00000\.parquet.*documents instead of"):
        Corpus.open("small").verify()
    with pytest.raises(DamagedArtifact, match=r"documents instead of"):
        everything(Corpus.open("small"))


def test_reading_a_damaged_shard_names_it(make_corpus, texts) -> None:
    corpus = make_corpus(texts)
    (corpus.dir / "train-00000.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DamagedArtifact, match=r"damaged shard: .*train-00000\.parquet"):
        everything(corpus)


def test_damaged_manifest(make_corpus, texts) -> None:
    corpus = make_corpus(texts)
    (corpus.dir / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(DamagedArtifact, match="manifest"):
        Corpus.open("small")
    ((name, problem),) = corpora.list_corpora()
    assert name == "small" and isinstance(problem, DamagedArtifact)


def test_chats_belong_to_the_corpus(base, texts) -> None:
    lines = [{"messages": [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "ho"}]}]
    with CorpusWriter("talk") as writer:
        for text in texts:
            writer.add(text)
        assert writer.write_chats("sft", lines * 3) == 3
    corpus = Corpus.open("talk")
    assert json.loads(corpus.chats("sft").read_text(encoding="utf-8").splitlines()[2]) == lines[0]
    with pytest.raises(MissingArtifact, match="no chats for mid"):
        corpus.chats("mid")
    flip(corpus.chats("sft"), 5)
    with pytest.raises(DamagedArtifact, match=r"chats/sft\.jsonl"):
        corpus.verify()


@pytest.mark.parametrize("name", ["../../secret.parquet", "/etc/hostname", "..\\x"])
def test_a_manifest_cannot_point_out_of_its_folder(make_corpus, texts, name: str) -> None:
    corpus = make_corpus(texts)
    corpus.manifest["shards"][0]["name"] = name
    (corpus.dir / "manifest.json").write_text(json.dumps(corpus.manifest))
    with pytest.raises(DamagedArtifact, match="outside its folder"):
        Corpus.open(corpus.name)
