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
        ("9999", 1, "error: vocabulary larger than the text supports: 9999"),
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
    rows = json.loads(cli("tok", "inspect", "--chat", str(chats), "--json").stdout)
    assert "".join(row["token"] for row in rows if row["trained"]) == "queen<|assistant_end|>"
    done = cli("tok", "inspect", "--chat", str(chats), "-n", "2")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, f"error: only 1 conversations in {chats}: 2")


def test_a_long_stream_is_the_same_as_the_whole(cli: Cli, tokenizer: Tokenizer) -> None:
    text = "".join(f"the king {n} é\n{' ' * (n % 3)}queen\n\n" for n in range(90_000))
    assert len(text.encode()) > 2 << 20
    encoded = cli("tok", "encode", "--bos", input=text)
    assert encoded.returncode == 0, encoded.stderr
    assert list(map(int, encoded.stdout.split())) == [tokenizer.bos_id, *tokenizer.encode(text)]
    assert cli("tok", "decode", input=" ".join(encoded.stdout.split()[1:])).stdout == text


def test_text_without_a_place_to_cut_and_other_ends_of_lines(cli: Cli, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    for raw in (b"\xef\xbb\xbfa\r\nb\r\n", ("x" * (3 << 20)).encode(), b"\n" * (2 << 20), "中".encode() * (1 << 20)):
        path.write_bytes(raw)
        plain, with_json = cli("tok", "encode", "-f", str(path)), cli("tok", "encode", "-f", str(path), "--json")
        assert list(map(int, plain.stdout.split())) == json.loads(with_json.stdout)["ids"]
        assert json.loads(with_json.stdout)["ids"] == tokenizer.encode(raw.decode())


def test_controls_survive_lines_of_json(cli: Cli, tokenizer: Tokenizer) -> None:
    text = "a\x85b\x7fc\x1b[2Jd\u2028e"
    encoded = cli("tok", "encode", "--jsonl", input=json.dumps(text) + "\n")
    decoded = cli("tok", "decode", "--jsonl", input=encoded.stdout)
    assert json.loads(decoded.stdout)["text"] == text
    assert not set(decoded.stdout) & {"\x85", "\x7f", "\x1b"}


def test_ids_apart_by_tabs(cli: Cli, tokenizer: Tokenizer) -> None:
    assert cli("tok", "decode", input="104\t105,106\n\n107").stdout == "hijk"


def test_only_one_thing_at_a_time(cli: Cli, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for argv in (
        ["encode", "a", "-f", "b.txt"],
        ["inspect", "a", "--chat", "b.json"],
        ["inspect", "-f", "a", "--chat", "b"],
    ):
        done = cli("tok", *argv)
        assert (done.returncode, done.stdout) == (2, "") and "only one of them" in done.stderr


def test_lines_of_json(cli: Cli, tokenizer: Tokenizer) -> None:
    lines = '{"text": "the king"}\n"queen"\n\n{"text": "", "more": 1}\n'
    done = cli("tok", "encode", "--jsonl", input=lines)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == [{"ids": tokenizer.encode(text)} for text in ("the king", "queen", "")]
    back = cli("tok", "decode", "--jsonl", input=done.stdout)
    assert [json.loads(line)["text"] for line in back.stdout.splitlines()] == ["the king", "queen", ""]
    named = cli("tok", "encode", "--jsonl", "--text-field", "body", "--bos", input='{"body": "king"}')
    assert json.loads(named.stdout)["ids"] == [tokenizer.bos_id, *tokenizer.encode("king")]


@pytest.mark.parametrize(
    ("command", "lines", "problem"),
    [
        ("encode", '"fine"\n{"body": "x"}\n', "error: no text in field text: standard input, line 2"),
        ("encode", '"fine"\n{"text": 5}\n', "error: no text in field text: standard input, line 2"),
        ("encode", "{oops\n", "error: no JSON: standard input, line 1"),
        ("encode", '"fine"\n"\\ud800"\n', "error: text that UTF-8 cannot hold: lone surrogate at character 0"),
        ("decode", '[1]\n{"ids": ["x"]}\n', "error: no list of token ids: standard input, line 2"),
        ("decode", "[1]\n[999]\n", "error: token id outside the vocabulary of 280: 999: standard input, line 2"),
    ],
)
def test_lines_that_cannot_be(cli: Cli, tokenizer: Tokenizer, command: str, lines: str, problem: str) -> None:
    done = cli("tok", command, "--jsonl", input=lines)
    assert done.returncode == 1
    assert done.stderr.startswith(problem), done.stderr


def test_tiktoken_gives_the_same(cli: Cli, tokenizer: Tokenizer) -> None:
    done = cli("tok", "encode", SAMPLE, "--backend", "tiktoken")
    assert list(map(int, done.stdout.split())) == tokenizer.encode(SAMPLE)


def test_pieces_are_told_apart(cli: Cli, tokenizer: Tokenizer) -> None:
    done = cli("tok", "inspect", "the king 12", "--json")
    rows = json.loads(done.stdout)
    assert [row["piece"] for row in rows if row["token"] in ("1", "2")] == [3, 4], "a digit each"
    assert "11 bytes, 5 pieces" in cli("tok", "inspect", "the king 12").stderr


def test_a_conversation_with_its_mask(cli: Cli, tokenizer: Tokenizer, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "king"}, {"role": "assistant", "content": "queen"}]}\n')
    done = cli("tok", "inspect", "--chat", str(chats))
    assert done.stdout.strip().endswith("<|assistant_start|>[queen<|assistant_end|>]")
    assert "trained on (in brackets)" in done.stderr


def test_eval(cli: Cli, tokenizer: Tokenizer, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("the king and the queen " * 20)
    done = cli("tok", "eval", str(own), "--against", "none", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["vocab_size"] == {"ours": 280}
    rows = {row["text"]: row for row in found["texts"]}
    assert set(rows) == {"english", "code", "cjk", "maths", str(own)}
    assert rows[str(own)]["tokens"]["ours"] == len(tokenizer.encode(own.read_text()))
    assert rows[str(own)]["bytes_per_token"]["ours"] == pytest.approx(460 / len(tokenizer.encode(own.read_text())))
    table = cli("tok", "eval", "--against", "none").stdout
    assert "ours (280)" in table and "cjk" in table


def test_eval_without_a_network(
    cli: Cli, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    done = cli("tok", "eval", "--json")
    assert done.returncode == 0, done.stderr
    assert "gpt2 is left out" in done.stderr and "cl100k_base is left out" in done.stderr
    assert list(json.loads(done.stdout)["vocab_size"]) == ["ours"]


def test_eval_against_what_nobody_knows(cli: Cli, tokenizer: Tokenizer) -> None:
    done = cli("tok", "eval", "--against", "gpt9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: tiktoken knows no encoding gpt9\nhint: choose among: gpt2")


def test_train_with_an_expression_of_ones_own(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two three\n" * 40)
    (tmp_path / "split.txt").write_text("[a-z]+|[^a-z]+\n")
    argv = ["tok", "train", "--vocab", "270", "--input", str(tmp_path / "text.txt"), "--name", "own", "--pattern"]
    done = cli(*argv, str(tmp_path / "split.txt"))
    assert done.returncode == 0, done.stderr
    assert "slow path" in done.stderr
    assert Tokenizer.load(paths.tokenizer_dir("own")).pieces("one two.") == ["one", " ", "two", "."]
    (tmp_path / "split.txt").write_text("[a-z]*")
    done = cli(*argv, str(tmp_path / "split.txt"), "--force")
    assert done.returncode == 2
    assert done.stderr.startswith("error: a split pattern that can match the empty string: '[a-z]*'\nhint: ")


def test_nothing_to_resume(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two three\n" * 40)
    done = cli("tok", "train", "--vocab", "270", "--input", str(tmp_path / "text.txt"), "--name", "own", "--resume")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: no interrupted training to go on with\nhint: begin it without --resume\n"
    assert not list(paths.tokenizers_dir().iterdir())
