"""Patterns by name, and any regular expression through the slow path."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings

from nanochat_cli.core import events
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.tokenizer import export, patterns, twin
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from tests.core.tokenizer.conftest import TEXTS
from tests.core.tokenizer.reference import texts, tiktoken_pieces

WORDS = r"\w+|\s+|[^\w\s]+"


def test_gpt2_is_that_of_tiktoken() -> None:
    """tiktoken's own string for GPT-2, as it is written in its public source."""
    theirs = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    same = patterns.Pattern("gpt2-of-tiktoken", theirs)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(texts)
    def compare(text: str) -> None:
        assert patterns.find("gpt2").split(text) == tiktoken_pieces(text, same)

    compare()


def test_a_known_expression_in_a_file_is_the_native_pattern(tmp_path: Path) -> None:
    for name in patterns.PATTERN_NAMES:
        path = tmp_path / name
        path.write_text(patterns.find(name).regex + "\n")
        assert patterns.find(str(path)) == patterns.find(name)


def test_any_other_expression_takes_the_slow_path_and_says_so(tmp_path: Path) -> None:
    seen: list[events.Event] = []
    tokenizer = Tokenizer.train_on_batches(
        [TEXTS, pa.array(TEXTS)], 330, pattern=patterns.custom(WORDS), log=events.Listener(seen.append)
    )
    assert any("slow path" in event.get("text", "") for event in seen)
    assert tokenizer.pieces("don't  stop!?") == ["don", "'", "t", "  ", "stop", "!?"]
    assert tokenizer.training["documents"] == 2 * len(TEXTS)
    assert tokenizer.training["bytes"] == 2 * sum(len(text.encode()) for text in TEXTS)
    check = twin.encoding(tokenizer)
    plain = [text for text in TEXTS if text.isascii()]  # the engines know different versions of Unicode
    for text in plain:
        assert tokenizer.encode(text) == check.encode_ordinary(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for given_ in (plain, pa.array(plain)):
        for bos in (False, True):
            ids, offsets = tokenizer.encode_batch(given_, bos=bos)
            want = [[tokenizer.bos_id] * bos + check.encode_ordinary(text) for text in plain]
            assert [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)] == want
    with pytest.raises(ConfigError, match="no equal in other libraries"):
        twin.on_tiktoken(tokenizer)
    with pytest.raises(ConfigError, match="no equal in other libraries"):
        export.write(tokenizer, "hf", tmp_path)
    tokenizer.save(tmp_path / "t")
    assert Tokenizer.load(tmp_path / "t").hash == tokenizer.hash


def test_text_between_matches_is_not_lost() -> None:
    assert patterns.custom(r"\d+").split("ab12 cd345") == ["ab", "12", " cd", "345"]


@pytest.mark.parametrize(
    ("regex", "problem"),
    [
        (r"\w*", "can match the empty string"),
        ("", "can match the empty string"),
        (r"(?=x)|.", "can match the empty string"),
        ("(", "no regular expression"),
        ("[a", "no regular expression"),
        ("(" * 60_000, "no regular expression"),
        (r"(?r)\w+|\s+", "searches backwards"),
    ],
)
def test_what_cannot_cut_text(regex: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        patterns.custom(regex).split("abc x")


def test_files_that_hold_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "long").write_text("a" * 70_000)
    for name in ("binary", "long"):
        with pytest.raises(ConfigError, match=name):
            patterns.find(str(tmp_path / name))
    with pytest.raises(ConfigError, match="unknown split pattern"):
        patterns.find(str(tmp_path))


@pytest.mark.parametrize("name", patterns.PATTERN_NAMES)
def test_texts_may_be_cut_where_it_says(name: str) -> None:
    pattern = patterns.find(name)
    found = 0

    @settings(max_examples=500, deadline=None, derandomize=True)
    @given(texts, texts)
    def compare(text: str, more: str) -> None:
        nonlocal found
        text = text.replace("\t", "\n") + "\n" + more[:1]
        cut = pattern.last_cut(text)
        if cut:
            found += 1
            assert pattern.split(text + more) == pattern.split(text[:cut]) + pattern.split(text[cut:] + more)

    compare()
    assert found > 50
