"""Conversations, and how they become token ids with a mask that says what the model is trained to write.

    bos  user_start … user_end  assistant_start … assistant_end  user_start …

The mask is 1 on what an assistant writes, its closing token included, and 0 on everything it only reads: the user's
words, the openings of turns, and what a tool answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from nanochat_cli.core.errors import DataError
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]
PartKind = Literal["text", "python", "python_output"]


@dataclass(frozen=True)
class Part:
    """A stretch of an assistant's message: words, a tool call, or what the tool answered."""

    kind: PartKind
    text: str


@dataclass(frozen=True)
class Message:
    """One turn. Only an assistant's content may have parts."""

    role: Role
    content: str | tuple[Part, ...]

    @property
    def text(self) -> str:
        """The words of the message, without tool calls and their answers."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if part.kind == "text")


@dataclass(frozen=True)
class Conversation:
    """An optional system message, then user and assistant in turn."""

    messages: tuple[Message, ...]

    @classmethod
    def turn(cls, *, user: str, assistant: str | tuple[Part, ...]) -> Conversation:
        """A question and its reply."""
        return cls((Message("user", user), Message("assistant", assistant)))

    def validate(self) -> Conversation:
        """Return the conversation itself. Raises DataError naming the first turn that does not fit, counted from 1."""
        if not self.messages:
            raise DataError("a conversation without messages")
        start = 1 if self.messages[0].role == "system" else 0
        for i, message in enumerate(self.messages):
            expected = "system" if i < start else ("user", "assistant")[(i - start) % 2]
            if message.role != expected:
                raise DataError(f"turn {i + 1} must be of the {expected}: {message.role}")
            if message.role != "assistant" and not isinstance(message.content, str):
                raise DataError(f"turn {i + 1} has parts, which only an assistant's message may have: {message.role}")
        if len(self.messages) == start:
            raise DataError("a conversation with nothing but a system message")
        return self

    def without_reply(self) -> Conversation:
        """The conversation without its last message, if that is an assistant's."""
        if self.messages and self.messages[-1].role == "assistant":
            return Conversation(self.messages[:-1])
        return self

    def to_json(self) -> dict[str, Any]:
        """The conversation in OpenAI's shape: `{"messages": [{"role": …, "content": …}, …]}`."""
        return {"messages": [{"role": m.role, "content": _content_to_json(m.content)} for m in self.messages]}

    @classmethod
    def from_json(cls, value: Any) -> Conversation:
        """The conversation that `to_json` wrote, or any in OpenAI's shape. Raises DataError naming the wrong turn."""
        messages = value.get("messages") if isinstance(value, dict) else value
        if not isinstance(messages, list):
            raise DataError("a conversation needs a list of messages")
        return cls(tuple(_message_from_json(item, i + 1) for i, item in enumerate(messages))).validate()


@dataclass
class Rendered:
    """Token ids of a conversation and, one per id, 1 where the model is trained to produce it."""

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    truncated: bool = False
    """True if the conversation was longer than allowed and lost its end."""

    def add(self, ids: list[int], trained: bool) -> None:
        """Append ids that all are, or are not, trained on."""
        self.ids += ids
        self.mask += [int(trained)] * len(ids)


def render(tokenizer: Tokenizer, conversation: Conversation, max_tokens: int | None = None) -> Rendered:
    """Ids and mask of a conversation, cut to `max_tokens` if given. Raises DataError if its turns do not alternate."""
    rendered = Rendered()
    rendered.add([tokenizer.bos_id], trained=False)
    for message in _system_merged(conversation.validate()):
        start, end = tokenizer.special(f"{message.role}_start"), tokenizer.special(f"{message.role}_end")
        rendered.add([start], trained=False)
        if message.role == "user":
            rendered.add([*tokenizer.encode(message.text), end], trained=False)
        else:
            _add_reply(tokenizer, message.content, rendered)
            rendered.add([end], trained=True)
    if max_tokens is not None and len(rendered.ids) > max_tokens:
        return Rendered(rendered.ids[:max_tokens], rendered.mask[:max_tokens], truncated=True)
    return rendered


def render_prompt(tokenizer: Tokenizer, conversation: Conversation) -> list[int]:
    """Ids after which the assistant's reply begins; a reply that is there already is left out."""
    rendered = render(tokenizer, conversation.without_reply())
    return [*rendered.ids, tokenizer.special("assistant_start")]


def _add_reply(tokenizer: Tokenizer, content: str | tuple[Part, ...], rendered: Rendered) -> None:
    parts = (Part("text", content),) if isinstance(content, str) else content
    for part in parts:
        ids = tokenizer.encode(part.text)
        if part.kind == "text":
            rendered.add(ids, trained=True)
        elif part.kind == "python":
            start, end = tokenizer.special("python_start"), tokenizer.special("python_end")
            rendered.add([start, *ids, end], trained=True)
        else:
            start, end = tokenizer.special("output_start"), tokenizer.special("output_end")
            rendered.add([start, *ids, end], trained=False)


def _system_merged(conversation: Conversation) -> tuple[Message, ...]:
    """The messages with a system message put before the first user's, a blank line between."""
    first, *rest = conversation.messages
    if first.role != "system":
        return conversation.messages
    return (Message("user", f"{first.text}\n\n{rest[0].text}"), *rest[1:])


def _content_to_json(content: str | tuple[Part, ...]) -> str | list[dict[str, str]]:
    return content if isinstance(content, str) else [{"type": part.kind, "text": part.text} for part in content]


def _message_from_json(item: Any, turn: int) -> Message:
    role = item.get("role") if isinstance(item, dict) else None
    if role not in get_args(Role):
        raise DataError(f"turn {turn} has no role among {', '.join(get_args(Role))}: {role}")
    content = item.get("content")
    if isinstance(content, str):
        return Message(cast(Role, role), content)
    if not isinstance(content, list):
        raise DataError(f"turn {turn} has no content that is text or a list of parts")
    message = Message(cast(Role, role), tuple(_part_from_json(part, turn) for part in content))
    only_words = all(part.kind == "text" for part in message.content if isinstance(part, Part))
    return Message(message.role, message.text) if role != "assistant" and only_words else message


def _part_from_json(part: Any, turn: int) -> Part:
    kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None, None)
    if kind not in get_args(PartKind) or not isinstance(text, str):
        raise DataError(f"turn {turn} has a part that is not text, python or python_output: {kind}")
    return Part(cast(PartKind, kind), text)
