"""Spelling: a word's letters one by one, which a model that reads pieces of words never sees."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from nanochat_cli.core.data.order import permute
from nanochat_cli.core.tasks._spelling import SpellingTask
from nanochat_cli.core.tokenizer.conversation import Conversation


class SimpleSpelling(SpellingTask):
    """Every word of the list once, in an order of the seed's own, before any comes again."""

    num_train = 200_000
    max_reply_tokens: ClassVar[int] = 64

    def __init__(self, *, split: str = "test", size: int | None = None, seed: int = 0) -> None:
        super().__init__(split=split, size=size, seed=seed)
        self._order = permute(np.arange(len(self.words)), len(self.words), seed)

    def __len__(self) -> int:
        return super().__len__() if self.split == "train" else min(super().__len__(), len(self.words))

    def word(self, i: int) -> str:
        """The word of item `i`."""
        self.check(i)
        return self.words[self._order[i % len(self.words)]]

    def example(self, i: int) -> Conversation:
        word = self.word(i)
        return Conversation.turn(user=f"Spell the word: {word}", assistant=spelled(word))

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return reply.strip() == conversation.messages[-1].text


def spelled(word: str) -> str:
    """Return `cat:c,a,t`."""
    return f"{word}:{','.join(word)}"


TASK = SimpleSpelling
