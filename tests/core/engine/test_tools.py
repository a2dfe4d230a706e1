from __future__ import annotations

import pytest
import torch

from nanochat_cli.core.engine import generate as engine
from nanochat_cli.core.engine import tools
from nanochat_cli.core.engine.session import Sampling, Session
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.tokenizer.conversation import Conversation, Message, Part, render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["twelve and thirty is 42 and 48/2 is 24, so it is. " * 9], 275)


def worked(tokenizer: Tokenizer, asked: str, result: str, then: str) -> list[int]:
    """A reply as training data has it, with its end."""
    parts = (Part("text", "so "), Part("python", asked), Part("python_output", result), Part("text", then))
    rendered = render(tokenizer, Conversation((Message("user", "?"), Message("assistant", parts))))
    at = rendered.ids.index(tokenizer.special("assistant_start"))
    return rendered.ids[at + 1 :]


class Scripted:
    """Samples what a script says, as long as nothing is forced: the model's own numbers do not matter."""

    def __init__(self, script: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
        self.script, self.asked = script, 0
        monkeypatch.setattr(engine, "next_tokens", self.next_tokens)

    def next_tokens(self, logits: torch.Tensor, *, position: int, **_: object) -> torch.Tensor:
        return torch.tensor([row[position] if position < len(row) else 0 for row in self.script][: len(logits)])


@pytest.fixture
def model(tokenizer: Tokenizer) -> LanguageModel:
    return build(from_depth(1, tokenizer.vocab_size, 64, n_embd=16))


def test_the_result_is_forced_as_training_data_has_it(
    tokenizer: Tokenizer, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = worked(tokenizer, "48/2", "24", " it is.")
    forced = tools.forced(tokenizer, want)
    junk = [5 if out else token for token, out in zip(want, forced, strict=True)]  # what the model would have said
    plain = [*tokenizer.encode("just text"), tokenizer.special("assistant_end")]
    Scripted([junk, plain], monkeypatch)
    stop = {tokenizer.special("assistant_end")}
    found = engine.generate(model, [[1], [1]], max_new_tokens=40, stop_ids=stop, tools=tokenizer)
    assert found == [want, plain]
    Scripted([junk], monkeypatch)
    assert list(engine.stream(model, [1], max_new_tokens=40, stop_ids=stop, tools=tokenizer)) == want
    Scripted([junk], monkeypatch)
    assert engine.generate(model, [[1]], max_new_tokens=40, stop_ids=stop) == [junk]


def test_what_was_forced_is_what_training_leaves_out(tokenizer: Tokenizer) -> None:
    conversation = Conversation(
        (
            Message("user", "?"),
            Message("assistant", (Part("python", "12+30"), Part("python_output", "42"), Part("text", "."))),
        )
    )
    rendered = render(tokenizer, conversation)
    at = rendered.ids.index(tokenizer.special("assistant_start")) + 1
    assert [not out for out in tools.forced(tokenizer, rendered.ids[at:])] == list(map(bool, rendered.mask[at:]))


@pytest.mark.parametrize("asked", ["import os", "1/0", "9" * 300, "", "2**9999"])
def test_nothing_is_forced_after_what_cannot_be_worked_out(tokenizer: Tokenizer, asked: str) -> None:
    start, end = tokenizer.special("python_start"), tokenizer.special("python_end")
    assert not any(tools.forced(tokenizer, [start, *tokenizer.encode(asked), end, 1, 2, 3]))


def test_a_call_that_is_broken_off_is_none(tokenizer: Tokenizer) -> None:
    start, end = tokenizer.special("python_start"), tokenizer.special("python_end")
    sums = tokenizer.encode("1+1")
    for reply in ([end, *sums], [start, *sums, tokenizer.special("user_start"), end, 1], [*sums, end, 4]):
        assert not any(tools.forced(tokenizer, reply))
    assert any(tools.forced(tokenizer, [start, start, *sums, end, 1]))


def test_marks_of_calls_are_no_strange_tokens(tokenizer: Tokenizer) -> None:
    reply = worked(tokenizer, "48/2", "24", ".")[:-1]
    assert not any(map(tokenizer.is_special, tools.without_calls(tokenizer, reply)))
    strange = [*reply, tokenizer.special("user_start")]
    assert any(map(tokenizer.is_special, tools.without_calls(tokenizer, strange)))


def test_what_is_said_leaves_calls_and_results_out(tokenizer: Tokenizer) -> None:
    reply = worked(tokenizer, "48/2", "24", " it is.")[:-1]
    spoken = tools.Spoken(tokenizer)
    assert tokenizer.decode([token for token in reply if spoken.is_text(token)]) == "so  it is."


def test_a_chat_uses_the_calculator(
    tokenizer: Tokenizer, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = worked(tokenizer, "48/2", "24", " it is.")
    forced = tools.forced(tokenizer, want)
    Scripted([[5 if out else token for token, out in zip(want, forced, strict=True)]], monkeypatch)
    session = Session(model, tokenizer, Sampling(temperature=0))
    assert "".join(session.ask("?")) == "so  it is." and session.last.ending == "finished"
    assert session.last.num_tokens == len(want)
