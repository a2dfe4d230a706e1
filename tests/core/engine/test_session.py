"""A conversation: turns kept, oldest ones dropped, interruptions survived, characters whole."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nanochat_cli.core.engine import session as module
from nanochat_cli.core.engine.session import Sampling, Session
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

FAMILY = "👩‍👩‍👧"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["hello world, how are you? fine, thank you."] * 3, 280)


class Script:
    """Stands in for the model: says prepared texts, and remembers what it was given."""

    def __init__(self, tokenizer: Tokenizer, context: int = 10_000) -> None:
        self.tokenizer = tokenizer
        self.config = SimpleNamespace(max_seq_len=context)
        self.replies: list[str] = []
        self.prompts: list[str] = []
        self.lengths: list[int] = []
        self.asked: list[dict[str, Any]] = []

    def stream(self, model: Any, prompt: list[int], **options: Any) -> Iterator[int]:
        self.prompts.append(self.tokenizer.decode(prompt))
        self.lengths.append(len(prompt))
        self.asked.append(options)
        text = self.replies.pop(0)
        ids = [*self.tokenizer.encode(text.removesuffix("…"))]
        if not text.endswith("…"):
            ids.append(self.tokenizer.special("assistant_end"))
        yield from ids[: options["max_new_tokens"]]


@pytest.fixture
def script(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script(tokenizer)
    monkeypatch.setattr(module, "stream", script.stream)
    return script


def talk(script: Script, **options: Any) -> Session:
    sampling = options.pop("sampling", Sampling())
    return Session(script, script.tokenizer, sampling, **options)  # type: ignore[arg-type]


def test_turns_build_up(script: Script) -> None:
    script.replies = ["fine", "world"]
    session = talk(script, system="be kind")
    assert "".join(session.ask("how are you?")) == "fine"
    assert "".join(session.ask("hello")) == "world"
    assert session.turns == [("how are you?", "fine"), ("hello", "world")]
    for part in ("be kind", "how are you?", "fine", "hello"):
        assert part in script.prompts[1]
    assert session.last.ending == "finished" and session.last.num_tokens > 0 and session.last.tokens_per_s
    session.clear()
    script.replies = ["you"]
    "".join(session.ask("who?"))
    assert "fine" not in script.prompts[2] and "be kind" in script.prompts[2]


def test_characters_are_never_cut(script: Script) -> None:
    text = f"日本 {FAMILY} é"
    script.replies = [text]
    pieces = list(talk(script).ask("hello"))
    assert "".join(pieces) == text and len(pieces) > 1
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_reply_cut_inside_a_character_still_ends(script: Script) -> None:
    script.replies = ["日本"]
    session = talk(script, sampling=Sampling(max_tokens=4))
    assert "".join(session.ask("hello")).startswith("日")
    assert session.last.ending == "length" and session.last.num_tokens == 4


def test_oldest_turns_make_room(script: Script) -> None:
    script.config.max_seq_len = 90
    session = talk(script, sampling=Sampling(max_tokens=1000))
    dropped = []
    for number in range(6):
        script.replies = [f"reply {number}"]
        "".join(session.ask(f"question {number}"))
        dropped.append(session.last.dropped)
        assert script.lengths[-1] <= 60  # a third of the context is left for the reply
    assert dropped[0] == 0 and sum(dropped) >= 2 and max(dropped) <= 2
    assert session.turns[-1] == ("question 5", "reply 5") and "question 0" not in script.prompts[-1]
    assert f"question {6 - len(session.turns)}" in script.prompts[-1]  # whole turns, none more than needed


def test_too_long_a_message_is_refused_and_nothing_is_lost(script: Script) -> None:
    script.config.max_seq_len = 60
    session = talk(script)
    script.replies = ["fine"]
    "".join(session.ask("hello"))
    with pytest.raises(DataError, match="too long for this model"):
        "".join(session.ask("xyz " * 60))
    assert session.turns == [("hello", "fine")]


def test_full_context_is_told(script: Script) -> None:
    script.config.max_seq_len = 40
    script.replies = ["x" * 100]
    session = talk(script, sampling=Sampling(max_tokens=500))
    "".join(session.ask("hello"))
    assert session.last.ending == "context"


@pytest.mark.parametrize("how", ["close", "throw"])
def test_interrupted_reply_is_kept_as_far_as_it_came(script: Script, how: str) -> None:
    script.replies = ["hello world, how are you?"]
    session = talk(script)
    pieces = session.ask("hello")
    first = next(pieces)
    if how == "close":
        pieces.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(KeyboardInterrupt):
            pieces.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert session.turns == [("hello", first)] and session.last.ending == "interrupted"
    script.replies = ["fine"]
    assert "".join(session.ask("how are you?")) == "fine"


def test_regenerate_replaces_the_answer_and_draws_anew(script: Script) -> None:
    session = talk(script, sampling=Sampling(seed=5))
    with pytest.raises(DataError, match="nothing has been asked"):
        session.again()
    script.replies = ["fine", "well"]
    "".join(session.ask("hello"))
    assert "".join(session.again()) == "well"
    assert session.turns == [("hello", "well")]
    assert "fine" not in script.prompts[1] and script.asked[0]["seed"] != script.asked[1]["seed"]


def test_a_base_model_continues_text(script: Script) -> None:
    script.replies = [" world…"]
    session = talk(script, raw=True)
    assert "".join(session.ask("hello")) == " world"
    assert session.turns == [] and script.prompts[0].endswith("hello") and "user" not in script.prompts[0]


def test_settings_are_checked(script: Script) -> None:
    session = talk(script)
    for name, value in (("temperature", "0"), ("top_k", "0"), ("max_tokens", "7"), ("seed", "3")):
        session.set_text(name, value)
    assert session.sampling == Sampling(temperature=0, top_k=None, max_tokens=7, seed=3)
    for name, value in (
        ("temperature", "-1"),
        ("temperature", "nan"),
        ("max_tokens", "0"),
        ("seed", "x"),
        ("speed", "1"),
    ):
        with pytest.raises(ConfigError):
            session.set_text(name, value)
