"""`nanochat chat`: exit codes, streams, and the loop on the terminal."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_cli import main
from nanochat_cli.commands._chat_loop import Loop
from nanochat_cli.core import checkpoint, runs
from nanochat_cli.core.engine.session import Reply, Sampling, Session
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.build import build
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.output import Output


def test_no_run_to_chat_with(cli: Any) -> None:
    done = cli("chat", "-p", "hello")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: no checkpoint") and "\nhint: " in done.stderr


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("-p", " "), 2),
        (("-i", "pretrain", "-p", "x"), 2),
        (("-t", "-1", "-p", "x"), 2),
        (("-g", "../run", "-p", "x"), 2),
        (("-g", "no/run", "-p", "x"), 3),
    ],
)
def test_bad_usage(cli: Any, argv: tuple[str, ...], code: int) -> None:
    done = cli("chat", *argv)
    assert done.returncode == code and done.stdout == "" and done.stderr.startswith("error: ")


@pytest.fixture
def model(base_dir: Path) -> Path:
    """An untrained model as stages base and sft of run `r`."""
    tokenizer = Tokenizer.train(["hello world, how are you?"] * 3, 270)
    net = shape.from_depth(1, 270, 64, n_embd=32, n_head=2)
    weights = build(net, seed=1, device=torch.device("cpu")).state_dict()
    for stage in ("base", "sft"):
        record = {"model": dataclasses.asdict(net), "tokenizer": {"hash": tokenizer.hash}}
        folder = runs.stage_dir("r", stage)
        checkpoint.save(folder, 7, weights=weights, optim={}, config=record, state={}, tokenizer=tokenizer)
    runs.create("r")
    return base_dir


def test_one_question(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["chat", "-p", "hello", "--max-tokens", "5", "--cpu"]) == 0
    told = capfd.readouterr()
    assert told.out.endswith("\n") and "run r, stage sft, step 7, saved" in told.err and "5 tokens · " in told.err
    assert main.run(["chat", "-p", "hello", "--max-tokens", "5", "--cpu", "-q"]) == 0
    again = capfd.readouterr()
    assert again.out == told.out and again.err == ""  # same seed, same words


def test_json_and_piped_question(
    model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("how are you?\n"))
    assert main.run(["chat", "-i", "base", "-g", "r", "--json", "--max-tokens", "3", "--cpu"]) == 0
    captured = capfd.readouterr()
    told = json.loads(captured.out)
    assert told["prompt"] == "how are you?" and (told["stage"], told["step"], told["tokens"]) == ("base", 7, 3)
    assert told["ending"] == "length" and "a base model continues your text" in captured.err


def test_question_longer_than_the_context(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["chat", "-p", "xyz " * 60, "--cpu"]) == 1
    captured = capfd.readouterr()
    assert captured.out == "" and "error: the message is too long for this model" in captured.err


def test_missing_step_lists_the_saved_ones(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["chat", "-s", "8", "-p", "x", "--cpu"]) == 3
    assert "hint: saved steps: 7" in capfd.readouterr().err


class Parrot(Session):
    """Says what it is told, word by word; may be interrupted in the middle."""

    def __init__(self) -> None:
        self.sampling, self.turns, self.last, self.raw = Sampling(), [], Reply(), False
        self.interrupt_after: int | None = None

    def ask(self, text: str) -> Iterator[str]:
        self.last = Reply(dropped=1 if "drop" in text else 0)
        try:
            for number, word in enumerate(text.split(" ")):
                if number == self.interrupt_after:
                    raise KeyboardInterrupt
                self.last.num_tokens += 1
                yield word.upper() + " "
            self.last.ending = "finished"
        finally:
            self.last.seconds = 0.5
            self.turns.append((text, "…"))


Converse = Callable[..., tuple[str, str]]


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture
def converse(parrot: Parrot) -> Converse:
    """Type some lines (exceptions are raised at the prompt) and return what was written to stdout and stderr."""

    def run(*lines: str | type[BaseException]) -> tuple[str, str]:
        typed = iter((*lines, EOFError))

        def read(_: str) -> str:
            line = next(typed)
            if not isinstance(line, str):
                raise line
            return line

        out = Output(out=io.StringIO(), err=io.StringIO())
        Loop(parrot, out, read).run()
        return out.out.getvalue(), out.err.getvalue()  # type: ignore[attr-defined]

    return run


def test_questions_and_footer(converse: Converse, parrot: Parrot) -> None:
    said, told = converse("hello there", "", "//etc is a folder")
    assert "HELLO THERE" in said and "/ETC IS A FOLDER" in said and len(parrot.turns) == 2
    assert "2 tokens · 4 tok/s" in told and "tok/s" not in said


def test_lines_can_go_on(converse: Converse, parrot: Parrot) -> None:
    converse("one\\", "two\\", "three")
    assert parrot.turns == [("one\ntwo\nthree", "…")]


def test_interrupted_answer_keeps_the_conversation(converse: Converse, parrot: Parrot) -> None:
    parrot.interrupt_after = 2
    said, told = converse("a b c d", "e")
    assert "A B \n" in said and "C" not in said and "E" in said
    assert "interrupted" in told and len(parrot.turns) == 2


def test_ctrl_c_at_the_prompt(converse: Converse) -> None:
    said, told = converse(KeyboardInterrupt, "hello", KeyboardInterrupt)
    assert "HELLO" in said and told.count("press Ctrl-C again") == 2
    with pytest.raises(KeyboardInterrupt):
        converse(KeyboardInterrupt, KeyboardInterrupt)


def test_slash_commands(converse: Converse, parrot: Parrot) -> None:
    said, told = converse(
        "hi", "/regen", "/set temperature 0", "/set max_tokens x", "/dance", "/help", "/clear", "/quit", "no"
    )
    assert said.count("HI") == 2 and "temperature 0 " in said and "/regen" in said and "NO" not in said
    assert "error: max_tokens must be a number" in told and "no such command: /dance" in told
    assert parrot.turns == []


def test_regen_without_a_question_is_told(converse: Converse) -> None:
    assert "error: nothing has been asked yet" in converse("/regen")[1]


def test_dropped_turns_are_told_once(converse: Converse) -> None:
    _, told = converse("please drop", "hello")
    assert told.count("the oldest turn was forgotten") == 1


def test_control_characters_do_not_reach_the_terminal(converse: Converse) -> None:
    said, _ = converse("\x1b[2Jhi \x07there 👩‍👩‍👧")
    assert "\x1b" not in said and "\x07" not in said and "👩‍👩‍👧" in said
