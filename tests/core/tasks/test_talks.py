"""Conversations without a right answer, one's own file as a task, and what every task must have."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import pytest

import nanochat_cli.core.tasks as package
from nanochat_cli.core.data import sources
from nanochat_cli.core.errors import ConfigError, DataError, MissingArtifact
from nanochat_cli.core.tasks.base import names, open_for_selection, open_task, task_class
from tests.core.tasks.conftest import Download, smoltalk_row


def test_smoltalk_is_for_training(download: Download) -> None:
    rows = [smoltalk_row(number) for number in range(7)]
    download(
        "smoltalk",
        {
            "data/train-00000-of-00002.parquet": rows[:3],
            "data/train-00001-of-00002.parquet": rows[3:6],
            "data/test-00000-of-00001.parquet": rows[6:],
        },
    )
    task = open_task("smoltalk", split="train")
    assert [task.example(i).messages[-1].text for i in range(len(task))] == [f"Hi {n}!" for n in range(6)]
    assert [m.role for m in task.example(0).messages] == ["system", "user", "assistant"]
    assert open_for_selection("smoltalk").split == "val" and len(open_for_selection("smoltalk")) == 1
    with pytest.raises(ConfigError, match="nothing to measure: smoltalk") as caught:
        open_task("smoltalk")
    assert "gsm8k" in (caught.value.hint or "") and "smoltalk" not in (caught.value.hint or "")


def test_a_conversation_that_does_not_alternate_is_refused(download: Download) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    rows = [{"messages": turns}]
    download("smoltalk", {"data/train-0.parquet": rows, "data/test-0.parquet": rows})
    with pytest.raises(DataError, match="turn 2 must be of the assistant"):
        open_task("smoltalk", split="train").example(0)


def test_identity_keeps_a_few_conversations_aside(download: Download) -> None:
    lines = [
        json.dumps([{"role": "user", "content": f"who? {n}"}, {"role": "assistant", "content": f"me {n}"}])
        for n in range(150)
    ]
    download("identity", {"identity_conversations.jsonl": "\n".join(lines)})
    train, val = open_task("identity", split="train"), open_for_selection("identity")
    assert (len(train), len(val)) == (147, 3)
    assert not {str(train.example(i)) for i in range(147)} & {str(val.example(i)) for i in range(3)}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    items = [{"question": f"What is {n}?", "answer": f"It  is {n}."} for n in range(4)]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_a_file_is_a_task(own: Path) -> None:
    task = open_task(str(own))
    assert (len(task), task.split, task.family(0), task.name) == (4, "test", "mine", str(own))
    assert task.grade(task.example(1), "It is 1.\n") and not task.grade(task.example(1), "It is 2.")
    assert len(open_task(str(own), size=2)) == 2
    own.write_text(json.dumps({"question": "a?", "answer": "#### 1,000"}))
    assert open_task(str(own)).grade(open_task(str(own)).example(0), "so #### 1000.0")


def test_a_file_that_is_not_there_is_an_error_not_an_empty_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown task"):
        open_task(str(tmp_path / "gone.jsonl"))
    with pytest.raises(ConfigError, match="is a file of conversations") as caught:
        open_task("customjson")
    assert "--task FILE.jsonl" in (caught.value.hint or "")


@pytest.mark.parametrize("name", names())
def test_every_task_keeps_the_rules(name: str) -> None:
    cls = task_class(name)
    assert inspect.getdoc(cls) and sys.modules[cls.__module__].__doc__
    assert set(cls.held_out) <= set(cls.splits) and "train" not in cls.held_out
    assert "train" in cls.splits or cls.splits == cls.held_out, "there may be nothing to train on"
    assert cls.selection is None or (cls.selection in cls.splits and cls.selection != "train")
    if cls.selection is not None:
        assert cls.selection not in cls.held_out, "what one chooses by must not be what one reports"
    for needed in cls.needs:
        sources.get(needed)


def test_tasks_fit_a_model_whose_data_is_here(download: Download) -> None:
    generated = {"generator": "tinyworld", "version": "another"}
    assert not [name for name in names() if task_class(name).suits(generated)]
    assert {n for n in names() if task_class(n).suits({})} == {"simplespelling", "spellingbee"}
    row = {"question": "1?", "answer": "#### 1"}
    download("gsm8k", {"main/train-0.parquet": [row], "main/test-0.parquet": [{**row, "question": "2?"}]})
    assert {n for n in names() if task_class(n).suits({})} == {"gsm8k", "simplespelling", "spellingbee"}


NEW = '''"""A task in a file of its own."""

from nanochat_cli.core.tasks.base import Task
from nanochat_cli.core.tokenizer.conversation import Conversation


class Yes(Task):
    """Always yes."""

    def __len__(self):
        return self.size or 50

    def example(self, i):
        return Conversation.turn(user=f"say yes {i}", assistant="yes")

    def grade(self, conversation, reply):
        return reply == "yes"


TASK = Yes
'''


def test_a_new_file_is_a_new_task_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanochat_cli.commands import _options
    from nanochat_cli.core.train import mixture

    (tmp_path / "always_yes.py").write_text(NEW)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "always_yes" in names() and len(open_task("always_yes")) == 50
    assert _options._completed(_options._OPEN_CHOICES["task"], "alw") == ["always_yes"]
    # It names no split to choose by: a part of the questions to train on is kept for that, and none that is reported.
    (part,) = mixture.open_parts((), ["always_yes:2"], seed=0)
    train, val = ({talks[i].messages[0].text for i in range(len(talks))} for talks in (part.train, part.val))
    assert len(part.chosen) == 2 * len(train) and len(train) + len(val) == 50 and not train & val and val
    assert open_for_selection("always_yes").split == "train"
    del sys.modules["nanochat_cli.core.tasks.always_yes"]


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown task: gsmk8") as caught:
        open_task("gsmk8")
    assert "did you mean gsm8k?" in (caught.value.hint or "")
    with pytest.raises(MissingArtifact, match="not downloaded: smoltalk"):
        open_task("smoltalk", split="train")
