"""One's own conversations as a task: `--task FILE.jsonl` asks each, and grades the reply by the one in the file."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.data.holdout import hold_out
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.tasks import _numbers
from nanochat_cli.core.tasks.base import Task
from nanochat_cli.core.tokenizer.conversation import Conversation


class CustomJson(Task):
    """A file in any shape of conversation. `test` is all of it, `train` and `val` are its two parts for training.

    A reply is right if it says the same as the last message of the file's conversation, spaces aside; or, where that
    states a number behind `####`, if it states an equal one.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    held_out: ClassVar[tuple[str, ...]] = ("val", "test")
    trained_on: bool = False
    """Whether the model that is asked was trained on the file, which leaves only `val` to measure it by."""
    max_reply_tokens: ClassVar[int] = 512

    def __init__(self, *, split: str = "test", size: int | None = None, seed: int = 0, path: Path | None = None):
        """Open a file. Raises ConfigError without one, MissingArtifact or DataError for one that cannot be used."""
        super().__init__(split=split, size=size, seed=seed)
        if path is None:
            raise ConfigError("the task customjson is a file of conversations", hint="name it: --task FILE.jsonl")
        self.path = path
        found = conversations(path.absolute(), path.stat().st_mtime_ns) if path.is_file() else _none(path)
        if split == "test":
            found = [talk for talk in found if talk.messages[-1].role == "assistant"]
            if not found:
                raise DataError(f"no conversation ends with a reply to compare with: {path}")
        else:
            found = hold_out(found)[split == "val"]
            if split == "val":
                found = [talk for talk in found if talk.messages[-1].role == "assistant"]
        self._found = found if size is None else found[:size]

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def is_held_out(self) -> bool:
        return self.split == "val" or (self.split == "test" and not self.trained_on)

    @classmethod
    def suits(cls, source: Mapping[str, Any]) -> bool:
        return False

    def __len__(self) -> int:
        return len(self._found)

    def family(self, i: int) -> str:
        return self.path.stem

    def example(self, i: int) -> Conversation:
        return self._found[i]

    def grade(self, conversation: Conversation, reply: str) -> bool:
        want = conversation.messages[-1].text
        return want.split() == reply.split() or _numbers.same(want, reply)


def _none(path: Path) -> Sequence[Conversation]:
    raise ConfigError(f"no such file of conversations: {path}", hint="name it: --task FILE.jsonl")


@functools.lru_cache(maxsize=4)
def conversations(path: Path, changed_ns: int) -> list[Conversation]:
    """Return the conversations of a file as it was when it last changed."""
    return read_chats(path)


def of_file(name: str, *, split: str | None = None, size: int | None = None, seed: int = 0) -> CustomJson:
    """Return the task that a file is."""
    return CustomJson(split=split or "test", size=size, seed=seed, path=Path(name))


def to_measure(name: str, *, trained_on: bool) -> CustomJson:
    """Return what of a file a model is to be asked: all of it, or what was held out if the model was trained on it.

    Of a file that was trained on and is too small to hold anything out, all is asked, and does not count as held out.
    """
    if trained_on and len(val := of_file(name, split="val")):
        return val
    task = of_file(name)
    task.trained_on = trained_on
    return task


TASK = CustomJson
