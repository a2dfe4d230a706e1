"""GSM8K: school maths in words (arXiv 2110.14168), each sum of the worked answer a call of the calculator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from nanochat_cli.core.tasks import _numbers
from nanochat_cli.core.tasks._tables import TableTask
from nanochat_cli.core.tokenizer.conversation import Conversation, Part

_CALL = re.compile(r"<<([^<>]*)>>")


class Gsm8k(TableTask):
    """About 6,970 questions to train on, 500 of the training set to select by, 1,319 to report."""

    needs = ("gsm8k",)
    columns = ("question", "answer")
    val_share = 500 / 7473
    max_reply_tokens: ClassVar[int] = 256

    @classmethod
    def files(cls, folder: Path, split: str) -> tuple[Path, str]:
        return folder / "main" if (folder / "main").is_dir() else folder, f"{split}*"

    def example(self, i: int) -> Conversation:
        row = self.row(i)
        return Conversation.turn(user=row["question"], assistant=worked(row["answer"]))

    def label(self, i: int) -> str | None:
        value = _numbers.stated(self.row(i)["answer"])
        return None if value is None else _numbers.plain(value)

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return _numbers.same(conversation.messages[-1].text, reply)


def worked(answer: str) -> tuple[Part, ...]:
    """Return a worked answer as parts: `<<48/2=24>>` is a call of the calculator and what it gives, the rest text."""
    parts: list[Part] = []
    for place, piece in enumerate(_CALL.split(answer)):
        if place % 2:
            expression, _, result = piece.rpartition("=")
            parts += [Part("python", expression), Part("python_output", result)] if expression else []
        elif piece:
            parts.append(Part("text", piece))
    return tuple(parts)


TASK = Gsm8k
