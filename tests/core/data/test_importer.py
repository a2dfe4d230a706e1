from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from nanochat_cli.core.data import cutting, importer, textfile
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.importer import add_files
from nanochat_cli.core.errors import ConfigError, DataError

TEXTS = ["first text", "second, with\ntwo lines", 'third "quoted" süß', "fourth"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def documents(corpus: Corpus) -> list[str]:
    return sorted(text for split in ("train", "val") for group in corpus.documents(split) for text in group)


def write(path: Path, texts: list[str]) -> Path:
    """Write texts in the format that the name says."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    if name.endswith(".parquet"):
        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    if name.endswith((".jsonl", ".ndjson")):
        content = "".join(json.dumps(row) + "\n" for row in rows)
    elif name.endswith(".json"):
        content = json.dumps(rows, indent=1)
    elif name.endswith(("csv", "tsv")):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if name.endswith("tsv") else ",")
            writer.writerows([["id", "text"], *([row["id"], row["text"]] for row in rows)])
        content = path.read_text(encoding="utf-8")
    else:
        content = "\n\n".join(texts)
    raw = content.encode()
    if path.suffix == ".gz":
        raw = gzip.compress(raw)
    elif path.suffix == ".zst":
        raw = pa.compress(raw, codec="zstd", asbytes=True)
    return put(path, raw)


NAMES = [
    "a.jsonl",
    "a.ndjson",
    "a.json",
    "a.csv",
    "a.tsv",
    "a.parquet",
    "a.jsonl.gz",
    "a.json.zst",
    "a.jsonl.zst",
    "a.csv.gz",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_format_gives_its_documents(folder, name) -> None:
    assert documents(add_files([write(folder / name, TEXTS)], "c")) == sorted(TEXTS)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "a.txt.zst", "noname", "A.TXT"])
def test_plain_text(folder, name) -> None:
    assert documents(add_files([write(folder / name, TEXTS)], "c", cut="paragraph")) == sorted(TEXTS)


def test_folders_are_walked_in_order_and_say_what_they_pass_over(folder, log) -> None:
    put(folder / "b.txt", "of b")
    put(folder / "a" / "z.txt", "of z")
    put(folder / "picture.png", b"\x89PNG\0")
    put(folder / ".hidden.txt", "hidden")
    put(folder / "zero.txt", "")
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    found = importer.find([folder])
    assert [path.name for path in found.files] == ["b.txt", "z.txt"]
    assert documents(add_files([folder], "c", log=log)) == ["of b", "of z"]
    assert log.texts("note") == ["2 files of other kinds in the folders were passed over (.png, .txt)"]
    assert Corpus.open("c").manifest["source"]["files"][0] == {
        "path": str(folder / "b.txt"),
        "bytes": 4,
        "documents": 1,
    }


def test_a_file_named_twice_is_read_once(folder) -> None:
    path = write(folder / "a.jsonl", TEXTS)
    assert documents(add_files([path, folder / ".." / "in" / "a.jsonl", folder], "c")) == sorted(TEXTS)


def test_blank_documents_are_left_out_and_counted(folder, log) -> None:
    assert documents(add_files([write(folder / "a.jsonl", ["one", "", " \n", "two"])], "c", log=log)) == ["one", "two"]
    assert "documents without text were left out: 2" in log.texts("note")


def test_other_text_field(folder) -> None:
    path = put(folder / "a.jsonl", '{"content": "one"}\n\n{"content": "two"}')
    assert documents(add_files([path], "c", text_field="content")) == ["one", "two"]


def test_strings_alone_and_values_without_commas(folder) -> None:
    assert documents(add_files([put(folder / "a.jsonl", '"one"\n"two"\n')], "a")) == ["one", "two"]
    assert documents(add_files([put(folder / "b.json", '{"text": "one"} {"text": "two"}')], "b")) == ["one", "two"]


def test_semicolons_in_csv(folder) -> None:
    assert documents(add_files([put(folder / "a.csv", 'n;text\n1;"a;b"\n2;c\n')], "c")) == ["a;b", "c"]


# ---- cutting ---------------------------------------------------------------------------------------------------------


def cut(text: str, how: cutting.Cut) -> list[str]:
    lines = list(enumerate(text.splitlines(keepends=True), start=1))
    return [document for _, document in cutting.documents(lines, how)]


def test_auto_gathers_paragraphs_to_about_2000_characters() -> None:
    paragraphs = [f"Paragraph {i}. " + "word " * (i % 90) for i in range(200)]
    text = "\n\n".join(paragraphs)
    found = cut(text, "auto")
    assert [p for document in found for p in document.split("\n\n")] == paragraphs
    assert all(2000 <= len(document) <= 2600 for document in found[:-1])


def test_auto_keeps_a_short_file_whole() -> None:
    text = "one\n\ntwo\n\n" + "x" * 3000
    assert cut(text, "auto") == [text]
    assert cut("\n\n" + text + "\n\n", "auto") == [text]


@pytest.mark.parametrize("text", ["word " * 4000, "line of text\n" * 2000, "x" * 20_000, "süß\n" * 9 + "ö" * 9000])
def test_auto_cuts_where_there_is_no_blank_line_and_loses_nothing(text) -> None:
    found = cut(text, "auto")
    assert all(0 < len(document) <= 4000 for document in found) and len(found) >= 3
    assert "".join(found).replace("\n", "") == text.replace("\n", "")
    if text.startswith("word"):
        assert all(set(document.split()) == {"word"} for document in found)


def test_paragraph_line_and_file() -> None:
    text = "a\nb\n\n \n\nc\n  d\n\n"
    assert cut(text, "paragraph") == ["a\nb", "c\n  d"]
    assert [line for line in cut(text, "line") if line.strip()] == ["a", "b", "c", "  d"]
    assert cut(text, "file") == [text.strip("\n")]


def test_positions_of_documents_are_lines() -> None:
    lines = enumerate(["\n", "a\n", "\n", "\n", "b\n", "c\n"], start=1)
    assert list(cutting.documents(lines, "paragraph")) == [(2, "a"), (5, "b\nc")]


@pytest.mark.parametrize("size", range(1, 12))
def test_lines_longer_than_a_piece_are_put_together_right(folder, monkeypatch, size) -> None:
    text = "aüb\r\n€uro 𝄞 clef\r\n\n" + "süß" * 7 + "\r" + "end\r\n𝄞"
    monkeypatch.setattr(textfile, "LINE_BYTES", size)
    assert textfile.read_text(put(folder / "a.txt", text)) == text.replace("\r\n", "\n")
    path = put(folder / "a.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\n" + json.dumps("second"))
    assert documents(add_files([path], f"c{size}")) == sorted([text, "second"])


def test_byte_order_mark_and_crlf(folder) -> None:
    path = put(folder / "a.txt", b"\xef\xbb\xbffirst\r\nline\r\n\r\nsecond\r\n")
    assert documents(add_files([path], "c", cut="paragraph")) == ["first\nline", "second"]


# ---- bad input -------------------------------------------------------------------------------------------------------

GOOD = '{"text": "good"}\n'
BAD = [
    ("a.txt", "", r"the file is empty: .*a\.txt$"),
    ("a.jsonl", "", r"the file is empty: .*a\.jsonl$"),
    ("a.txt", " \n\n", r"no text in: .*a\.txt"),
    ("a.txt", b"text\nwith \x00 zero", r"binary data in text: .*a\.txt:2"),
    ("a.txt", bytes(range(256)), r"not a text file: .*a\.txt"),
    ("a.txt", b"%PDF-1.7\n%\xe2\xe3", r"not a text file: .*a\.txt \(it looks like a PDF"),
    ("a.txt", "hey".encode("utf-16"), r"not a text file: .*UTF-16"),
    ("a.txt", b"PAR1\x15\x04", r"not a text file: .*parquet"),
    ("a.txt", b"line\nna\xefve\n", r"not UTF-8: .*a\.txt:2 \(byte 0xef at column 3"),
    ("a.jsonl", GOOD.encode() * 2 + b'{"text": "\xff"}\n', r"not UTF-8: .*a\.jsonl:3"),
    ("a.jsonl", GOOD * 3 + '{"text": "broken\n' + GOOD, r"broken JSON: .*a\.jsonl:4 "),
    ("a.jsonl", GOOD + "{'text': 1}\n", r"broken JSON: .*a\.jsonl:2 "),
    ("a.jsonl", GOOD + "[" * 100_000 + "\n", r"a\.jsonl:2"),
    ("a.jsonl", GOOD + '{"body": "x", "id": 1}\n', r"no field text: .*a\.jsonl:2 \(fields there: body, id\)"),
    ("a.jsonl", GOOD + '{"text": 5}\n', r"text is not text: .*a\.jsonl:2"),
    ("a.jsonl", GOOD + "17\n", r"neither text nor an object: .*a\.jsonl:2"),
    ("a.jsonl", GOOD + '{"text": "\\ud800 half"}\n', r"half a surrogate pair.*a\.jsonl:2"),
    ("a.jsonl", "[\n" + GOOD + "]", r"broken JSON: .*a\.jsonl:1"),
    ("a.json", '[\n{"text": "x"},\n{"text": "y" "z"}\n]', r"broken JSON: .*a\.json:3"),
    ("a.json", '[\n{"text": "x"}\n{"text": "y"}]', r"broken JSON: .*a\.json:3 \(expected a comma"),
    ("a.json", '[\n{"text": "x"},\n', r"broken JSON: .*a\.json:3 \(the array is not closed"),
    ("a.json", '[{"text": "x"},]', r"broken JSON: .*a\.json:1 \(a comma before the end"),
    ("a.json", '[{"text": "x"}]\nmore', r"broken JSON: .*a\.json:2"),
    ("a.json", "[]", r"no text in: .*a\.json"),
    ("a.csv", "id,body\n1,x\n", r"no column text: .*a\.csv \(columns there: id, body\)"),
    ("a.csv", 'id,text\n1,"x\ny"\n2,z,more\n', r"3 fields instead of 2: .*a\.csv:4"),
    ("a.csv", 'id,text\n1,"never closed\n', r"broken csv: .*a\.csv:2"),
    ("a.csv", b"id,text\n1,\xe9\n", r"not UTF-8: .*a\.csv:2"),
    ("a.parquet", b"this is no parquet", r"cannot read as parquet: .*a\.parquet"),
    ("a.jsonl.gz", gzip.compress(GOOD.encode() * 900)[:-20], r"cannot read: .*a\.jsonl\.gz"),
    ("a.jsonl.gz", b"not gzip", r"cannot read: .*a\.jsonl\.gz"),
    ("a.txt.zst", b"not zstd", r"cannot read: .*a\.txt\.zst"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(BAD)])
def test_bad_input_is_one_clear_line_and_leaves_nothing(folder, base, name, content, message) -> None:
    good = write(folder / "good.jsonl", TEXTS)
    with pytest.raises(DataError, match=message) as caught:
        add_files([good, put(folder / name, content)], "c")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert not (base / "data").exists() or list((base / "data").iterdir()) == []


def test_parquet_without_text_names_its_columns(folder) -> None:
    parquet.write_table(pa.table({"id": [1], "content": ["x"], "n": [2.0]}), folder / "a.parquet")
    with pytest.raises(DataError, match=r"no column text: .*a\.parquet \(columns there: content, id, n\)") as caught:
        add_files([folder / "a.parquet"], "c")
    assert caught.value.hint == "name the one that holds the text: --text-field content"
    with pytest.raises(DataError, match=r"column n is not text: .* \(double\)"):
        add_files([folder / "a.parquet"], "c", text_field="n")


def test_parquet_with_invalid_utf8_names_the_row(folder) -> None:
    table = pa.table({"text": pa.array([b"fine"] * 1500 + [b"\xff", b"fine"], pa.binary())})
    parquet.write_table(table, folder / "a.parquet")
    with pytest.raises(DataError, match=r"not UTF-8: .*a\.parquet, row 1501 \(byte 0xff at position 1\)"):
        add_files([folder / "a.parquet"], "c")


def test_parquet_nulls_are_blank(folder, log) -> None:
    parquet.write_table(pa.table({"text": pa.array(["a", None, "b"], pa.large_string())}), folder / "a.parquet")
    assert documents(add_files([folder / "a.parquet"], "c", log=log)) == ["a", "b"]


def test_chats_given_as_text_get_the_right_hint(folder) -> None:
    path = put(folder / "a.jsonl", '{"messages": []}\n')
    with pytest.raises(DataError, match="no field text") as caught:
        add_files([path], "c")
    assert "nanochat train sft --data" in (caught.value.hint or "")


def test_missing_file_names_its_neighbour(folder) -> None:
    write(folder / "books.txt", TEXTS)
    with pytest.raises(DataError, match=r"no such file: .*boks\.txt") as caught:
        add_files([folder / "boks.txt"], "c")
    assert caught.value.hint == f"did you mean {folder / 'books.txt'}?"


def test_folder_without_text(folder) -> None:
    put(folder / "a.png", b"\0")
    with pytest.raises(DataError, match="no text files in the folder"):
        add_files([folder], "c")
    with pytest.raises(DataError, match="no files given"):
        add_files([], "c")


def test_an_existing_name_is_told_before_anything_is_read(folder) -> None:
    path = write(folder / "a.jsonl", TEXTS)
    add_files([path], "c")
    with pytest.raises(ConfigError, match="corpus c exists already"):
        add_files([folder / "missing"], "c")
    with pytest.raises(ConfigError, match="not a corpus name"):
        add_files([path], "../c")


def test_real_books(real_data) -> None:
    paths = sorted((real_data / "text").glob("*.txt"))
    corpus = add_files(paths, "books")
    found = [text for split in ("train", "val") for group in corpus.documents(split) for text in group]
    letters = sum(len("".join(path.read_text(encoding="utf-8").split())) for path in paths)
    assert sum(len("".join(text.split())) for text in found) == letters
    assert 1200 < len(found) < 3000 and corpus.num_chars("val") > 150_000
