"""Multiple choice: how a question with lettered options is put, and how its answer is read.

The letter stands after its option with nothing but "=" before it, so that it is read as the very token that is to be
answered; small models bind an option to its letter much better that way.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from nanochat_cli.core.errors import DataError
from nanochat_cli.core.tasks._tables import Row, TableTask
from nanochat_cli.core.tokenizer.conversation import Conversation


def ask(question: str, letters: Sequence[str], options: Sequence[str]) -> str:
    """Return the user's message: the question, a line for each option, and what to reply with."""
    lines = [f"- {option}={letter}" for letter, option in zip(letters, options, strict=True)]
    return "\n".join([f"Which option is right? {question}", *lines, "", "Reply with the letter of that option only."])


class ChoiceTask(TableTask):
    """A task with lettered options; `parts` says how a row is laid out."""

    kind: ClassVar[Literal["generative", "choice"]] = "choice"
    max_reply_tokens: ClassVar[int] = 4
    baseline: ClassVar[float] = 0.25
    """Of four options; the few questions with three or five count the same, as in the published score."""

    @classmethod
    @abstractmethod
    def parts(cls, row: Row) -> tuple[str, Sequence[str], Sequence[str], str]:
        """Question, letters, options and the right letter of a row."""

    @classmethod
    def key(cls, row: Row) -> str:
        question, _, options, _ = cls.parts(row)
        return " ".join("\n".join([question, *sorted(options)]).casefold().split())

    def _parts(self, i: int) -> tuple[str, Sequence[str], Sequence[str], str]:
        question, letters, options, answer = self.parts(self.row(i))
        if answer not in letters or len(letters) != len(options) or len(set(letters)) != len(letters):
            raise DataError(f"item {i} of {self.name} ({self.split}) has no such option: {answer}")
        return question, letters, options, answer

    def example(self, i: int) -> Conversation:
        question, letters, options, answer = self._parts(i)
        return Conversation.turn(user=ask(question, letters, options), assistant=answer)

    def letters(self, i: int) -> tuple[str, ...]:
        return tuple(self._parts(i)[1])

    def label(self, i: int) -> str | None:
        return self._parts(i)[3]

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return reply.strip() == conversation.messages[-1].text
