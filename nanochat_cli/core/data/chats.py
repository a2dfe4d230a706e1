"""Conversations from files: OpenAI `messages`, ShareGPT and Alpaca shapes, told apart item by item.

    OpenAI     {"messages": [{"role": "user", "content": "…"}, …]}, or the list alone
    ShareGPT   {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}, …]}
    Alpaca     {"instruction": "…", "input": "…", "output": "…"}, or `response` for `output`
    pairs      {"prompt": "…", "completion": "…"}, {"question": "…", "answer": "…"}

A file is JSON lines (.jsonl, .ndjson) or one JSON array (.json), plain or compressed (.gz, .zst).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat_cli.core.data import jsonfile
from nanochat_cli.core.data.textfile import check_given
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.tokenizer.conversation import Conversation
from nanochat_cli.core.units import many

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
_ROLES |= {"assistant": "assistant", "model": "assistant", "system": "system"}
_PAIRS = (("instruction", "output"), ("instruction", "response"), ("prompt", "completion"), ("prompt", "response"))
_PAIRS += (("question", "answer"),)
_SHAPES = "messages (OpenAI), conversations (ShareGPT), or instruction and output (Alpaca)"


def read_chats(
    path: str | Path, limit: int | None = None, *, skip_bad: bool = False, log: Log = NULL
) -> list[Conversation]:
    """Return the conversations of a file, the first `limit` of them if given.

    Raises DataError naming file and line of the first conversation whose shape or turns are wrong; with `skip_bad`
    those are left out instead, and `log` gets a warning that counts them and quotes the first.
    """
    path = Path(path)
    check_given(path)
    found: list[Conversation] = []
    bad: list[str] = []
    for number, value in jsonfile.values(path):
        if limit is not None and len(found) >= limit:
            break
        try:
            found.append(_conversation(value))
        except DataError as problem:
            message = f"{path}:{number}: {problem}"
            if not skip_bad:
                raise DataError(message, hint=problem.hint) from None
            bad.append(message)
    if bad:
        were = "was" if len(bad) == 1 else "were"
        log.warning(f"{many(len(bad), 'conversation')} {were} left out, the first is {bad[0]}")
    if not found:
        raise DataError(f"no conversations in: {path}")
    return found


def _conversation(value: Any) -> Conversation:
    if isinstance(value, list):
        return _complete(Conversation.from_json({"messages": value}))
    if not isinstance(value, dict):
        raise DataError(f"not a conversation: {_brief(value)}", hint=f"each item needs {_SHAPES}")
    if "messages" in value:
        return _complete(Conversation.from_json(value))
    if "conversations" in value:
        return _complete(Conversation.from_json({"messages": _from_sharegpt(value["conversations"])}))
    for ask, reply in _PAIRS:
        if ask in value and reply in value:
            return _from_pair(value, ask, reply)
    fields = ", ".join(map(str, list(value)[:10])) or "none"
    raise DataError(f"a conversation of unknown shape (fields there: {fields})", hint=f"each item needs {_SHAPES}")


def _complete(conversation: Conversation) -> Conversation:
    if not any(message.role == "assistant" for message in conversation.messages):
        raise DataError("no turn of the assistant, so there is nothing to learn from")
    return conversation


def _from_sharegpt(turns: Any) -> list[dict[str, Any]]:
    if not isinstance(turns, list):
        raise DataError(f"conversations is not a list of turns: {_brief(turns)}")
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise DataError(f"turn {number} has no text in its value: {_brief(turn)}")
        sender = str(turn.get("from"))
        if sender not in _ROLES:
            raise DataError(f"turn {number} is from an unknown speaker: {sender}", hint=f"known: {', '.join(_ROLES)}")
        messages.append({"role": _ROLES[sender], "content": turn["value"]})
    return messages


def _from_pair(value: dict[str, Any], ask: str, reply: str) -> Conversation:
    context = value.get("input") if ask == "instruction" else None
    for name, text in ((ask, value[ask]), ("input", context or ""), (reply, value[reply])):
        if not isinstance(text, str):
            raise DataError(f"{name} is not text: {_brief(text)}")
    for name in (ask, reply):
        if not value[name].strip():
            raise DataError(f"{name} is empty")
    user = f"{value[ask]}\n\n{context}" if context else value[ask]
    return Conversation.turn(user=user, assistant=value[reply])


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
