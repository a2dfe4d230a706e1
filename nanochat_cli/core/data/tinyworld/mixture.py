"""What share each skill has, and how items become documents and conversations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from nanochat_cli.core.data.tinyworld import arithmetic, chatter, choice, echo, facts, lists, spelling, stories, tales
from nanochat_cli.core.data.tinyworld.asking import question, with_context
from nanochat_cli.core.data.tinyworld.items import Exchange, Item
from nanochat_cli.core.data.tinyworld.rng import Rng, stream
from nanochat_cli.core.tokenizer.conversation import Conversation, Message

VERSION = "tinyworld-8"  # part of every random stream: a change of content is a new version
Stage = Literal["mid", "sft"]

# Parts of 1000 documents. A story document is about four times as long as a worksheet.
# fmt: off
DOCUMENT_WEIGHTS = {
    "story": 232, "roll": 65, "list": 80, "echo": 40, "tell": 23, "add-1": 12, "add-2": 20, "add-3": 20, "sub-1": 10,
    "sub-2": 34, "sub-3": 80, "choice": 8, "spell": 75, "count": 73, "first-letter": 12, "last-letter": 18,
    "word-length": 25, "facts": 95, "next-number": 28, "small-talk": 25, "follow-up": 25,
}
CHAT_WEIGHTS = {
    "mid": {
        "story": 260, "echo": 45, "tell": 30, "add-1": 15, "add-2": 30, "add-3": 35, "sub-1": 15, "sub-2": 35,
        "sub-3": 55, "choice": 0, "spell": 70, "count": 75, "first-letter": 25, "last-letter": 30, "word-length": 30,
        "facts": 100, "any-fact": 20, "next-number": 40, "small-talk": 40, "follow-up": 50,
    },
    "sft": {
        "story": 180, "echo": 40, "tell": 30, "add-1": 15, "add-2": 25, "add-3": 30, "sub-1": 15, "sub-2": 30,
        "sub-3": 65, "choice": 60, "spell": 90, "count": 75, "first-letter": 25, "last-letter": 25, "word-length": 20,
        "facts": 100, "any-fact": 20, "next-number": 35, "small-talk": 60, "follow-up": 60,
    },
}
# fmt: on
LONGEST_STORY = 380  # characters that keep nearly every story with its questions within 128 tokens
LONGEST_WORKSHEET = 75  # characters after which no line is added: digits are a token each


def deck(weights: dict[str, int]) -> tuple[str, ...]:
    """Returns the names repeated by weight, so that one draw picks in proportion."""
    return tuple(name for name, weight in weights.items() for _ in range(weight))


DOCUMENT_DECK = deck(DOCUMENT_WEIGHTS)
CHAT_DECKS = {stage: deck(weights) for stage, weights in CHAT_WEIGHTS.items()}

# How to draw one training item of each skill that asks a single question without a story.
ITEMS: dict[str, Callable[[Rng], Item]] = {
    "echo": lambda rng: echo.item(rng, "train"),
    "tell": lambda rng: tales.item(rng, "train"),
    "add-1": lambda rng: arithmetic.add(rng, "train", 1),
    "add-2": lambda rng: arithmetic.add(rng, "train", 2),
    "add-3": lambda rng: arithmetic.add(rng, "train", 3),
    "sub-1": lambda rng: arithmetic.subtract(rng, "train", 1),
    "sub-2": lambda rng: arithmetic.subtract(rng, "train", 2),
    "sub-3": lambda rng: arithmetic.subtract(rng, "train", 3),
    "choice": lambda rng: choice.three_numbers(rng, "train", direct=rng.chance(choice.DIRECT_PERCENT)),
    "spell": lambda rng: spelling.item(rng, "train", "spell"),
    "count": lambda rng: spelling.item(rng, "train", "count"),
    "first-letter": lambda rng: spelling.item(rng, "train", "first-letter"),
    "last-letter": lambda rng: spelling.item(rng, "train", "last-letter"),
    "word-length": lambda rng: spelling.item(rng, "train", "word-length"),
    "facts": lambda rng: facts.item(rng, "train"),
    "next-number": lambda rng: arithmetic.neighbour(rng, "train"),
}


def document(seed: int, i: int) -> str:
    """Returns pretraining document i of this seed: a story with its questions, or a short worksheet of one skill."""
    rng = stream(VERSION, seed, "document", i)
    skill = rng.pick(DOCUMENT_DECK)
    if skill == "story":
        return story_document(rng)
    if skill == "roll":
        return stories.roll(rng)
    if skill == "list":
        return lists.said_again(rng)
    num_lines = rng.between(2, 6) if skill == "facts" else rng.between(1, 3)
    lines = [line(rng, skill)]
    while len(lines) < num_lines and sum(map(len, lines)) < LONGEST_WORKSHEET:
        lines.append(line(rng, skill))
    return "\n".join(lines)


def told(rng: Rng) -> tuple[str, list[Item], stories.World]:
    """Returns a story that answers at least one question; now and then all that would happen is kept for testing.

    In many of them what someone has after gifts is asked first: it is rarer than the others, and harder.
    """
    while True:
        text, items, world = stories.tell(rng, "train")
        if items:
            if rng.chance(40):
                items.sort(key=lambda item: item.family != "story/what-moved")
            return text, items, world


def story_document(rng: Rng) -> str:
    """Returns a story and up to four of its questions answered, a third of them without the question's words."""
    text, items, world = told(rng)
    lines = [text]
    if rng.chance(60):
        lines.append(stories.ledger(rng, world))
    for item in items[:4]:
        lines.append(item.worked if rng.chance(35) else f"{question(rng, item)} {item.worked}")
        if sum(map(len, lines)) > LONGEST_STORY:
            lines.pop()
            break
    return "\n".join(lines)


def line(rng: Rng, skill: str) -> str:
    """Returns one line of a worksheet: a bare worked answer or a question with it."""
    if skill == "small-talk":
        said, reply = chatter.small_talk(rng, "train").turns[0]
        return f"{said} {reply}"
    if skill == "choice":  # the long way only: pretraining shows that work can be shown
        return choice.three_numbers(rng, "train", direct=False).worked
    if skill == "follow-up":
        return "\n".join(" ".join(turn) for turn in chatter.follow_up(rng, "train").turns)
    if skill == "facts" and rng.chance(60):
        return facts.told(rng)
    item = ITEMS[skill](rng)
    if skill != "echo" and rng.chance(50):  # an echo says nothing without what it repeats
        return item.worked
    return f"{question(rng, item)} {item.worked}"


def chat(seed: int, i: int, stage: Stage = "sft") -> Conversation:
    """Returns training conversation i of this seed for mid-training or fine-tuning."""
    rng = stream(VERSION, seed, stage, i)
    skill = rng.pick(CHAT_DECKS[stage])
    if skill == "story":
        turns = story_turns(rng)
    elif skill == "any-fact":
        turns = (chatter.any_fact(rng),)
    elif skill in ("small-talk", "follow-up"):
        talk = chatter.small_talk if skill == "small-talk" else chatter.follow_up
        turns = talk(rng, "train").turns
    else:
        turns = item_exchange(rng, ITEMS[skill](rng)).turns
        if rng.chance(4):
            turns += thanks(rng)
    return conversation(turns)


def story_turns(rng: Rng) -> tuple[tuple[str, str], ...]:
    """Returns a conversation about one story: two questions in most cases, the story told in the first turn."""
    _, (first, *rest), _ = told(rng)
    turns = [(with_context(first, question(rng, first)), first.worked)]
    if rng.chance(75):
        turns += [(question(rng, item), item.worked) for item in rest[:1]]
    return tuple(turns)


def thanks(rng: Rng) -> tuple[tuple[str, str], ...]:
    """Returns the turn of someone who says thank you."""
    talk = next(talk for talk in chatter.TALKS if talk.name == "thanks")
    return ((rng.pick(talk.trained), talk.reply),)


def item_exchange(rng: Rng, item: Item, wording: Literal["train", "held"] = "train") -> Exchange:
    """Returns the item as one question and its worked answer."""
    asked = with_context(item, question(rng, item, wording))
    return Exchange(turns=((asked, item.worked),), family=item.family, answer=item.answer, shortcut=item.shortcut)


def conversation(turns: tuple[tuple[str, str], ...]) -> Conversation:
    """Returns (user, assistant) turns as a conversation."""
    return Conversation(
        tuple(Message(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True))
    )
