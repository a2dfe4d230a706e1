"""What an endpoint may answer: one conversation, in exactly the shape that was asked for."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_USER_CHARS, MAX_ASSISTANT_CHARS = 2000, 4000
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.DOTALL | re.IGNORECASE)
_MARKS = re.compile(r"<\|[^|<>]{1,40}\|>")
"""Markers of chat formats: in plain text they are a sign that the model lost its thread."""

Turn = dict[str, str]


class Junk(Exception):
    """An answer that cannot be used; another try may bring a better one."""


def conversation(text: str, *, max_turns: int) -> list[Turn]:
    """Return the messages of an answer. Raises Junk saying what is wrong with it."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        raise Junk("no JSON") from None
    if not isinstance(value, dict) or set(value) != {"messages"}:
        raise Junk("not an object with messages and nothing else")
    return checked(value["messages"], max_turns=max_turns)


def checked(messages: Any, *, max_turns: int) -> list[Turn]:
    """Return the messages if they are a conversation as training wants it. Raises Junk."""
    if not isinstance(messages, list) or not 2 <= len(messages) <= max_turns or len(messages) % 2:
        count = len(messages) if isinstance(messages, list) else "none"
        raise Junk(f"not an even number of messages up to {max_turns}: {count}")
    return [_turn(message, number) for number, message in enumerate(messages)]


def _turn(message: Any, number: int) -> Turn:
    role = ("user", "assistant")[number % 2]
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise Junk(f"message {number + 1} is not a role and a content and nothing else")
    if message["role"] != role:
        raise Junk(f"message {number + 1} must be of the {role}: {str(message['role'])[:40]}")
    content = message["content"]
    if not isinstance(content, str) or not content.strip():
        raise Junk(f"message {number + 1} has no text")
    longest = MAX_USER_CHARS if role == "user" else MAX_ASSISTANT_CHARS
    if len(content) > longest:
        raise Junk(f"message {number + 1} is longer than {longest} characters: {len(content)}")
    if _MARKS.search(content) or any(ord(c) < 32 and c not in "\n\t\r" for c in content):
        raise Junk(f"message {number + 1} has markers or control characters in it")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise Junk(f"message {number + 1} is not valid Unicode") from None
    return {"role": role, "content": content.strip()}
