"""Text of any length to ids and back, in pieces that fit into memory; and lines of JSON, one document each."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from nanochat_cli.core.errors import DataError
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

_BLOCK = 1 << 20
_APART = re.compile(r"[\s,]+")
_LINES = 1024
_CONTROLS = re.compile("[\x7f-\x9f]")


def encode_stream(tokenizer: Tokenizer, source: BinaryIO, name: str) -> Iterator[list[int]]:
    """Ids of a stream of UTF-8, a block at a time; together those of the whole text.

    Blocks end where no piece can reach across. Text without any such place, and text for a pattern of one's own, is
    read as a whole. Raises DataError naming the byte that is no UTF-8.
    """
    waiting: list[str] = []
    for text in _decoded(source, name):
        cut = tokenizer.pattern.last_cut(text)
        waiting.append(text[:cut] if cut else text)
        if cut:
            yield tokenizer.encode_batch(["".join(waiting)])[0].tolist()
            waiting = [text[cut:]]
    if rest := "".join(waiting):
        yield tokenizer.encode_batch([rest])[0].tolist()


def _decoded(source: BinaryIO, name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    before = 0
    while block := source.read(_BLOCK):
        waiting = len(decoder.getstate()[0])
        try:
            yield decoder.decode(block)
        except UnicodeDecodeError as problem:
            raise DataError(f"{name} is not UTF-8 at byte {before - waiting + problem.start}") from None
        before += len(block)
    if decoder.getstate()[0]:
        raise DataError(
            f"{name} is not UTF-8 at byte {before - len(decoder.getstate()[0])}: it ends inside a character"
        )


def encode_lines(tokenizer: Tokenizer, lines: Iterable[bytes], name: str, field: str, bos: bool) -> Iterator[str]:
    """A line `{"ids": [...]}` for each line of JSON, which is a text or an object with the text in `field`."""
    numbers: list[int] = []
    texts: list[str] = []
    for number, value in _values(lines, name):
        text = value.get(field) if isinstance(value, dict) else value
        if not isinstance(text, str):
            there = ", ".join(map(str, value)) if isinstance(value, dict) else ""
            hint = f"name the field that holds the text with --text-field; fields there: {there}" if there else None
            raise DataError(f"no text in field {field}: {name}, line {number}", hint=hint)
        numbers.append(number)
        texts.append(text)
        if len(texts) == _LINES:
            yield from _encoded(tokenizer, texts, numbers, name, bos)
            numbers, texts = [], []
    yield from _encoded(tokenizer, texts, numbers, name, bos)


def _encoded(tokenizer: Tokenizer, texts: list[str], numbers: list[int], name: str, bos: bool) -> Iterator[str]:
    try:
        ids, offsets = tokenizer.encode_batch(texts, bos=bos)
    except DataError:
        for number, text in zip(numbers, texts):
            try:
                tokenizer.encode(text)
            except DataError as problem:
                raise DataError(f"{problem}: {name}, line {number}") from None
        raise
    for start, end in itertools.pairwise(offsets):
        yield json.dumps({"ids": ids[start:end].tolist()})


def decode_lines(tokenizer: Tokenizer, lines: Iterable[bytes], name: str) -> Iterator[str]:
    """A line `{"text": "..."}` for each line of JSON, which is a list of ids or an object with them in `ids`."""
    for number, value in _values(lines, name):
        ids = value.get("ids") if isinstance(value, dict) else value
        if not isinstance(ids, list) or not all(type(id) is int for id in ids):
            raise DataError(f"no list of token ids: {name}, line {number}")
        try:
            yield escape_controls(json.dumps({"text": tokenizer.decode(ids)}, ensure_ascii=False))
        except DataError as problem:
            raise DataError(f"{problem}: {name}, line {number}") from None


def decode_words(tokenizer: Tokenizer, words: Iterable[str]) -> Iterator[bytes]:
    """Bytes of token ids written as words. Raises DataError naming the first that is none."""
    for word in words:
        try:
            id = int(word)
        except ValueError:
            raise DataError(
                f"not a token id: {word[:80]}", hint="ids are whole numbers, apart by blanks or commas"
            ) from None
        yield tokenizer.id_to_bytes(id)


def words_of(source: BinaryIO, name: str) -> Iterator[str]:
    """The words of a stream, apart by white space or commas."""
    rest = ""
    for text in _decoded(source, name):
        *words, rest = _APART.split(rest + text)
        yield from filter(None, words)
    if rest:
        yield rest


def escape_controls(text: str) -> str:
    """JSON with what steers terminals escaped: JSON itself escapes only the controls below U+0020."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _values(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"no JSON: {name}, line {number}") from None
