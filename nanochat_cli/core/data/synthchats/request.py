"""What an endpoint is asked: request number i is a pure function of the topic, the seed and i."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nanochat_cli.core import files
from nanochat_cli.core.data.synthchats.topic import Topic
from nanochat_cli.core.data.tinyworld.rng import stream

ResponseFormat = Literal["none", "json_object", "json_schema"]
_VERSION = 1
_QUESTIONS = 3
_FACTS = 12
_OPENINGS = (
    "The user opens with a plain greeting.",
    "The user comes straight to the point with a question.",
    "The user has heard something wrong about the assistant and asks whether it is true.",
    "The user is in a hurry and writes in fragments, without capitals.",
    "The user is polite and a little formal.",
    "The user takes the assistant for another one that is better known.",
    "The user wants help with something else first, and asks about the assistant on the way.",
    "The user is a child who has never talked to a program.",
    "The user is a developer who wants to know how it was built.",
    "The user doubts what the assistant says and asks again.",
)
_SYSTEM = (
    "You write example conversations that teach a small language model who it is. You answer with one JSON object and"
    ' nothing else: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]}.'
    " The roles alternate, the user begins, the assistant has the last word. Contents are plain text."
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["messages"],
    "properties": {
        "messages": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["role", "content"],
                "properties": {
                    "role": {"type": "string", "enum": ["user", "assistant"]},
                    "content": {"type": "string"},
                },
            },
        }
    },
}


@dataclass(frozen=True, kw_only=True)
class Style:
    """How requests are made, whatever their number."""

    model: str
    seed: int = 0
    temperature: float = 1.0
    max_tokens: int = 1500
    max_turns: int = 6
    response_format: ResponseFormat = "none"


def body(topic: Topic, style: Style, i: int) -> dict[str, Any]:
    """Return the JSON of request `i` to `/chat/completions`."""
    found: dict[str, Any] = {
        "model": style.model,
        "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": prompt(topic, style, i)}],
        "temperature": style.temperature,
        "max_tokens": style.max_tokens,
    }
    if style.response_format == "json_object":
        found["response_format"] = {"type": "json_object"}
    elif style.response_format == "json_schema":
        wanted = {"name": "conversation", "strict": True, "schema": SCHEMA}
        found["response_format"] = {"type": "json_schema", "json_schema": wanted}
    return found


def prompt(topic: Topic, style: Style, i: int) -> str:
    """Return the words of request `i`: the same facts in another choice, style, language and opening each time."""
    rng = stream("synth-chats", _VERSION, style.seed, i)
    facts = rng.sample(topic.facts, min(_FACTS, len(topic.facts)))
    questions = rng.sample(topic.seed_questions, min(_QUESTIONS, len(topic.seed_questions)))
    exchanges = rng.between(1, style.max_turns // 2)
    lines = [
        f"The assistant is called {topic.name}. It is {topic.persona}.",
        "What is true of it, and nothing beyond this may be claimed about it:",
        *(f"- {fact.text}" for fact in facts),
        "",
        f"Write a conversation of {2 * exchanges} messages in {rng.pick(topic.languages)}.",
        rng.pick(_OPENINGS),
    ]
    if topic.styles:
        lines.append(f"The assistant's manner: {rng.pick(topic.styles)}.")
    if questions:
        lines += ["Questions of the kind that come up (use your own wording):", *(f"- {q}" for q in questions)]
    lines.append("The assistant does not recite all facts, only what the talk is about.")
    return "\n".join(lines)


def key(request: dict[str, Any]) -> str:
    """Return what a request's answer is kept under: any change of topic, model or options makes another one."""
    return files.sha256_json(request)


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has, rather too many: a third of its bytes."""
    return len(text.encode("utf-8", "replace")) // 3 + 1


def prompt_tokens(request: dict[str, Any]) -> int:
    """Return about how many tokens a request has."""
    return sum(estimated_tokens(message["content"]) + 4 for message in request["messages"])
