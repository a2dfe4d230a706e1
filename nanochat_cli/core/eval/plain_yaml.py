"""The part of YAML that lists of settings are written in: mappings, lists, plain and quoted scalars, comments.

A whole YAML reader would be one more dependency for one file. What is not understood is an error, never a guess.
"""

from __future__ import annotations

import json
import re
from typing import Any

from nanochat_cli.core.errors import DataError

_KEY = re.compile(r"([A-Za-z_][\w.-]*)\s*:(?:\s+|$)(.*)", re.DOTALL)
_INT, _FLOAT = re.compile(r"[-+]?\d+"), re.compile(r"[-+]?\d+\.\d*")


def read(text: str, name: str) -> dict[str, Any]:
    """The mapping that `text` describes. Raises DataError with `name` and the line that is not understood."""
    found, rest = _block(_lines(text, name), 0, name)
    if rest or not isinstance(found, dict):
        raise DataError(f"not the YAML that is expected here: {name}, line {rest[0][2] if rest else 1}")
    return found


_Line = tuple[int, str, int]
"""Indent, content, number."""


def _lines(text: str, name: str) -> list[_Line]:
    """Logical lines, without comments; a quoted scalar that goes over several lines is folded into its first."""
    found: list[_Line] = []
    raw = text.splitlines()
    at = 0
    while at < len(raw):
        number, line = at + 1, raw[at]
        at += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        while quote := _open_quote(line):
            if at >= len(raw):
                raise DataError(f"a quoted text has no end ({quote}): {name}, line {number}")
            line += "\n" + raw[at]
            at += 1
        indent = len(line) - len(line.lstrip(" "))
        while (content := line.lstrip(" ")).startswith("- ") or content.rstrip() == "-":
            # A dash opens an entry; what follows it is indented by as much as it stands to the right.
            found.append((len(line) - len(content), "-", number))
            line = " " * (len(line) - len(content) + 1) + content[1:]
            indent = len(line) - len(line.lstrip(" "))
            if not line.strip() or line.lstrip().startswith("#"):
                break
        else:
            found.append((indent, line.strip(), number))
    return found


def _open_quote(line: str) -> str | None:
    """The quote of a scalar that does not end on this line, or None."""
    start = re.search(r"(?:^|[:\-\[,]\s+|\[)(['\"])", line)
    if not start:
        return None
    return None if _quoted_end(line, start.start(1)) is not None else start.group(1)


def _quoted_end(text: str, start: int) -> int | None:
    """Where the quoted scalar that begins at `start` ends (behind its closing quote), or None."""
    quote, at = text[start], start + 1
    while at < len(text):
        if quote == '"' and text[at] == "\\":
            at += 2
        elif text[at] != quote:
            at += 1
        elif quote == "'" and text[at + 1 : at + 2] == "'":
            at += 2
        else:
            return at + 1
    return None


def _block(lines: list[_Line], indent: int, name: str) -> tuple[Any, list[_Line]]:
    """The list or mapping that the first lines describe, and the lines behind it."""
    if lines and lines[0][1] == "-":
        return _list(lines, lines[0][0], name)
    if lines and not _KEY.fullmatch(lines[0][1]):
        return _scalar(lines[0][1], name, lines[0][2]), lines[1:]
    mapping: dict[str, Any] = {}
    indent = lines[0][0] if lines else indent
    while lines and lines[0][0] == indent and lines[0][1] != "-":
        _, content, number = lines[0]
        match = _KEY.fullmatch(content)
        if not match:
            raise DataError(f"not the YAML that is expected here: {name}, line {number}")
        key, value = match.groups()
        lines = lines[1:]
        if value and not value.startswith("#"):
            mapping[key] = _scalar(value, name, number)
        elif lines and (lines[0][0] > indent or (lines[0][0] == indent and lines[0][1] == "-")):
            mapping[key], lines = _block(lines, indent, name)
        else:
            mapping[key] = None
    return mapping, lines


def _list(lines: list[_Line], indent: int, name: str) -> tuple[list[Any], list[_Line]]:
    found: list[Any] = []
    while lines and lines[0][0] == indent and lines[0][1] == "-":
        lines = lines[1:]
        if lines and lines[0][0] > indent:
            entry, lines = _block(lines, indent, name)
            found.append(entry)
        else:
            found.append(None)
    return found, lines


def _scalar(text: str, name: str, number: int) -> Any:
    text = text.strip()
    if text[:1] in ("'", '"'):
        end = _quoted_end(text, 0)
        behind = text[end:].strip() if end else "?"
        if end is None or (behind and not behind.startswith("#")):
            raise DataError(f"not the YAML that is expected here: {name}, line {number}")
        inner = _folded(text[1 : end - 1])
        return inner.replace("''", "'") if text[0] == "'" else _unescaped(inner, name, number)
    text = re.split(r"\s#", text, maxsplit=1)[0].strip()
    if text.startswith("[") and text.endswith("]"):
        return [_scalar(part, name, number) for part in text[1:-1].split(",") if part.strip()]
    if text[:1] in ("{", "[", "&", "*", "!", "|", ">", "%", "@", "`"):
        raise DataError(f"not the YAML that is expected here: {name}, line {number}")
    if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
        return float(text) if "." in text else int(text)
    return {"true": True, "false": False, "null": None, "~": None}.get(text.lower(), text)


def _folded(text: str) -> str:
    """A line break inside quotes is a space, and so many empty lines are so many breaks."""
    if "\n" not in text:
        return text
    first, *others = text.split("\n")
    found, breaks = first.rstrip(), 0
    for number, line in enumerate(others, 1):
        inner = line.lstrip() if number == len(others) else line.strip()
        if not inner and number < len(others):
            breaks += 1
            continue
        found += ("\n" * breaks if breaks else " ") + inner
        breaks = 0
    return found


def _unescaped(text: str, name: str, number: int) -> str:
    try:
        return json.loads('"' + text.replace("\n", "\\n").replace("\t", "\\t") + '"')
    except ValueError as problem:
        raise DataError(f"not the YAML that is expected here: {name}, line {number}") from problem
