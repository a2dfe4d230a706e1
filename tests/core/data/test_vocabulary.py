from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from nanochat_cli.core import events, paths, runs
from nanochat_cli.core.data import importer, vocabulary
from nanochat_cli.core.errors import ConfigError, DataError, MissingArtifact, NanochatError
from nanochat_cli.core.tokenizer import library, unfinished
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

LINES = [f"line {i}: {'the quick brown fox and the lazy dog ' * (i % 5)}{i * 7919}" for i in range(400)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(f'{{"text": "{line}"}}\n' for line in LINES))
    return path


def test_on_a_corpus(text: Path) -> None:
    corpus = importer.add_files([text], "fox", val_fraction=0.1)
    plan = vocabulary.make_plan(["fox"], vocab=280)
    assert (plan.name, plan.folder, plan.pattern.name) == ("fox", paths.tokenizer_dir("fox"), "digit")
    facts = vocabulary.train(plan)
    tokenizer = library.open("fox")
    documents = [document for group in corpus.documents("train") for document in group]
    held_out = [document for group in corpus.documents("val") for document in group]
    assert (facts["hash"], facts["vocab_size"]) == (tokenizer.hash, 280)
    assert facts["documents"] == len(documents) < len(LINES), "validation documents are not trained on"
    assert facts["tokens"] == sum(len(tokenizer.encode(document)) for document in documents)
    assert facts["bytes_per_token"] == pytest.approx(len("".join(documents).encode()) / facts["tokens"])
    assert facts["held_out_bytes_per_token"] == pytest.approx(
        len("".join(held_out).encode()) / sum(len(tokenizer.encode(document)) for document in held_out)
    )


def test_without_input_the_newest_corpus(text: Path) -> None:
    importer.add_files([text], "older")
    importer.add_files([text], "newer")
    assert vocabulary.make_plan(vocab=280).name == "newer"


def test_on_files(text: Path) -> None:
    facts = vocabulary.train(vocabulary.make_plan([str(text)], name="own", vocab=280, pattern="gpt4"))
    assert facts["documents"] == len(LINES)
    assert facts["held_out_bytes_per_token"] is None
    assert library.open("own").hash == Tokenizer.train(LINES, 280, pattern="gpt4").hash


def test_limits_on_the_text(text: Path) -> None:
    facts = vocabulary.train(vocabulary.make_plan([str(text)], name="cut", vocab=265, doc_cap=5, max_chars=100))
    assert (facts["documents"], facts["text_bytes"]) == (21, 105), "the document that crosses the limit is the last"


def test_sizes_in_proportion() -> None:
    sizes = [0, 10**5, 10**6, 4_100_000, 10**7, 10**8, 10**12]
    assert [vocabulary.automatic_vocab_size(size) for size in sizes] == [512, 512, 512, 4096, 8192, 65536, 65536]


def test_what_does_not_fit_is_told_before_any_work(text: Path) -> None:
    with pytest.raises(MissingArtifact, match="no corpus yet"):
        vocabulary.make_plan(vocab=280)
    with pytest.raises(ConfigError, match="smaller than 265"):
        vocabulary.make_plan([str(text)], name="x", vocab=264)
    with pytest.raises(ConfigError, match="needs a name") as caught:
        vocabulary.make_plan([str(text)], vocab=280)
    assert caught.value.hint == "add --name NAME"
    with pytest.raises(MissingArtifact, match="no such corpus: absent"):
        vocabulary.make_plan(["absent"], vocab=280)
    with pytest.raises(DataError, match=r"no such file: absent\.txt"):
        vocabulary.make_plan(["absent.txt"], name="x", vocab=280)
    with pytest.raises(ConfigError, match="not a tokenizer name"):
        vocabulary.make_plan([str(text)], name="../x", vocab=280)


def test_a_name_that_is_taken(text: Path) -> None:
    vocabulary.train(vocabulary.make_plan([str(text)], name="own", vocab=280))
    with pytest.raises(ConfigError, match="already: own"):
        vocabulary.make_plan([str(text)], name="own", vocab=290)
    vocabulary.train(vocabulary.make_plan([str(text)], name="own", vocab=290, force=True))
    assert library.open("own").vocab_size == 290


def test_the_library(text: Path) -> None:
    with pytest.raises(MissingArtifact, match="no tokenizer yet"):
        library.open()
    for name in ("b", "a"):
        vocabulary.train(vocabulary.make_plan([str(text)], name=name, vocab=280))
    assert library.names() == ["a", "b"]
    half_written = paths.tokenizers_dir() / ".c.1234.tmp"
    shutil.copytree(paths.tokenizer_dir("b"), half_written, copy_function=shutil.copy)
    assert library.names() == ["a", "b"]
    assert library.find() == paths.tokenizer_dir("a")
    assert library.open(str(paths.tokenizer_dir("b"))).vocab_size == 280
    with pytest.raises(MissingArtifact, match="no such tokenizer: c") as caught:
        library.open("c")
    assert caught.value.hint == "tokenizers here: a, b"


def test_interrupted_and_resumed(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 0)
    importer.add_files([text], "fox", val_fraction=0.1)
    whole = vocabulary.train(vocabulary.make_plan(["fox"], name="whole", vocab=280))
    told: list[str] = []

    def interrupt(event: events.Event) -> None:
        told.append(event.get("text", ""))
        if event.get("task") == "merging pairs":
            raise KeyboardInterrupt

    plan = vocabulary.make_plan(["fox"], vocab=280)
    with pytest.raises(MissingArtifact, match="no interrupted training"):
        vocabulary.train(plan, resume=True)
    with pytest.raises(KeyboardInterrupt):
        vocabulary.train(plan, log=events.Listener(interrupt))
    assert library.names() == ["whole"]
    with pytest.raises(MissingArtifact) as caught:
        vocabulary.train(vocabulary.make_plan(["fox"], name="other", vocab=280), resume=True)
    assert caught.value.hint == "begin it without --resume; interrupted here: fox"
    with pytest.raises(ConfigError, match="differs in vocab_size"):
        vocabulary.train(vocabulary.make_plan(["fox"], vocab=281), resume=True)
    resumed = vocabulary.train(plan, resume=True, log=events.Listener(lambda event: told.append(event.get("text", ""))))
    assert any("goes on with all text counted" in line for line in told)
    assert resumed["hash"] == whole["hash"] and resumed["tokens"] == whole["tokens"]
    assert sorted(path.name for path in paths.tokenizers_dir().iterdir()) == ["fox", "whole"]


def test_without_resume_it_begins_anew(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 0)

    def interrupt(event: events.Event) -> None:
        if event.get("task") == "merging pairs":
            raise KeyboardInterrupt

    plan = vocabulary.make_plan([str(text)], name="own", vocab=280)
    with pytest.raises(KeyboardInterrupt):
        vocabulary.train(plan, log=events.Listener(interrupt))
    told: list[str] = []
    vocabulary.train(plan, log=events.Listener(lambda event: told.append(event.get("text", ""))))
    assert any("begins anew" in line for line in told)


def test_parquet_files_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.parquet", tmp_path / "broken.parquet"
    parquet.write_table(pa.table({"text": pa.array([*LINES, None])}), good, row_group_size=10)
    facts = vocabulary.train(vocabulary.make_plan([str(good)], name="own", vocab=280))
    assert facts["hash"] == Tokenizer.train(LINES, 280, pattern="digit").hash
    raw = [b"fine"] * 25 + [b"bad \xff"] + [b"fine"] * 5
    for kind in (pa.binary(), pa.large_binary()):
        parquet.write_table(pa.table({"text": pa.array(raw, kind)}), broken, row_group_size=10)
        with pytest.raises(DataError, match=r"broken\.parquet, row group 3, row 6 \(row 26 of the file\)"):
            vocabulary.train(vocabulary.make_plan([str(good), str(broken)], name="x", vocab=280))
    parquet.write_table(pa.table({"text": pa.array([1, 2])}), broken)
    with pytest.raises(DataError, match=r"column text is not text: .*broken\.parquet \(int64\)"):
        vocabulary.train(vocabulary.make_plan([str(broken)], name="x", vocab=280))
    parquet.write_table(pa.table({"other": pa.array(["x"])}), broken)
    with pytest.raises(DataError, match=r"no column text: .*broken\.parquet"):
        vocabulary.train(vocabulary.make_plan([str(broken)], name="x", vocab=280))


def test_options_on_the_way(text: Path) -> None:
    with pytest.raises(ConfigError, match="no size for --max-memory: much"):
        vocabulary.make_plan([str(text)], name="x", vocab=280, max_memory="much")
    assert vocabulary.make_plan([str(text)], name="x", max_memory="1.5GB").options.max_memory == 1_500_000_000
    with pytest.raises(ConfigError, match=r"271 tokens and \d+ threads need more memory: 1 kB"):
        vocabulary.train(vocabulary.make_plan([str(text)], name="x", vocab=280, max_memory="1kB"))
    facts = vocabulary.train(vocabulary.make_plan([str(text)], name="x", vocab=60_000, allow_smaller=True))
    assert facts["vocab_size"] < 60_000


def test_two_trainings_of_one_name_keep_apart(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = vocabulary.make_plan([str(text)], name="own", vocab=280)
    with runs.lock(_made(plan.unfinished_dir)):
        with monkeypatch.context() as patch:
            patch.setattr(vocabulary.runs, "lock", functools.partial(runs.lock, wait_s=0))
            with pytest.raises(NanochatError, match="another process is working in"):
                vocabulary.train(plan)
    vocabulary.train(plan)
    other = vocabulary.make_plan([str(text)], name="other", vocab=280)
    vocabulary.train(other)
    late = dataclasses.replace(other, vocab_size=290)  # settled before the other had finished
    with pytest.raises(ConfigError, match="another tokenizer is here already"):
        vocabulary.train(late)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_what_interrupted_a_recipe_is_taken_up(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(event: events.Event) -> None:
        if event.get("task") == "merging pairs":
            raise KeyboardInterrupt

    plan = vocabulary.make_plan([str(text)], name="own", vocab=280)
    assert not plan.can_resume()
    with pytest.raises(KeyboardInterrupt):
        vocabulary.train(plan, log=events.Listener(interrupt))
    assert plan.can_resume()
    assert not vocabulary.make_plan([str(text)], name="own", vocab=281).can_resume()
    vocabulary.train(plan, resume=plan.can_resume())
    assert not plan.can_resume()


def test_documents_behind_the_first_ones(tmp_path: Path) -> None:
    """Skipping whole shards and row groups, and into one, gives what leaving out documents gives."""
    shards = tmp_path / "many.jsonl"
    shards.write_text("".join(f'{{"text": "document {i} {i * 7}"}}\n' for i in range(3000)))
    corpus = importer.add_files([shards], "many", val_fraction=0.1)
    whole = [text for array in corpus.arrays("train") for text in array.to_pylist()]
    for skip in (0, 1, 1023, 1024, 1025, 2047, 2600, len(whole) - 1, len(whole), len(whole) + 5):
        assert [text for array in corpus.arrays("train", skip=skip) for text in array.to_pylist()] == whole[skip:], skip


def test_other_columns_of_text(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    want = Tokenizer.train(LINES, 280, pattern="digit").hash
    for column in (
        pa.array(LINES, pa.string_view()),
        pa.array(LINES).dictionary_encode(),
        pa.array(LINES, pa.large_string()),
    ):
        parquet.write_table(pa.table({"body": column}), path, row_group_size=100)
        plan = vocabulary.make_plan([str(path)], name="own", vocab=280, text_field="body", force=True)
        assert plan.options.text_bytes and vocabulary.train(plan)["hash"] == want
