from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_cli.core import paths
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from tests.conftest import Cli

SAMPLE = "The king 1623: é 😀\n\ttwice  "


@pytest.fixture
def tokenizer() -> Tokenizer:
    made = Tokenizer.train(["The king and the queen of the kingdom think of nothing 12345"], 280, pattern="digit")
    made.save(paths.tokenizer_dir("kings"))
    return made


def test_train_on_files(cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text("one two three four five six seven eight nine ten\n" * 50)
    done = cli("tok", "train", "--vocab", "290", "--input", str(text), "--name", "words", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    saved = Tokenizer.load(paths.tokenizer_dir("words"))
    assert (facts["vocab_size"], facts["hash"], facts["dir"]) == (290, saved.hash, str(paths.tokenizer_dir("words")))
    again = cli("tok", "train", "--vocab-size", "290", "--input", str(text), "--name", "words")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: there is a tokenizer of this name already: words\nhint: ")
    forced = cli("tok", "train", "--vocab", "270", "--input", str(text), "--name", "words", "--force", "-q")
    assert (forced.returncode, forced.stderr) == (0, "")
    assert Tokenizer.load(paths.tokenizer_dir("words")).vocab_size == 270


def test_dry_run_writes_nothing(cli: Cli, tmp_path: Path, base_dir: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text("one two three\n")
    done = cli("tok", "train", "--input", str(text), "--name", "words", "--dry-run", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["files"] == [str(text)]
    assert not base_dir.exists()


@pytest.mark.parametrize(
    ("vocab", "code", "problem"),
    [
        ("264", 2, "error: vocabulary smaller than 265"),
        ("9999", 2, "error: vocabulary larger than the text supports: 9999"),
    ],
)
def test_vocabularies_that_cannot_be(cli: Cli, tmp_path: Path, vocab: str, code: int, problem: str) -> None:
    text = tmp_path / "words.txt"
    text.write_text("one two three\n")
    done = cli("tok", "train", "--vocab", vocab, "--input", str(text), "--name", "words")
    assert (done.returncode, done.stdout) == (code, "")
    assert problem in done.stderr
    assert "\nhint: use --vocab" in done.stderr
    assert not paths.tokenizer_dir("words").exists()


def test_nothing_to_train_on(cli: Cli) -> None:
    done = cli("tok", "train")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: there is no corpus yet\nhint: ")


def test_encode_and_decode_are_inverse_byte_for_byte(cli: Cli, tokenizer: Tokenizer) -> None:
    encoded = cli("tok", "encode", "-", input=SAMPLE)
    assert encoded.returncode == 0, encoded.stderr
    assert [int(word) for word in encoded.stdout.split()] == tokenizer.encode(SAMPLE)
    decoded = cli("tok", "decode", input=encoded.stdout)
    assert (decoded.returncode, decoded.stdout) == (0, SAMPLE)


def test_encode_an_argument_or_a_file(cli: Cli, tokenizer: Tokenizer, tmp_path: Path) -> None:
    done = cli("tok", "encode", "the king", "--bos", "--json", "-t", "kings")
    ids = [tokenizer.bos_id, *tokenizer.encode("the king")]
    assert json.loads(done.stdout) == {"ids": ids, "num_tokens": len(ids), "num_bytes": 8}
    (tmp_path / "text.txt").write_text(SAMPLE)
    done = cli("tok", "encode", "--file", str(tmp_path / "text.txt"), "-t", str(paths.tokenizer_dir("kings")))
    assert [int(word) for word in done.stdout.split()] == tokenizer.encode(SAMPLE)


def test_decode_arguments(cli: Cli, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the king")
    done = cli("tok", "decode", ",".join(map(str, ids)), str(tokenizer.bos_id), "--json")
    assert json.loads(done.stdout)["text"] == "the king<|bos|>"


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["decode", "280"], "error: token id outside the vocabulary of 280: 280"),
        (["decode", "12", "twelve"], "error: not a token id: twelve"),
        (["encode", "-f", "absent.txt"], "error: no such file: absent.txt"),
    ],
)
def test_bad_input(cli: Cli, tokenizer: Tokenizer, argv: list[str], problem: str) -> None:
    done = cli("tok", *argv)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(problem)


def test_input_that_is_no_utf8(tokenizer: Tokenizer) -> None:
    argv = [sys.executable, "-m", "nanochat_cli.main", "tok", "encode"]
    done = subprocess.run(argv, input=b"ab\xff", capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: standard input is not UTF-8 at byte 2")


def test_without_or_with_a_damaged_tokenizer(cli: Cli) -> None:
    done = cli("tok", "encode", "x")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: there is no tokenizer yet\nhint: train one: nanochat tok train\n"
    Tokenizer.train(["ab ab"], 265).save(paths.tokenizer_dir("t"))
    ranks = paths.tokenizer_dir("t") / "ranks.tiktoken"
    ranks.write_bytes(ranks.read_bytes()[:-9])
    done = cli("tok", "encode", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not match its hash" in done.stderr


def test_inspect(cli: Cli, tokenizer: Tokenizer, tmp_path: Path) -> None:
    facts = json.loads(cli("tok", "inspect", "--json").stdout)
    assert (facts["vocab_size"], facts["pattern"], facts["hash"]) == (280, "digit", tokenizer.hash)
    rows = json.loads(cli("tok", "inspect", "the king é", "--json").stdout)
    assert [int(row["id"]) for row in rows] == tokenizer.encode("the king é")
    assert [row["token"] for row in rows][-2:] == ["\\xc3", "\\xa9"]
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "king"}, {"role": "assistant", "content": "queen"}]}\n')
    rows = json.loads(cli("tok", "inspect", "--chats", str(chats), "--json").stdout)
    assert "".join(row["token"] for row in rows if row["trained"]) == "queen<|assistant_end|>"
    done = cli("tok", "inspect", "--chats", str(chats), "-n", "2")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, f"error: only 1 conversations in {chats}: 2")
