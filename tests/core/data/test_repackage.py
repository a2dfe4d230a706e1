"""`data repackage`: every document once, in the reference layout, in an order that only seed and input decide."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from nanochat_cli.core.data import inputs, layout, repackage, shuffle
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.layout import Layout
from nanochat_cli.core.data.repackage import Options, Sources, sources
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, DataError, MissingArtifact, NanochatError
from tests.core.data.test_adding import SLOW, documents, lines_of, put, start, stop_when

SMALL = Layout(shard_chars=20_000, row_group=16)


def small(**more: object) -> Options:
    return Options(**{"layout": SMALL, **more})  # type: ignore[arg-type]


def texts_of(k: int, count: int = 150) -> list[str]:
    return [f"file {k} number {i} " + "süß word " * (i * i % 41) for i in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(6):
        put(tmp_path / "in" / f"f{k}.jsonl", texts_of(k))
    put(tmp_path / "in" / "f6.jsonl", texts_of(0))  # duplicates stay
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "GROUP_BYTES", 1)  # each file alone


def ordered(corpus: Corpus, split: str | None = None) -> list[str]:
    """The documents in the order of the shards' names, read without our own code."""
    names = sorted(shard.name for shard in corpus.shards if split in (None, shard.split))
    return [text for name in names for text in parquet.read_table(corpus.dir / name)["text"].to_pylist()]


def input_order() -> list[str]:
    return [text for k in (0, 1, 2, 3, 4, 5, 0) for text in texts_of(k)]


def make(folder: Path, name: str, options: Options | None = None, **more: int) -> Corpus:
    return repackage.repackage(sources([str(folder)]), name, options or small(), **more)


def test_documents_in_are_documents_out(folder) -> None:
    corpus = make(folder, "c")
    assert Counter(ordered(corpus)) == Counter(input_order()) == Counter(documents(corpus))
    assert corpus.manifest["source"]["documents"] == 1050
    assert [entry["documents"] for entry in corpus.manifest["source"]["files"]] == [150] * 7
    corpus.verify()
    assert Corpus.open("c").num_documents("val") == len(ordered(corpus, "val")) > 20


def test_the_layout_is_the_reference_one(folder) -> None:
    corpus = make(folder, "c")
    assert [shard.name for shard in corpus.shards] == [f"shard_{i:05d}.parquet" for i in range(len(corpus.shards))]
    splits = [shard.split for shard in corpus.shards]
    assert splits == sorted(splits) and set(splits) == {"train", "val"}  # what is for validation comes last
    last = {max(i for i, s in enumerate(splits) if s == split) for split in splits}
    for i, shard in enumerate(corpus.shards):
        with parquet.ParquetFile(corpus.dir / shard.name) as file:
            groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
            texts = file.read()["text"].to_pylist()
        assert all(group.num_rows == 16 for group in groups[:-1]) and groups[-1].num_rows <= 16
        column = groups[0].column(0)
        assert column.compression == "ZSTD" and column.statistics is None and not column.has_dictionary_page
        if i not in last:
            assert len(texts) % 16 == 0 and sum(map(len, texts)) >= 20_000
            assert sum(map(len, texts[:-16])) < 20_000  # and it ends at the first chance
        assert (shard.rows, shard.chars) == (len(texts), sum(map(len, texts)))
        assert shard.text_bytes == sum(len(text.encode()) for text in texts)


def test_the_shuffle_is_a_permutation_that_the_seed_decides(folder) -> None:
    first, other = make(folder, "a", small(seed=1)), make(folder, "b", small(seed=2))
    assert ordered(first) != ordered(other) and sorted(ordered(first)) == sorted(input_order())
    assert make(folder, "c", small(seed=1)).fingerprint == first.fingerprint != other.fingerprint
    place = {text: i for i, text in enumerate(dict.fromkeys(input_order()))}
    places = np.array([place[text] for text in ordered(first, "train")])
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.15
    shards = [parquet.read_table(first.dir / s.name)["text"].to_pylist() for s in first.shards_of("train")[:3]]
    assert all(len({text.split()[1] for text in texts}) == 6 for texts in shards)  # each has of each file


def test_without_a_shuffle_the_order_is_that_of_the_input(folder, monkeypatch) -> None:
    monkeypatch.setattr(shuffle, "RUN_BYTES", 3000)
    corpus = make(folder, "c", small(shuffle=False))
    val = Counter(ordered(corpus, "val"))
    assert ordered(corpus, "train") == [text for text in input_order() if text not in val]
    assert ordered(corpus, "val") == [text for text in input_order() if text in val]
    whole = make(folder, "d", small(shuffle=False, val_shard=True))
    assert ordered(whole) == input_order()


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize(
    ("run_bytes", "bucket_bytes", "workers"), [(2000, 5000, 1), (1 << 20, 1000, 1), (9000, 9000, 2)]
)
def test_neither_runs_nor_buckets_nor_workers_change_anything(
    folder, monkeypatch, shuffled, run_bytes, bucket_bytes, workers
) -> None:
    whole = make(folder, "whole", small(shuffle=shuffled))
    monkeypatch.setattr(shuffle, "RUN_BYTES", run_bytes)
    monkeypatch.setattr(shuffle, "BUCKET_BYTES", bucket_bytes)
    other = make(folder, "other", small(shuffle=shuffled), num_workers=workers)
    assert [shard.sha256 for shard in other.shards] == [shard.sha256 for shard in whole.shards]
    assert other.fingerprint == whole.fingerprint


def test_the_last_shard_for_validation(folder) -> None:
    corpus = make(folder, "c", small(val_shard=True))
    assert [shard.split for shard in corpus.shards].count("val") == 1 and corpus.shards[-1].split == "val"
    assert sorted(ordered(corpus)) == sorted(input_order())
    with pytest.raises(DataError, match="the last shard cannot be for validation where there is only one"):
        make(folder, "d", Options(val_shard=True))
    with pytest.raises(ConfigError, match="only one of them"):
        Options(val_shard=True, val_fraction=0.1)


def test_equal_documents_are_on_one_side(folder) -> None:
    corpus = make(folder, "c", small(val_fraction=0.3))
    train, val = set(ordered(corpus, "train")), set(ordered(corpus, "val"))
    assert not train & val and 0.2 < len(val) / (len(val) + len(train)) < 0.4


def test_sources_are_corpora_files_and_folders(folder, make_corpus, texts, tmp_path, log) -> None:
    corpus = make_corpus(texts, "small")
    (folder / "odd.json").write_text('{"no": "text"}')
    given = sources(["small", str(folder), str(corpus.dir)])  # a folder that is a corpus is read as one
    assert given.documents() is None and given.corpora == (("small", corpus.fingerprint),) * 2
    made = repackage.repackage(given, "c", small(), log=log)
    assert Counter(ordered(made)) == Counter(input_order() + texts)  # a file named twice is read once
    assert any("odd.json" in text for text in log.texts("warning"))
    only = sources(["small"])
    assert only.documents() == 300 and only.disk_needed == 2 * sum(shard.bytes for shard in corpus.shards)
    with pytest.raises(MissingArtifact, match="no such corpus: absent"):
        sources(["absent"])
    with pytest.raises(DataError, match=r"no such file: absent\.jsonl"):
        sources(["absent.jsonl"])


def test_blank_documents_are_counted(tmp_path) -> None:
    put(tmp_path / "in" / "a.jsonl", [*texts_of(1), "", " \n"])
    source = make(tmp_path / "in", "c").manifest["source"]
    assert (source["documents"], source["blank"]) == (150, 2)


def test_bad_input_names_file_and_line_and_leaves_nothing(folder, base) -> None:
    (folder / "f3.jsonl").write_text('{"text": "fine"}\n{"text": 5}\n')
    with pytest.raises(DataError, match=r"text is not text: .*f3\.jsonl:2"):
        make(folder, "c")
    assert list((base / "data").iterdir()) == []


def test_a_full_disk_is_told_before_the_start(folder, base, monkeypatch) -> None:
    monkeypatch.setattr(inputs, "free_space", lambda path: 1000)
    with pytest.raises(NanochatError, match=r"not enough room on the disk: about .* are needed, 1 kB are free"):
        make(folder, "c")
    assert list((base / "data").iterdir()) == []


def test_names_that_are_taken_and_work_that_is_done(folder, log) -> None:
    made = make(folder, "c")
    again = repackage.repackage(sources([str(folder)]), "c", small(), log=log)
    assert again.manifest == made.manifest and "nothing to do" in log.texts("note")[0]
    with pytest.raises(ConfigError, match="corpus c exists already"):
        make(folder, "c", small(seed=3))
    other = repackage.repackage(sources(["c"]), "c", small(seed=3), force=True)  # in the place of its own source
    assert Counter(ordered(other)) == Counter(input_order())


@pytest.mark.parametrize("where", ["scatter", "write"])
def test_interrupted_in_either_pass_it_goes_on(folder, base, monkeypatch, log, where) -> None:
    whole = make(folder, "whole")
    module = shuffle if where == "scatter" else layout
    real, done = getattr(module, where), []

    def stop(job, tell):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job)
        return real(job, tell)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, where, stop)
        make(folder, "c")
    assert (base / "data" / ".c.repackaging").is_dir() and not (base / "data" / "c").exists()
    done.clear()
    monkeypatch.setattr(module, where, lambda job, tell: (done.append(job), real(job, tell))[1])
    corpus = repackage.repackage(sources([str(folder)]), "c", small(), log=log)
    assert len(done) == (4 if where == "scatter" else len(whole.shards) - 3)
    assert any("going on: 3 of" in text for text in log.texts("note"))
    assert [shard.sha256 for shard in corpus.shards] == [shard.sha256 for shard in whole.shards]
    assert [path.name for path in (base / "data").iterdir() if path.name[0] == "."] == []


def test_a_changed_file_voids_the_shards_but_not_the_other_files(folder, monkeypatch) -> None:
    real, done = layout.write, []

    def stop(job, tell):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job)
        return real(job, tell)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(layout, "write", stop)
        make(folder, "c")
    put(folder / "f2.jsonl", texts_of(9))
    scattered, scatter = [], shuffle.scatter
    monkeypatch.setattr(shuffle, "scatter", lambda job, tell: (scattered.append(job), scatter(job, tell))[1])
    corpus = make(folder, "c")
    assert Counter(ordered(corpus)) == Counter(t for k in (0, 1, 9, 3, 4, 5, 0) for t in texts_of(k))
    assert len(scattered) in (1, 7)  # 7 where the number of buckets follows the size


def test_spooled_text_that_changed_is_noticed(folder, monkeypatch) -> None:
    real = layout.plan

    def spoil(buckets, split, how):
        if not buckets:
            return iter(())
        path = Path(buckets[0][0].path)
        raw = bytearray(path.read_bytes())
        raw[buckets[0][0].at + 16 * buckets[0][0].documents + 20] ^= 1
        path.write_bytes(bytes(raw))
        return real(buckets, split, how)

    monkeypatch.setattr(layout, "plan", spoil)
    with pytest.raises(DamagedArtifact, match="changed on the disk"):
        make(folder, "c", small(val_shard=True))


@pytest.mark.parametrize(
    "stops",
    [
        [("2", 6, signal.SIGKILL)],
        pytest.param([("2", 2, signal.SIGKILL), ("1", 6, signal.SIGKILL), ("2", 8, signal.SIGINT)], marks=SLOW),
    ],
    ids=["once", "again and again"],
)
def test_killed_at_any_moment_it_comes_to_the_same(tmp_path, base, stops) -> None:
    for k in range(5):
        put(tmp_path / "in" / f"f{k}.jsonl", texts_of(k, 3000))
    options = Options(layout=Layout(300_000, 16))
    whole = make(tmp_path / "in", "whole", options)
    done = base / "data" / ".c.repackaging" / "journal.jsonl"
    argv = ["data", "repackage", str(tmp_path / "in"), "--name", "c", "--shard-chars", "300k", "--row-group", "16"]
    for workers, number, how in stops:
        code = stop_when(start(*argv, "-w", workers), done, number, how)
        assert code == (130 if how == signal.SIGINT else -signal.SIGKILL)
        assert lines_of(done) >= number and not (base / "data" / "c").exists()
    corpus = make(tmp_path / "in", "c", options)
    assert corpus.fingerprint == whole.fingerprint
    assert [shard.sha256 for shard in corpus.shards] == [shard.sha256 for shard in whole.shards]


@pytest.mark.parametrize("limit", [1, 7, 50, 10**6])
def test_the_plan_is_what_a_loop_over_documents_gives(limit, tmp_path) -> None:
    rng = np.random.default_rng(3)
    buckets, flat = [], []
    with (tmp_path / "spool").open("wb") as file:
        for _ in range(5):
            bucket = []
            for n in rng.integers(1, 9, 3).tolist():
                keys = np.sort(rng.integers(0, 2**63, n)).astype("<u8")
                chars = rng.integers(1, 9, n).astype("<u4")
                at = file.tell()
                file.write(keys.tobytes() + chars.tobytes() + chars.tobytes())
                bucket.append(shuffle.Segment(str(tmp_path / "spool"), n, at, 0, 0, 0))
                flat.append((len(buckets), list(zip(keys.tolist(), chars.tolist()))))
            buckets.append(bucket)
    in_order = [c for b in range(5) for _, c in sorted(pair for n, pairs in flat if n == b for pair in pairs)]
    expected, rows, chars = [], 0, 0
    for count in in_order:
        rows, chars = rows + 1, chars + count
        if chars >= limit and rows % 4 == 0:
            expected.append((rows, chars))
            rows, chars = 0, 0
    expected += [(rows, chars)] if rows else []
    found = list(layout.plan(buckets, "train", Layout(limit, 4)))
    assert [(cut.rows, cut.chars) for cut in found] == expected
    assert sum(last - first for cut in found for _, first, last in cut.pieces) == len(in_order)


def test_unreadable_footer_leaves_the_number_of_documents_open(tmp_path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    given: Sources = sources([str(tmp_path / "a.parquet")])
    assert given.documents() is None
    with pytest.raises(DataError, match="cannot read as parquet"):
        repackage.repackage(given, "c", small())
