"""Questions about the generated little world: keys never trained on, in wordings trained on or not.

What is held out, by family; a key is held by a hash of its meaning, a tenth of all keys unless said otherwise:

- add, sub, next-number, choice: the pair (or triple, or number and direction); a + b and b + a are one key.
- spell, count, first-letter, last-letter, word-length: the word in this one use. Its letters are met in the others.
- facts: the question. Three facts in ten are told in pretraining, as sentences and as bare lines, and never asked for.
- story: who holds what, who is where. A held pair is true in no training story or list (made-up tales are free).
- echo: what is to be repeated.
- tell: the person and the thing together, as a request.
- chat, follow-up: a quarter of the visitors' names and topics. Fixed lines (greetings, thanks) have nothing to hold out
  but their wording.

Of the held keys, a tenth is set apart again, to choose by (`val`): no reported question has one of those. For stories
it is told by what is asked about and the answer, for chats by the reply.

Wordings are held out by a hash as well, an eighth of each kind: sentences of their own ("how much less than 8 is 3?"),
and, more than nine times in ten, a trained phrase in a trained frame that it never stood in ("I ask you how much more 8
is than 3"). `benches/held_wordings.py` tells the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nanochat_cli.core.data.tinyworld import (
    arithmetic,
    chatter,
    choice,
    echo,
    facts,
    grading,
    mixture,
    spelling,
    stories,
    tales,
)
from nanochat_cli.core.data.tinyworld.items import Exchange, Item, Split, is_held
from nanochat_cli.core.data.tinyworld.rng import Rng, stream
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.tasks.base import Task
from nanochat_cli.core.tokenizer.conversation import Conversation

FAMILIES = (
    "add-1", "add-2", "add-3", "sub-2", "sub-3", "next-number", *spelling.KINDS, "facts", *stories.FAMILIES, "echo",
    "tell", "chat", "follow-up", "choice",
)  # fmt: skip
PER_FAMILY = 200


class TinyWorld(Task):
    """`held` asks trained wordings about held-out keys, `held-wording` asks held-out wordings about them too.

    `val` asks trained wordings about held-out keys that neither of them has.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "held", "held-wording")
    held_out: ClassVar[tuple[str, ...]] = ("held", "held-wording")
    selection: ClassVar[str | None] = "val"
    endless: ClassVar[bool] = True
    practice: ClassVar[tuple[str, ...]] = ("choice",)
    max_reply_tokens: ClassVar[int] = 96

    def __init__(
        self, *, split: str = "held", size: int | None = None, seed: int = 0, families: tuple[str, ...] = FAMILIES
    ) -> None:
        """Opens the families given, interleaved; None for `size` gives each of them PER_FAMILY questions.

        Raises ConfigError for an unknown family or split.
        """
        super().__init__(split=split, size=size, seed=seed)
        for family in families:
            if family not in FAMILIES:
                raise ConfigError(f"unknown family: {family}", hint=f"choose from: {', '.join(FAMILIES)}")
        self.families = families

    @classmethod
    def suits(cls, source: Mapping[str, Any]) -> bool:
        return source.get("generator") == "tinyworld" and source.get("version") == mixture.VERSION

    def __len__(self) -> int:
        return self.size or PER_FAMILY * len(self.families)

    def family(self, i: int) -> str:
        return self.families[i % len(self.families)]

    def exchange(self, i: int) -> Exchange:
        """Returns question `i` with its answer and what the shortcut says."""
        family = self.family(i)
        rng = stream(mixture.VERSION, self.seed, self.split, family, i // len(self.families))
        split: Split = "train" if self.split == "train" else "held"
        wording: Split = "held" if self.split == "held-wording" else "train"
        while True:
            found = _TALKS[family](rng, split, wording) if family in _TALKS else draw(rng, family, split)
            if split == "train" or is_for_selection(found) == (self.split == "val"):
                return found if isinstance(found, Exchange) else mixture.item_exchange(rng, found, wording)

    def example(self, i: int) -> Conversation:
        return mixture.conversation(self.exchange(i).turns)

    def label(self, i: int) -> str | None:
        return None if self.family(i) == "tell" else self.exchange(i).answer

    def shortcut(self, i: int) -> str | None:
        return self.exchange(i).shortcut or None

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return grading.is_right(conversation.messages[-1].text, reply)


_TALKS = {"chat": chatter.small_talk, "follow-up": chatter.follow_up}


def is_for_selection(found: Item | Exchange) -> bool:
    """Returns True if a held-out question is one to choose by, in any wording and order of its numbers."""
    key = [found.family]
    if isinstance(found, Item):
        key += sorted(map(str, found.slots.values()))
    if found.family != "tell":  # told differently each time
        key.append(found.answer)
    return is_held("selection", "/".join(key))


def draw(rng: Rng, family: str, split: Split) -> Item:
    """Returns one item of a family of single questions."""
    kind, _, digits = family.partition("-")
    if kind == "add":
        return arithmetic.add(rng, split, int(digits))
    if kind == "sub":
        return arithmetic.subtract(rng, split, int(digits))
    if family in spelling.KINDS:
        return spelling.item(rng, split, family)
    if family in stories.FAMILIES:
        return stories.question_of(rng, split, family)
    return {
        "next-number": lambda: arithmetic.neighbour(rng, split),
        "facts": lambda: facts.item(rng, split),
        "echo": lambda: echo.item(rng, split),
        "tell": lambda: tales.item(rng, split),
        "choice": lambda: choice.three_numbers(rng, split, direct=False),
    }[family]()


TASK = TinyWorld
