"""Multiple choice by the likeliest letter: read at the right place, batched or not, and never asked cut short."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.eval import chat, letters
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.tasks._choices import ask
from nanochat_cli.core.tasks.base import open_task
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from tests.core.tasks.conftest import arc_files, arc_row, put

CONTEXT = 48


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["portable", "nanochat"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    made = build(from_depth(2, 300, CONTEXT, n_embd=32, n_head=2, arch=request.param), seed=3)
    with torch.no_grad():
        for parameter in made.parameters():  # fresh heads and output matrices are zeros: every answer would be equal
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    return made.eval()


def prompts_of(num: int) -> tuple[list[list[int]], list[list[int]]]:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, CONTEXT, (num,), generator=draw).tolist()
    prompts = [torch.randint(0, 300, (length,), generator=draw).tolist() for length in lengths]
    return prompts, [[5, 6, 7, 8][: 3 + i % 2] for i in range(num)]


def test_batched_scores_are_those_of_one_at_a_time(model: LanguageModel) -> None:
    prompts, allowed = prompts_of(11)
    alone = []
    for prompt, ids in zip(prompts, allowed, strict=True):
        logits_1TV = model(torch.tensor([prompt]))
        alone.append(logits_1TV[0, -1, ids].tolist())
    for batch_size in (4, 11):
        found = letters.next_scores(model, prompts, allowed, batch_size=batch_size)
        for mine, want in zip(found, alone, strict=True):
            assert mine == pytest.approx(want, abs=1e-5)
        picks = letters.likeliest(model, prompts, allowed, batch_size=batch_size)
        assert picks == [max(range(len(row)), key=row.__getitem__) for row in alone]
    assert len(set(picks)) > 1


def test_a_batch_is_bounded_by_its_tokens(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, allowed = prompts_of(9)
    want = letters.likeliest(model, prompts, allowed)
    sizes: list[int] = []
    read = model.hidden

    def hidden(idx_BT: torch.Tensor) -> torch.Tensor:
        sizes.append(idx_BT.numel())
        return read(idx_BT)

    monkeypatch.setattr(model, "hidden", hidden)
    monkeypatch.setattr(letters, "TOKENS_AT_A_TIME", 2 * CONTEXT)
    assert letters.likeliest(model, prompts, allowed) == want
    assert max(sizes) <= 2 * CONTEXT and len(sizes) > 3


def test_a_prompt_longer_than_the_context_is_not_cut(model: LanguageModel) -> None:
    picks = letters.likeliest(model, [[1] * CONTEXT, [1] * (CONTEXT + 1)], [[5, 6], [5, 6]])
    assert picks[0] is not None and picks[1] is None
    assert letters.likeliest(model, [], []) == []


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["Which is thing 3? - option A=A B=B C=C letter of that option"] * 3, 280)


def test_choices_are_answered_by_letter_and_the_rest_in_words(tokenizer: Tokenizer, base_dir: object) -> None:
    put("arc", arc_files("ARC-Easy", [arc_row(1)], [arc_row(2)], [arc_row(n, answer="ABCD"[n % 4]) for n in range(8)]))
    task = open_task("arc_easy")

    def write(prompts: list[list[int]], longest: int) -> list[list[int]]:
        raise AssertionError("a choice needs nothing written")

    def choose(prompts: list[list[int]], allowed: list[list[int]]) -> list[int | None]:
        assert [tokenizer.decode(ids) for ids in allowed] == ["ABCD"] * len(prompts)
        return [*([2] * (len(prompts) - 1)), None]

    found = chat.predict(task, range(8), tokenizer, write, choose=choose)
    assert [p.reply for p in found] == ["C"] * 7 + [""]
    assert [p.correct for p in found] == [n % 4 == 2 for n in range(7)] + [False]
    assert found[0].well_formed and not found[7].well_formed
    summary = chat.summarise(task, found, by_letters=True)
    assert summary["graded_by"] == "letters" and summary["all"]["majority"] == 2
    assert chat.summarise(task, found)["graded_by"] == "replies"


def test_the_letter_in_the_prompt_is_the_token_of_the_answer() -> None:
    """With a vocabulary of ordinary text, for which every letter that follows a space is another token."""
    text = ["A boy and a girl. Be good! Can you see? Do it. A cat, a dog; C is a note and B another."] * 9
    ordinary = Tokenizer.train(text, 300)
    for letter in "ABCD1234":
        prompt = ask("Which?", [letter], ["a note"])
        assert chat.letter_token(ordinary, letter) in ordinary.encode(prompt[prompt.index("- ") :])
    assert chat.letter_token(ordinary, "A") not in ordinary.encode("- A note")


def test_a_letter_of_several_tokens_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="not one token cannot be compared with others: 甲"):
        chat.letter_token(tokenizer, "甲")


def test_a_score_of_nothing_divides_by_nothing() -> None:
    counts: Sequence[chat.Prediction] = []
    assert chat.score(counts).to_json()["total"] == 0
