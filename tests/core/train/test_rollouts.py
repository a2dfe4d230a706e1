from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from nanochat_cli.core import checkpoint, events, files, optim, stepdirs
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.data.packing import PackedRows, pack_conversations
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.engine.generate import generate
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.settings import RlOptimSection
from nanochat_cli.core.tasks.base import Task
from nanochat_cli.core.tokenizer.conversation import Conversation, render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import gradient, loop, rollouts, schedule
from nanochat_cli.core.train.rollouts import Plan, Questions, Rollout, Rollouts
from tests.core.train.conftest import MakeJob, tiny_job

HERE = Dist()
ANSWERS = ("a", "b", "c")


class Letters(Task):
    """Any question of the first family deserves a `b`; the other family's questions are never right."""

    def __len__(self) -> int:
        return 12

    def family(self, i: int) -> str:
        return ("good/even", "bad")[i % 2]

    def example(self, i: int) -> Conversation:
        return Conversation.turn(user=f"{self.seed} {i}", assistant="b" if i % 2 == 0 else "?")

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return reply == conversation.messages[-1].text


def open_letters(turn: int) -> Task:
    return Letters(seed=turn)


def chat_rows(tokenizer: Tokenizer) -> PackedRows:
    """Conversations in which each answer is equally likely."""
    talks = [Conversation.turn(user=f"{i % 4} {i % 12}", assistant=ANSWERS[i // 12 % 3]) for i in range(96)]
    return pack_conversations([render(tokenizer, talk) for talk in talks], 17)


def sampler(model: LanguageModel, tokenizer: Tokenizer) -> rollouts.Sampler:
    """At most two tokens for each prompt."""
    stop_ids = {tokenizer.special("assistant_end")}
    return lambda prompts, seeds: generate(
        model, prompts, max_new_tokens=2, stop_ids=stop_ids, temperature=1.0, seeds=seeds
    )


@pytest.fixture(scope="module")
def taught(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights of a model that answers `a`, `b` or `c` and stops."""
    rows = chat_rows(tokenizer)
    folder = tmp_path_factory.mktemp("taught")
    job = tiny_job(folder, tokenizer, rows, num_steps=60, batches=Batches(rows, rows_per_step=8, seed=0))
    loop.train(job, HERE, events.NULL)
    return {name: value.clone() for name, value in job.model.state_dict().items()}


def practice(
    make_job: MakeJob, tokenizer: Tokenizer, taught: dict[str, Tensor], folder: str, steps: int = 16
) -> loop.Job:
    job = make_job(folder, num_steps=steps)
    job.model.load_state_dict(taught)
    section = RlOptimSection(init_lr_frac=0.5, matrix_lr=0.02, embedding_lr=0.2, unembedding_lr=0.004)
    questions = Questions(open_letters, ("good",))
    replay = Batches(chat_rows(tokenizer), rows_per_step=2, seed=1)
    plan = Plan(prompts_per_step=4, num_samples=6, seed=11, replay=0.1)
    source = Rollouts(plan, questions, sampler(job.model, tokenizer), tokenizer, HERE, replay)
    optimizer = optim.build(job.model.param_groups(), section, precision="fp32")
    return dataclasses.replace(job, batches=source, optimizer=optimizer, schedule=schedule.plan(steps, section))


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_the_reward_rises(make_job: MakeJob, tokenizer: Tokenizer, taught: dict[str, Tensor]) -> None:
    heard: list[events.Event] = []
    loop.train(practice(make_job, tokenizer, taught, "rl"), HERE, events.Listener(heard.append))
    told = [event for event in heard if event["kind"] == "step"]
    assert told[0]["reward"] < 0.65
    assert sum(e["reward"] for e in told[-4:]) / 4 > 0.85
    assert all(e["rollouts"] == 24 and e["groups"] == 4 and 1 <= e["reply_tokens"] <= 2 for e in told)
    assert told[-1]["groups_without_contrast"] > told[0]["groups_without_contrast"]


def test_practice_resumes_with_the_same_bits(
    make_job: MakeJob, tokenizer: Tokenizer, taught: dict[str, Tensor]
) -> None:
    straight = practice(make_job, tokenizer, taught, "straight", steps=4)
    loop.train(straight, HERE, events.NULL)
    first = practice(make_job, tokenizer, taught, "resumed", steps=4)
    (first.stage_dir / "stop").touch()
    assert loop.train(first, HERE, events.NULL) == {"stopped": 1}
    (first.stage_dir / "stop").unlink()
    again = practice(make_job, tokenizer, taught, "resumed", steps=4)
    loop.train(again, HERE, events.NULL, checkpoint.load(again.stage_dir))
    ends = [files.sha256_file(stepdirs.step_dir(j.stage_dir, 4) / "model.safetensors") for j in (straight, again)]
    assert ends[0] == ends[1]


# ---- the parts ------------------------------------------------------------------------------------------------------


def scripted(
    tokenizer: Tokenizer, replies: list[list[int]], replay: Batches | None = None, weight: float = 0.0
) -> Rollouts:
    """Rollouts of two questions whose sampled answers are given."""
    plan = Plan(prompts_per_step=2, num_samples=len(replies) // 2, seed=0, replay=weight)
    questions = Questions(open_letters, ("good",))
    return Rollouts(plan, questions, lambda prompts, seeds: replies, tokenizer, HERE, replay)


def replies_of(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    """Tokens of replies; a final `.` stands for the end of the turn."""
    end = tokenizer.special("assistant_end")
    return [[*tokenizer.encode(t.removesuffix(".")), *([end] if t.endswith(".") else [])] for t in texts]


def test_the_gradient_is_that_of_the_definition(
    make_job: MakeJob, tokenizer: Tokenizer, taught: dict[str, Tensor]
) -> None:
    job = make_job()
    job.model.load_state_dict(taught)
    replies = replies_of(tokenizer, "b.", "a.", "b.", "ab", "c.", "c.", "c.", "c.")
    replay = Batches(chat_rows(tokenizer), rows_per_step=4, seed=1)
    source = scripted(tokenizer, replies, replay, weight=0.25)
    micros = source.step(0, device_batch_size=3)
    rewards = [1, 0, 1, 0]

    prompt = source.latest[0].prompt
    objective = torch.zeros(())
    for reply, reward in zip(replies[:4], rewards, strict=True):
        logp = job.model(torch.tensor([prompt + reply])).log_softmax(-1)[0]
        chosen = sum(logp[len(prompt) - 1 + i, token] for i, token in enumerate(reply))
        objective = objective + (reward - 0.5) * chosen
    x, y = replay.step(0)[0]
    supervised = torch.nn.functional.cross_entropy(job.model(x).flatten(0, 1), y.flatten(), ignore_index=-1)
    loss = 0.25 * supervised - objective / sum(map(len, replies))
    expected = torch.autograd.grad(loss, list(job.model.parameters()))

    found = gradient.accumulate(job.model.losses, list(job.model.parameters()), micros, HERE)
    assert found.loss == pytest.approx(loss.item(), rel=1e-4)
    for param, want in zip(job.model.parameters(), expected, strict=True):
        assert param.grad is not None
        torch.testing.assert_close(param.grad, want, rtol=1e-3, atol=1e-6)


def test_every_sampled_token_is_trained_the_end_included(tokenizer: Tokenizer) -> None:
    end = tokenizer.special("assistant_end")
    x, y, w = rollouts.pad(
        [
            (Rollout(prompt=[1, 2, 3], reply=[7, 8, end], question="", text="", reward=1), 0.5),
            (Rollout(prompt=[1], reply=[9, end], question="", text="", reward=0), -0.5),
        ],
        pad_id=0,
    )
    assert x.tolist() == [[1, 2, 3, 7, 8], [1, 9, 0, 0, 0]]
    assert y.tolist() == [[-1, -1, 7, 8, end], [9, end, -1, -1, -1]]
    assert w.tolist() == [[0, 0, 0.5, 0.5, 0.5], [-0.5, -0.5, 0, 0, 0]]


def test_groups_paid_alike_are_left_out_but_counted(tokenizer: Tokenizer) -> None:
    source = scripted(tokenizer, replies_of(tokenizer, "b.", "b.", "a.", "b."))
    micros = source.step(0)
    assert [len(x) for x, _, _ in micros] == [2]
    told = source.extras()
    assert (told["groups"], told["groups_without_contrast"], told["reward"]) == (2, 1, 0.75)
    nothing = scripted(tokenizer, replies_of(tokenizer, "a.", "a.", "b.", "b."))
    assert nothing.step(0) == [] and nothing.extras()["groups_without_contrast"] == 2


def test_only_a_reply_that_ends_well_is_paid(tokenizer: Tokenizer) -> None:
    odd = [*tokenizer.encode("b"), tokenizer.special("user_start"), tokenizer.special("assistant_end")]
    source = scripted(tokenizer, [*replies_of(tokenizer, "b", "b."), odd, [tokenizer.bos_id]])
    source.step(0)
    assert [r.reward for r in source.latest] == [0.0, 1.0, 0.0, 0.0]


def test_two_processes_sample_what_one_does(tokenizer: Tokenizer) -> None:
    asked: list[tuple[list[int], int]] = []

    def remember(prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        asked.extend(zip(prompts, seeds, strict=True))
        return [[tokenizer.bos_id]] * len(prompts)

    plan = Plan(prompts_per_step=4, num_samples=2, seed=3)
    source = Rollouts(plan, Questions(open_letters, ("good",)), remember, tokenizer, HERE, None)
    source.step(5)
    alone, asked = list(asked), []
    source.sampler = lambda prompts, seeds: (asked.extend(zip(prompts, seeds, strict=True)), [[0]] * len(prompts))[1]  # type: ignore[func-returns-value]
    source.step(5, 0, 2)
    source.step(5, 1, 2)
    assert sorted(asked) == sorted(alone) and len({seed for _, seed in alone}) == 8


def test_each_pass_brings_new_questions_of_the_wanted_families_only() -> None:
    questions = Questions(open_letters, ("good",))
    asked = [questions[n][1].messages[0].text for n in (0, 5, 6, 13, 2)]
    assert asked == ["0 0", "0 10", "1 0", "2 2", "0 4"]
    with pytest.raises(ConfigError, match="no such family: ugly") as caught:
        Questions(open_letters, ("ugly",))[0]
    assert "good/even, bad" in (caught.value.hint or "")


def test_seeds_are_a_function_of_their_counters() -> None:
    seeds = {rollouts.counter_seed(0, step, prompt, k) for step in range(9) for prompt in range(9) for k in range(9)}
    assert len(seeds) == 729 and all(0 <= seed < 2**63 for seed in seeds)
    assert rollouts.counter_seed(0, 1, 2, 3) == rollouts.counter_seed(0, 1, 2, 3)
