"""Rewards of one's own, looked at before they are trained on; what is held out; what is logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_cli.core import events, planning, runs
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import ConfigError, MissingArtifact
from nanochat_cli.core.settings import RlConfig
from nanochat_cli.core.tasks import _user as user
from nanochat_cli.core.tasks.base import Task, is_set_apart, names, open_for_selection
from nanochat_cli.core.tokenizer.conversation import Conversation, Message
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import data, gradient, mixture, practice, rewards, rl, rollouts, selection
from nanochat_cli.core.train.exam import Exam
from nanochat_cli.core.train.rollout_log import FILE, OLDER, RolloutLog
from nanochat_cli.core.train.rollouts import Plan, Questions, Rollout, Rollouts
from tests.core.train.conftest import MakeJob
from tests.core.train.test_rollouts import replies_of, sampler
from tests.core.train.test_stages import COMMON, STAGES, corpus, hear, told, train, weights  # noqa: F401

HERE = Dist()


class Paid(Task):
    """Item i is question i; the reward is a function of the reply."""

    def __init__(self, pays: Any, size: int = 40, **options: Any) -> None:
        super().__init__(split="train", **options)
        self.pays, self.num = pays, size

    def __len__(self) -> int:
        return self.num

    def example(self, i: int) -> Conversation:
        return Conversation.turn(user=f"question {i}", assistant="b")

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return reply == "b"

    def reward(self, conversation: Conversation, reply: str) -> float:
        return self.pays(reply)


def look(pays: Any, *replies: str) -> list[str]:
    """The warnings of a check."""
    heard, log = hear()
    task = Paid(pays)
    rewards.check(task, [(task.example(i), replies) for i in range(2)], log)
    return [event["text"] for event in told(heard, "warning")]


# ---- the check -------------------------------------------------------------------------------------------------------


def test_a_reward_that_tells_answers_apart_passes() -> None:
    assert look(lambda reply: float(reply == "b"), "a", "b") == []
    assert look(lambda reply: reply == "b", "a", "b") == []
    assert look(lambda reply: torch.rand(()).item(), "a", "b") == []


@pytest.mark.parametrize("value", [1.0, 0.0, -0.5, True])
def test_a_reward_that_is_always_the_same_is_an_error(value: float) -> None:
    with pytest.raises(ConfigError, match="same for every answer, nonsense included"):
        look(lambda reply: value, "a", "b")


def test_answers_that_are_all_paid_alike_so_far_are_a_warning() -> None:
    (warning,) = look(lambda reply: float(reply == "b"), "a", "c")
    assert "4 answers sampled" in warning and "nothing is learned" in warning


@pytest.mark.parametrize(
    ("pays", "message"),
    [
        (lambda reply: reply / 2, "failed: TypeError"),
        (lambda reply: None, "is not a number: None"),
        (lambda reply: "1.0", "is not a number: '1.0'"),
        (lambda reply: float("nan"), "is not a number: nan"),
        (lambda reply: 10.0, "not between -1 and 1: 10"),
        (lambda reply: float("-inf"), "not between -1 and 1: -inf"),
    ],
)
def test_what_is_no_reward_is_named(pays: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        look(pays, "a")


def test_a_reply_that_does_not_end_earns_nothing_and_keeps_its_penalty(tokenizer: Tokenizer) -> None:
    def paid(value: float) -> list[float]:
        task = Paid(lambda reply: value)
        plan = Plan(prompts_per_step=1, num_samples=2, seed=0)
        replies = replies_of(tokenizer, "b.", "b")
        source = Rollouts(plan, Questions(lambda turn: task, ()), lambda p, s: replies, tokenizer, HERE, None)
        source.step(0)
        return [rollout.reward for rollout in source.latest]

    assert paid(0.5) == [0.5, 0.0] and paid(-0.5) == [-0.5, -0.5]


# ---- one's own file --------------------------------------------------------------------------------------------------


def test_rewards_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from nanochat_cli.core.tasks.base import Task\n"
        "def short(question, reply):\n    return 1.0 if len(reply) < 3 else 0.0\n"
        "def same(question, reply, reference=None):\n    return float(reply == reference)\n"
        "def odd(reply):\n    return 1.0\n"
        "class Mine(Task):\n"
        "    def __len__(self): return 1\n"
        "    def example(self, i): return None\n"
        "    def grade(self, conversation, reply): return True\n"
        "number = 3\n"
    )
    talks = [Conversation.turn(user="q", assistant="b")]
    short = user.FunctionTask("short", user.load(f"{path}:short"), talks)
    assert short.reward(talks[0], "ab") == 1.0 and not short.grade(talks[0], "abcdef")
    same = user.FunctionTask("same", user.load(f"{path}:same"), talks)
    assert same.reward(talks[0], "b") == 1.0 and same.reward(talks[0].without_reply(), "b") == 0.0
    assert issubclass(user.load(f"{path}:Mine"), Task)
    with pytest.raises(ConfigError, match="cannot be called as reward"):
        user.FunctionTask("odd", user.load(f"{path}:odd"), talks)
    with pytest.raises(ConfigError, match="no questions"):
        user.FunctionTask("short", user.load(f"{path}:short"), [])
    for name, error in ((f"{path}:number", ConfigError), (f"{path}:nope", ConfigError), ("no.such:f", MissingArtifact)):
        with pytest.raises(error):
            user.load(name)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        user.load(f"{tmp_path / 'broken.py'}:f")
    assert not [name for name in names() if "user" in name]


# ---- what is held out ------------------------------------------------------------------------------------------------


def test_held_out_questions_are_never_practised_whoever_draws_them() -> None:
    task = Paid(lambda reply: 0.0, size=300)
    out = selection.hold_out(lambda turn: task, None, lambda task: list(range(len(task))), 1000)
    held = out.questions
    questions = Questions(lambda turn: task, (), out.is_out)
    practised = {questions[n][1].messages[0].text for n in range(600)}
    texts = {h.conversation.messages[0].text for h in held}
    assert 10 <= len(texts) <= 60 and not texts & practised and len(texts) + len(practised) == 300
    other = Conversation.turn(user=held[0].conversation.messages[0].text, assistant="another answer")
    assert out.is_out(other)
    with pytest.raises(ConfigError, match="no question to practise on"):
        Questions(lambda turn: task, (), lambda conversation: True)


def test_the_exam_is_right_whoever_grades_and_unbiased(tokenizer: Tokenizer) -> None:
    task = Paid(lambda reply: -1.0 if reply == "c" else float(reply == "b"), size=12)
    held = [selection.Held(task, i, task.example(i)) for i in range(4)]
    end = tokenizer.special("assistant_end")

    class Scripted:
        """Question i is answered rightly i times in 4."""

        def __init__(self) -> None:
            self.tokenizer = tokenizer

        def answer(self, prompts: list[list[int]], longest: int) -> list[list[int]]:
            return [[*tokenizer.encode("b"), end] for _ in prompts]

        def sample(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
            assert len(set(seeds)) == len(seeds)
            texts = ["b" if k % 4 < k // 4 else "c" for k in range(len(prompts))]
            return [[*tokenizer.encode(text), end] for text in texts]

    heard, log = hear()
    found = Exam(Scripted(), held, HERE, every=1, num_samples=4).run(3, log)
    assert found["accuracy_after"] == 1.0 and found["questions"] == 4
    assert found["pass@1_after"] == pytest.approx((0 + 0.25 + 0.5 + 0.75) / 4)
    assert found["pass@2_after"] == pytest.approx((0 + 0.5 + 5 / 6 + 1) / 4)
    assert found["pass@4_after"] == pytest.approx(0.75)
    assert found["held_out_reward"] == pytest.approx((6 - 10) / 16)
    assert {event["split"] for event in told(heard, "eval")} == {"train, held out"}


class Own(Paid):
    """Has a split to choose by, with other questions than the one to train on."""

    splits = ("train", "val", "test")
    selection = "val"

    def __init__(self, split: str = "test", seed: int = 0) -> None:
        super().__init__(lambda reply: 0.0, seed=seed)
        self.split = split

    def example(self, i: int) -> Conversation:
        return Conversation.turn(user=f"{self.split} {i}", assistant="b")


def test_a_split_to_choose_by_is_asked_and_all_of_train_practised() -> None:
    out = selection.hold_out(lambda turn: Own("train"), lambda turn: Own("val"), lambda t: list(range(len(t))), 9)
    assert [h.conversation.messages[0].text for h in out.questions] == [f"val {i}" for i in range(9)]
    questions = Questions(lambda turn: Own("train"), (), out.is_out)
    assert len({questions[n][1].messages[0].text for n in range(40)}) == 40


@pytest.mark.parametrize("task", ["spellingbee", "tinyworld"])
def test_tasks_are_judged_by_their_split_to_choose_by(task: str, base_dir: Path) -> None:
    cfg = planning.with_values(RlConfig(), "rl", task=task)
    train, val = practice.openers(cfg)
    assert val is not None and (train(0).split, val(0).split) == ("train", "val")
    assert val(0).example(3) == open_for_selection(task).example(3)


def test_what_a_run_is_judged_by_is_not_replayed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    talks = [Conversation.turn(user=f"question {i}", assistant="b") for i in range(60)]
    longer = Conversation((*talks[7].messages, Message("user", "and?"), Message("assistant", "b")))
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(talk.to_json()) + "\n" for talk in [*talks, longer]))
    held = frozenset(mixture.asked(talk) for talk in talks[:20])
    rows = data.chat_rows([str(path)], tokenizer, 64, events.NULL, tasks=[f"{path}=400"], without=held)
    assert rows.facts["sources"][0]["per_epoch"] == 40
    part = mixture.without(mixture.open_parts([], [f"{path}=400"], 0)[0], held)
    said = {part.train[int(n)].messages[0].text for n in part.chosen}
    assert said == {f"question {i}" for i in range(20, 60)} and 200 < len(part.chosen) < 400


def test_the_longest_answer_is_the_tasks_own(tmp_path: Path) -> None:
    class Long(Paid):
        max_reply_tokens = 256

    assert practice.longest_reply(None, Long(None), 2048) == 256 and practice.longest_reply(None, Long(None), 100) == 99
    assert practice.longest_reply(64, Long(None), 2048) == 64
    own = user.FunctionTask("f", lambda question, reply: 0.0, [Conversation.turn(user="q", assistant="b")])
    assert practice.longest_reply(None, own, 2048) == practice.OF_A_FUNCTION
    assert RlConfig().rl.max_new_tokens is None


def test_the_check_pays_as_practice_does_and_tells_what_was_cut(tokenizer: Tokenizer) -> None:
    """Every sampled answer is right, and none ends: they all earn nothing, which would look like a fine reward."""

    class Endless:
        longest, stop_ids = 2, frozenset({tokenizer.special("assistant_end")})

        def __init__(self) -> None:
            self.tokenizer = tokenizer

        def sample(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
            return [tokenizer.encode("b" if k % 2 else "c") for k in range(len(prompts))]

    heard, log = hear()
    task = Paid(lambda reply: float(reply == "b"))
    rl._check_reward(Questions(lambda turn: task, ()), Endless(), 4, log)  # type: ignore[arg-type]
    cut, alike = [event["text"] for event in told(heard, "warning")]
    assert "16 of 16" in cut and "--max-new-tokens is 2" in cut and "earn 0" in alike


# ---- sampling --------------------------------------------------------------------------------------------------------


def test_the_samples_of_one_question_begin_independently(make_job: MakeJob, tokenizer: Tokenizer) -> None:
    job = make_job()
    plan = Plan(prompts_per_step=1, num_samples=16, seed=5)
    questions = Questions(lambda turn: Paid(lambda reply: 0.0), ())
    source = Rollouts(plan, questions, sampler(job.model, tokenizer), tokenizer, HERE, None)
    (group,) = source.sample(0, range(1))
    assert len({rollout.reply[0] for rollout in group}) > 8


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_the_gradient_does_not_depend_on_how_samples_are_cut(
    make_job: MakeJob, tokenizer: Tokenizer, size: int
) -> None:
    job = make_job()
    params = list(job.model.parameters())

    def grads(size: int) -> list[torch.Tensor]:
        plan = Plan(prompts_per_step=1, num_samples=5, seed=0)
        task = Paid(lambda reply: 1.0 if reply == "b" else -0.25 if reply == "c" else 0.0)
        replies = replies_of(tokenizer, "b.", "a.", "c.", "ab", "b.")
        source = Rollouts(plan, Questions(lambda turn: task, ()), lambda p, s: replies, tokenizer, HERE, None)
        job.model.zero_grad()
        gradient.accumulate(job.model.losses, params, source.step(0, device_batch_size=size), HERE)
        return [param.grad.clone() for param in params if param.grad is not None]

    for a, b in zip(grads(size), grads(4), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


# ---- the log ---------------------------------------------------------------------------------------------------------


def group_of(*paid: float) -> list[Rollout]:
    return [Rollout(prompt=[1], reply=[2, 3], question="q", text=f"täxt {r}", reward=r) for r in paid]


def lines(folder: Path, name: str = FILE) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_the_best_and_worst_of_each_group_are_logged_first(tmp_path: Path) -> None:
    RolloutLog(tmp_path, 5, events.NULL).add(1, [group_of(0.1, 0.9, 0.5), group_of(0.0, 0.2), group_of(0.3)])
    assert [(e["group"], e["reward"]) for e in lines(tmp_path)] == [(0, 0.9), (1, 0.2), (2, 0.3), (0, 0.1), (1, 0.0)]
    assert lines(tmp_path)[0] == {
        "step": 1, "group": 0, "reward": 0.9, "tokens": 2, "question": "q", "text": "täxt 0.9",
    }  # fmt: skip


def test_the_log_is_bounded_and_a_resume_forgets_what_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = RolloutLog(tmp_path, 4, events.NULL)
    for step in range(1, 6):
        written.add(step, [group_of(0.5)])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 5, "torn')
    RolloutLog(tmp_path, 4, events.NULL, resumed_at=3).add(4, [group_of(0.25)])
    assert [(e["step"], e["reward"]) for e in lines(tmp_path)] == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25)]
    monkeypatch.setattr("nanochat_cli.core.train.rollout_log.MAX_BYTES", 300)
    for step in range(5, 60):
        written.add(step, [group_of(0.5)])
    assert all((tmp_path / name).stat().st_size <= 300 for name in (FILE, OLDER))
    assert lines(tmp_path)[-1]["step"] == 59
    RolloutLog(tmp_path, 4, events.NULL)
    assert not (tmp_path / FILE).exists() and not (tmp_path / OLDER).exists()


# ---- the stage -------------------------------------------------------------------------------------------------------


def test_practice_with_a_function_of_ones_own(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "mine.py").write_text("def even(question, reply):\n    return len(reply) % 2 / 1.0\n")
    asked = [Conversation((Message("user", f"say {i}"),)) for i in range(60)]
    asked.sort(key=lambda c: not is_set_apart(c))  # those held out would come first
    assert is_set_apart(asked[0])
    (tmp_path / "asked.txt").write_text("".join(f"{c.messages[0].text}\n" for c in asked))
    train("base")
    options = {**STAGES["rl"][2]["rl"], "task": f"{tmp_path / 'mine.py'}:even", "families": ()}
    options["questions"] = str(tmp_path / "asked.txt")
    heard, log = hear()
    outcome = train("rl", rl=options, log=log, save={"keep_best": True}, eval={"eval_every": 1})
    assert outcome["step"] == 3 and "held_out_reward" in outcome
    logged = lines(runs.stage_dir("r", "rl"))
    assert {e["step"] for e in logged} == {1, 2, 3} and all(e["question"].startswith("say ") for e in logged)
    practised = [Conversation((Message("user", e["question"]),)) for e in logged]
    assert practised and not any(map(is_set_apart, practised))
    rewarded = {e["step"]: e["value"] for e in told(heard, "eval") if e["metric"] == "held_out_reward"}
    assert set(rewarded) == {0, 1, 2, 3} and outcome["max_held_out_reward"] == max(rewarded.values())
    assert all(e["rollout_tokens_per_s"] > 0 for e in told(heard, "step"))


def test_a_constant_reward_does_not_even_start(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "mine.py").write_text("def one(question, reply):\n    return 1.0\n")
    train("base")
    with pytest.raises(ConfigError, match="same for every answer"):
        train("rl", rl={**STAGES["rl"][2]["rl"], "task": f"{tmp_path / 'mine.py'}:one", "families": ()})


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_a_stage_with_adapters_ends_with_the_same_bits_after_a_stop(corpus: Path, stage: str) -> None:  # noqa: F811
    tune = {"tune": {"lora": 2, "freeze_layers": 0}}
    train("base")
    train(stage, **tune)
    straight = weights(stage)
    folder = runs.stage_dir("r", stage)
    for path in sorted(folder.glob("step-*")):
        path.rename(folder.parent / f"old-{path.name}")
    (folder / "stop").touch()
    assert train(stage, **tune) == {"stopped": 1}
    (folder / "stop").unlink()
    train(stage, resume=True, **tune)
    assert weights(stage) == straight and straight != weights("base")


def test_the_path_of_ones_own_file_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("")
    for given in ("mine.py:f", "mine:f"):
        assert planning._own_file(given) == f"{tmp_path / 'mine.py'}:f"
    assert planning._own_file("json:loads") == "json:loads" and planning._own_file("gsm8k") == "gsm8k"
    with pytest.raises(MissingArtifact, match="no such file"):
        planning._own_file("absent.py:f")


def test_families_are_those_of_the_task_unless_asked_for() -> None:
    class Two(Paid):
        practice = ("odd",)

        def family(self, i: int) -> str:
            return ("even", "odd")[i % 2]

    task = Two(None, size=6)
    assert rollouts.of_families(task, ()) == [1, 3, 5]
    assert rollouts.of_families(task, ("all",)) == list(range(6)) and rollouts.of_families(task, ("even",)) == [0, 2, 4]


def test_subjects_that_only_one_split_has_do_not_end_a_run() -> None:
    class Subjects(Paid):
        def family(self, i: int) -> str:
            return "astronomy"

    assert practice.items(Subjects(None, size=3), ("auxiliary",)) == [0, 1, 2]
