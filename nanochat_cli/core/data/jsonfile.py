"""JSON values of a file with the line each stands on: one per line, one after another, or the items of one array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat_cli.core.data.textfile import kind_of, lines, read_text
from nanochat_cli.core.errors import DataError

JSON_LINES = (".jsonl", ".ndjson")
_SPACE = " \t\n\r"


def values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value). JSON lines are streamed; another JSON file is read whole.

    Raises DataError naming file and line of the first value that is broken.
    """
    return _of_lines(path) if kind_of(path) in JSON_LINES else _of_document(path)


def _of_lines(path: Path) -> Iterator[tuple[int, Any]]:
    pending, began = "", 0
    for number, text in lines(path):
        if not pending:
            began = number
        pending += text
        if not text.endswith("\n"):
            continue  # a piece of a very long line, or the last line
        if pending.strip():
            yield began, _parse(pending, path, began)
        pending = ""
    if pending.strip():
        yield began, _parse(pending, path, began)


def _parse(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"JSON nested too deeply: {path}:{number}") from None
    except ValueError as problem:
        reason = problem.msg if isinstance(problem, json.JSONDecodeError) else str(problem)
        array = number == 1 and text.strip() == "["
        raise DataError(
            f"broken JSON: {path}:{number} ({reason[:1].lower()}{reason[1:]})",
            hint="it looks like one JSON array: let its name end in .json" if array else None,
        ) from None


def _of_document(path: Path) -> Iterator[tuple[int, Any]]:
    text = read_text(path)
    at = _skip(text, 0)
    inside = text[at : at + 1] == "["
    at = _skip(text, at + 1) if inside else at
    decoder = json.JSONDecoder()
    number, counted = 1, 0
    while at < len(text):
        if inside and text[at] == "]":
            if (after := _skip(text, at + 1)) < len(text):
                raise _broken(path, text, after, "something follows the end of the array")
            return
        number, counted = number + text.count("\n", counted, at), at
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError:
            raise DataError(f"JSON nested too deeply: {path}:{number}") from None
        except json.JSONDecodeError as problem:
            raise _broken(path, text, problem.pos, problem.msg[:1].lower() + problem.msg[1:]) from None
        yield number, value
        at = _skip(text, end)
        if inside:
            at = _after_item(path, text, at)
    if inside:
        raise _broken(path, text, len(text), "the array is not closed; the file may be cut short")


def _after_item(path: Path, text: str, at: int) -> int:
    if text[at : at + 1] == ",":
        after = _skip(text, at + 1)
        if text[after : after + 1] == "]":
            raise _broken(path, text, at, "a comma before the end of the array")
        return after
    if at < len(text) and text[at] != "]":
        raise _broken(path, text, at, "expected a comma between two items")
    return at


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _broken(path: Path, text: str, at: int, reason: str) -> DataError:
    return DataError(f"broken JSON: {path}:{text.count(chr(10), 0, at) + 1} ({reason})")
