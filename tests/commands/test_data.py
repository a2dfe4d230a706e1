"""`nanochat data`: exit codes, streams and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli import main
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


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
    assert (done.code, "all as they were written" in done.out) == (0, True)
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
    Tokenizer.train(["Where is the lamp? It is here. "] * 30, 280).save(base_dir / "tokenizers" / "tok")
    plain = nano("show", world, "--stage", "sft", "-n", "2")
    assert plain.out.count("user: ") >= 2 and "assistant: " in plain.out
    shown = nano("show", world, "--stage", "sft", "-n", "2", "-t", "tok", "--max-seq-len", "64")
    assert shown.code == 0 and "trained on" in shown.out and "truncated share" in shown.out
    assert "[" in shown.out.splitlines()[1]  # no terminal, no colour: brackets show what is trained on
    as_json = nano("show", world, "--stage", "sft", "-t", "tok", "--json").json
    assert len(as_json["items"]) == 3 and len(as_json["items"][0]["ids"]) == len(as_json["items"][0]["mask"])
    assert as_json["summary"]["conversations"] == 20
    assert "bos" in nano("show", world, "-n", "1", "-t", "tok").out
    assert nano("show", world, "-t", "absent").code == 3


def test_show_a_chat_file(nano, tmp_path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{"instruction": "Say hi", "output": "hi"}]))
    assert nano("show", str(path)).out.splitlines()[1:3] == ["user: Say hi", "assistant: hi"]
    path.write_text(json.dumps([{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}]))
    done = nano("show", str(path), "--stage", "sft")
    assert done.code == 1 and f"{path}:1: turn 2" in done.err
