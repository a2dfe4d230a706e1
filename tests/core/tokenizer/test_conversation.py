from __future__ import annotations

import json
from typing import Any

import pytest

from nanochat_cli.core.errors import DataError
from nanochat_cli.core.tokenizer.conversation import Conversation, Message, Part, render, render_prompt
from nanochat_cli.core.tokenizer.tokenizer import SPECIALS, Tokenizer

TOOLS = Conversation(
    (
        Message("system", "Be kind."),
        Message("user", "What is 2+2?"),
        Message(
            "assistant",
            (Part("text", "Let me see. "), Part("python", "2+2"), Part("python_output", "4"), Part("text", "It is 4.")),
        ),
        Message("user", "Thanks"),
        Message("assistant", "Bye"),
    )
)


def shown(tokenizer: Tokenizer, ids: list[int], mask: list[int]) -> str:
    """Rendered text, with what is trained on in square brackets."""
    out, inside = "", 0
    for id, trained in zip(ids, mask, strict=True):
        out += {(0, 1): "[", (1, 0): "]"}.get((inside, trained), "")
        out += f"<{SPECIALS[id - tokenizer.bos_id]}>" if tokenizer.is_special(id) else tokenizer.decode([id])
        inside = trained
    return out + "]" * inside


def test_a_turn(tokenizer: Tokenizer) -> None:
    rendered = render(tokenizer, Conversation.turn(user="Hi the cat", assistant="The mat"))
    special, encode = tokenizer.special, tokenizer.encode
    question, answer = encode("Hi the cat"), encode("The mat")
    assert rendered.ids == [
        special("bos"), special("user_start"), *question, special("user_end"),
        special("assistant_start"), *answer, special("assistant_end"),
    ]  # fmt: skip
    assert rendered.mask == [0, 0, *[0] * len(question), 0, 0, *[1] * len(answer), 1]
    assert not rendered.truncated


def test_system_message_and_tools(tokenizer: Tokenizer) -> None:
    rendered = render(tokenizer, TOOLS)
    assert shown(tokenizer, rendered.ids, rendered.mask) == (
        "<bos><user_start>Be kind.\n\nWhat is 2+2?<user_end>"
        "<assistant_start>[Let me see. <python_start>2+2<python_end>]"
        "<output_start>4<output_end>[It is 4.<assistant_end>]"
        "<user_start>Thanks<user_end><assistant_start>[Bye<assistant_end>]"
    )


def test_specials_in_what_people_write_are_only_text(tokenizer: Tokenizer) -> None:
    rendered = render(tokenizer, Conversation.turn(user="<|assistant_start|>", assistant="<|user_end|>"))
    assert sum(tokenizer.is_special(id) for id in rendered.ids) == 5


@pytest.mark.parametrize("max_tokens", [1, 10, 40])
def test_truncation_is_told(tokenizer: Tokenizer, max_tokens: int) -> None:
    whole, cut = render(tokenizer, TOOLS), render(tokenizer, TOOLS, max_tokens)
    assert (cut.ids, cut.mask, cut.truncated) == (whole.ids[:max_tokens], whole.mask[:max_tokens], True)
    fits = render(tokenizer, TOOLS, len(whole.ids))
    assert (fits.ids, fits.truncated) == (whole.ids, False)


def test_prompts_end_where_the_reply_begins(tokenizer: Tokenizer) -> None:
    prompt = render_prompt(tokenizer, TOOLS)
    whole = render(tokenizer, TOOLS).ids
    assert prompt == whole[: len(prompt)]
    assert whole[len(prompt) :] == [*tokenizer.encode("Bye"), tokenizer.special("assistant_end")]
    asked = Conversation(TOOLS.messages[:-1])
    assert render_prompt(tokenizer, asked) == prompt


def test_json_round_trip() -> None:
    value = json.loads(json.dumps(TOOLS.to_json()))
    assert Conversation.from_json(value) == TOOLS
    assert Conversation.from_json(value["messages"]) == TOOLS
    assert value["messages"][1] == {"role": "user", "content": "What is 2+2?"}


def test_words_of_a_user_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
    conversation = Conversation.from_json([{"role": "user", "content": parts}])
    assert conversation.messages == (Message("user", "Hi there"),)


def test_text_of_a_message() -> None:
    assert TOOLS.messages[2].text == "Let me see. It is 4."


U, A, S = ({"role": role, "content": "x"} for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "without messages"),
        ([S], "nothing but a system message"),
        ([A, U], "turn 1 must be of the user: assistant"),
        ([U, U], "turn 2 must be of the assistant: user"),
        ([U, A, A], "turn 3 must be of the user: assistant"),
        ([U, S], "turn 2 must be of the assistant: system"),
        ([S, S, U], "turn 2 must be of the user: system"),
        ([S, A], "turn 2 must be of the user: assistant"),
        ([U, {"role": "robot", "content": "x"}], "turn 2 has no role among system, user, assistant: robot"),
        ([U, {"role": "assistant"}], "turn 2 has no content"),
        (
            [U, {"role": "assistant", "content": [{"type": "image", "text": "x"}]}],
            "turn 2 has a part that is not .*: image",
        ),
        ([{"role": "user", "content": [{"type": "python", "text": "x"}]}], "turn 1 has parts"),
        (["hello"], "turn 1 has no role"),
        ("hello", "needs a list of messages"),
        ({"dialog": []}, "needs a list of messages"),
    ],
)
def test_conversations_that_do_not_fit(messages: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        Conversation.from_json(messages)


def test_rendering_checks_the_turns(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="turn 2 must be of the assistant"):
        render(tokenizer, Conversation((Message("user", "a"), Message("user", "b"))))
