"""`nanochat data`: exit codes, streams and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli import main
from nanochat_cli.core.data import layout, rows_view
from nanochat_cli.core.data.shards import CorpusWriter
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.output import Output


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def nano(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def call(*argv: str) -> Done:
        capsys.readouterr()
        code = main.run(["data", *argv])
        streams = capsys.readouterr()
        return Done(code, streams.out, streams.err)

    return call


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"Paragraph {i} of the book. " + "More words. " * 20 for i in range(60)))
    return path


@pytest.fixture
def world(nano) -> str:
    assert nano("synth", "--documents", "300", "--chats", "20", "--name", "world", "-q").code == 0
    return "world"


def test_synth_makes_documents_and_chats(nano, base_dir) -> None:
    done = nano("synth", "--documents", "300", "--chats", "20", "--seed", "3", "--json")
    assert done.code == 0
    assert done.json["train_documents"] + done.json["val_documents"] == 300
    assert done.json["chats"] == {"mid": 20, "sft": 20}
    again = nano("synth", "--documents", "300", "--chats", "20", "--seed", "3", "--name", "again", "--json")
    assert again.json["fingerprint"] == done.json["fingerprint"]
    other = nano("synth", "--documents", "300", "--chats", "0", "--seed", "4", "--name", "other", "--json")
    assert other.json["fingerprint"] != done.json["fingerprint"] and other.json["chats"] == {}
    assert "nanochat tok train" in nano("synth", "--documents", "20", "--chats", "0", "--name", "x").err
    assert sorted(path.name for path in (base_dir / "data").iterdir()) == ["again", "other", "tinyworld", "x"]


def test_add_list_verify_show(nano, book) -> None:
    assert nano("add", str(book), "--name", "books", "--split", "paragraph").code == 0
    listed = nano("list", "--json").json
    assert [(c["name"], c["train_documents"] + c["val_documents"]) for c in listed] == [("books", 60)]
    assert "books" in nano("list").out
    done = nano("verify", "books")
    assert (done.code, "all as written" in done.out) == (0, True)
    assert [check["problem"] for check in nano("verify", "books", "--json").json] == [None, None]
    shown = nano("show", "books", "-n", "2")
    assert shown.out.count("Paragraph") == 2
    assert len(nano("show", "--val", "-n", "1", "--json").json["items"]) == 1


def test_name_follows_the_first_file(nano, book) -> None:
    assert nano("add", str(book), "--json").json["name"] == "book"


def test_dry_runs_write_nothing(nano, book, base_dir) -> None:
    assert nano("synth", "--dry-run").code == 0
    done = nano("add", str(book), "--name", "books", "--dry-run", "--json")
    assert done.json == [{"file": str(book), "kind": "txt", "bytes": book.stat().st_size}]
    assert not base_dir.exists()


def test_options_come_from_files_and_environment_too(nano, book, tmp_path, monkeypatch) -> None:
    (tmp_path / "own.toml").write_text('[add]\nname = "from-file"\nsplit = "file"\n')
    monkeypatch.setenv("NANOCHAT_ADD_SPLIT", "line")
    done = nano("add", str(book), "-c", str(tmp_path / "own.toml"), "--json")
    assert (done.json["name"], done.json["train_documents"] + done.json["val_documents"]) == ("from-file", 60)
    assert nano("add", str(book), "--set", "add.splot=file").code == 2


def test_existing_name_and_force(nano, book, world) -> None:
    done = nano("add", str(book), "--name", world)
    assert done.code == 2 and done.err.startswith("error: corpus world exists already\nhint: ")
    assert nano("add", str(book), "--name", world, "--dry-run").code == 2
    assert nano("add", str(book), "--name", world, "--force").code == 0
    assert nano("synth", "--name", world).code == 2


BAD = {
    "missing": (None, "no such file"),
    "empty": (b"", "the file is empty"),
    "binary": (b"\x00\x01" * 50, "not a text file"),
    "latin1": (b"fine\ncaf\xe9\n", "not UTF-8: {path}:2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_1(nano, book, base_dir, tmp_path, case) -> None:
    content, message = BAD[case]
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    done = nano("add", str(book), str(path), "--name", "books")
    lines = [line for line in done.err.splitlines() if not line.startswith(("hint: ", "reading"))]
    assert done.code == 1 and done.out == ""
    assert len(lines) == 1 and lines[0].startswith("error: " + message.format(path=path))
    assert not (base_dir / "data").exists() or not list((base_dir / "data").iterdir())


def test_bad_options(nano, book) -> None:
    assert nano("add", str(book), "--split", "word").code == 2
    assert nano("add", str(book), "--name", "../x").code == 2
    assert nano("add", str(book), "--val-fraction", "0.9").code == 2
    assert nano("add").code == 2
    assert nano("synth", "--documents", "0").code == 2


def test_damage_is_named(nano, world, base_dir) -> None:
    path = base_dir / "data" / world / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    done = nano("verify", world)
    assert done.code == 1 and "train-00000.parquet" in done.err and "hint: " in done.err
    (base_dir / "data" / world / "manifest.json").write_text("{")
    assert "damaged" in nano("list").out and nano("list").code == 0


def test_repackage(nano, world, base_dir) -> None:
    plan = nano("repackage", world, "--name", "again", "--dry-run", "--json").json
    assert (plan["documents"], plan["seed"], plan["shard_chars"], plan["row_group"]) == (300, 42, 250_000_000, 1024)
    assert plan["disk_needed_bytes"] == 2 * plan["bytes"] > 0 and not (base_dir / "data" / "again").exists()
    assert "would write anew" in nano("repackage", world, "--name", "again", "--dry-run").out
    done = nano("repackage", world, "--name", "again", "--shard-chars", "10k", "--row-group", "16", "--json")
    assert done.code == 0 and done.json["train_documents"] + done.json["val_documents"] == 300
    assert "chats of a corpus stay with it" in done.err and "hint: nanochat data show again" in done.err
    assert nano("verify", "again").code == 0 and nano("show", "again", "-n", "1").code == 0
    again = nano("repackage", world, "--name", "again", "--shard-chars", "10k", "--row-group", "16")
    assert again.code == 0 and "nothing to do" in again.err
    last = nano("repackage", world, "--name", "l", "--val-shard", "last", "--shard-chars", "10k", "--row-group", "16")
    assert last.code == 0
    for wrong in (
        ["--name", "again"],
        [],
        ["--name", "x", "--val-shard", "last", "--val-fraction", "0.1"],
        ["--name", "x", "--shard-chars", "some"],
        ["--name", "../x"],
    ):
        assert nano("repackage", world, *wrong).code == 2
    assert nano("repackage", "absent", "--name", "x").code == 3


def test_an_interruption_says_how_to_go_on(nano, book, world, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CorpusWriter, "add_raw", stop)
    monkeypatch.setattr(layout, "write", stop)
    for argv in (["add", str(book), "--name", "x"], ["repackage", world, "--name", "y"]):
        done = nano(*argv)
        assert done.code == 130 and "hint: run the same command again to go on" in done.err
    listed = nano("list")
    assert "corpus x is not finished" in listed.err and "corpus y is not finished" in listed.err


def test_odd_files_in_a_folder(nano, book, base_dir) -> None:
    (book.parent / "odd.json").write_text('{"a": 1}')
    done = nano("add", str(book.parent), "--name", "x")
    assert done.code == 0 and f"warning: skipped: no field text: {book.parent / 'odd.json'}:1" in done.err
    assert nano("add", str(book.parent), "--name", "y", "--strict").code == 1
    again = nano("add", str(book.parent), "--name", "x")
    assert again.code == 0 and "nothing to do" in again.err


def test_absent_corpus_is_exit_code_3(nano, world) -> None:
    for verb in ("verify", "show"):
        done = nano(verb, "absent")
        assert (done.code, done.out) == (3, "") and "world" in done.err


def test_empty_machine(nano) -> None:
    done = nano("list")
    assert (done.code, done.out) == (0, "") and "hint: nanochat data synth" in done.err
    assert nano("list", "--json").json == []
    assert nano("show").code == 3


def test_show_chats_with_tokens(nano, world, base_dir) -> None:
    plain = nano("show", world, "--stage", "sft", "-n", "2")
    assert plain.out.count("user: ") >= 2 and "assistant: " in plain.out and "no tokenizer yet" in plain.err
    Tokenizer.train(["Where is the lamp? It is here. "] * 30, 280).save(base_dir / "tokenizers" / "tok")
    for named in ((), ("-t", "tok")):  # with a stage, the tokenizer at hand is taken
        shown = nano("show", world, "--stage", "sft", "-n", "2", "--max-seq-len", "64", *named)
        assert shown.code == 0 and "trained on" in shown.out and "truncated share" in shown.out
        assert "[" in shown.out.splitlines()[1]  # no terminal, no colour: brackets show what is trained on
        assert "conversations in it" in shown.out and "cut at the context" in shown.out
    as_json = nano("show", world, "--stage", "sft", "-t", "tok", "--json").json
    assert len(as_json["items"]) == 3 and len(as_json["items"][0]["ids"]) == len(as_json["items"][0]["mask"])
    assert as_json["summary"]["conversations"] == 20 and as_json["summary"]["sampled"] is False
    assert "bos" in nano("show", world, "-n", "1", "-t", "tok").out
    assert nano("show", world, "-t", "absent").code == 3


def test_show_rows_of_documents(nano, world, base_dir) -> None:
    Tokenizer.train(["Where is the lamp? It is here. "] * 30, 280).save(base_dir / "tokenizers" / "tok")
    shown = nano("show", world, "--stage", "base", "-n", "2", "--max-seq-len", "128", "--packing", "crop", "--ids")
    assert shown.out.count("--- row ") == 2 and "<|bos|>" in shown.out and "cropped share" in shown.out
    assert "tokens cropped" in shown.out or "padding 0" in shown.out
    view = nano("show", world, "--stage", "base", "-n", "2", "--max-seq-len", "128", "--json").json
    assert [len(row["ids"]) for row in view["rows"]] == [129, 129]
    other = nano("show", world, "--stage", "base", "-n", "2", "--max-seq-len", "128", "--seed", "5", "--json").json
    assert [row["row"] for row in other["rows"]] != [row["row"] for row in view["rows"]]


def test_a_sample_says_that_it_is_one(nano, world, base_dir, monkeypatch) -> None:
    Tokenizer.train(["Where is the lamp? It is here. "] * 30, 280).save(base_dir / "tokenizers" / "tok")
    monkeypatch.setattr(rows_view, "MEASURED", 10)
    assert "the first 10 chats of the file, a sample" in nano("show", world, "--stage", "mid").out
    assert "the first 10 of " in nano("show", world, "--stage", "base").out
    monkeypatch.setattr(rows_view, "MEASURED", 20)
    assert "all chats of the file" in nano("show", world, "--stage", "mid").out


def test_chats_cannot_steer_the_terminal(nano, tmp_path, base_dir, monkeypatch) -> None:
    Tokenizer.train(["Where is the lamp? It is here. "] * 30, 280).save(base_dir / "tokenizers" / "tok")
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{"instruction": "Say \x1b[31mhi[bold]", "output": "\x9b2J\x07hi [/bold]"}]))
    for colour in (False, True):
        monkeypatch.setattr(Output, "on_terminal", staticmethod(lambda stream, colour=colour: colour))
        monkeypatch.setenv("NANOCHAT_NO_PROGRESS", "1")
        done = nano("show", str(path), "--stage", "sft")
        assert done.code == 0 and "hi[bold]" in done.out and "[/bold]" in done.out
        bare = re.sub("\x1b\\[[0-9;]*m", "", done.out)  # what we colour with ourselves
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", bare) and "\x1b[31m" not in done.out


def test_show_a_chat_file(nano, tmp_path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{"instruction": "Say hi", "output": "hi"}]))
    assert nano("show", str(path)).out.splitlines()[1:3] == ["user: Say hi", "assistant: hi"]
    path.write_text(json.dumps([{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}]))
    done = nano("show", str(path), "--stage", "sft")
    assert done.code == 1 and f"{path}:1: turn 2" in done.err
