"""Turns an item into the words of a question, with the small variations people type."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nanochat_cli.core.data.tinyworld.items import Item, Split
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.wordings import wordings
from nanochat_cli.core.data.tinyworld.words import COUNTED, NAMES

OPENERS = (
    "Hi! ", "Hello. ", "OK. ", "I need help. ", "I have a question. ", "Now this: ", "Next: ",
    "Quick question: ", "One more: ", "So, ", "Well, ", "Here is my question: ", "Let me ask: ",
)  # fmt: skip
WHOLE_PERCENT = 50  # of the questions in training are whole sentences, the others phrases in frames
CLOSERS = (" Thanks.", " Thank you.")


def question(rng: Rng, item: Item, split: Split = "train") -> str:
    """Returns one wording of the item's question (without its context); held wordings are given plainly."""
    ways = wordings(item.wording)
    if split == "held":
        return capital(filled(rng, rng.pick(ways.held), item.slots))
    wording = rng.pick(ways.whole if rng.chance(WHOLE_PERCENT) else ways.framed)
    text = capital(filled(rng, wording, dressed(rng, wording, item.slots)))
    style = rng.below(20)
    if style < 3:
        return rng.pick(OPENERS) + text
    if style == 3:
        return text + rng.pick(CLOSERS) if text[-1] in "?." else text
    if style < 7:
        text = text[0].lower() + text[1:]
        return text.rstrip("?.") if style < 6 else text
    return text.rstrip("?.") if style == 7 else text


def filled(rng: Rng, wording: str, slots: Mapping[str, object]) -> str:
    """Returns the wording with its slots, and with someone (p) and something (s) to count where it asks for them."""
    if "{s}" in wording or "{p}" in wording:
        return wording.format(p=rng.pick(NAMES), s=rng.pick(COUNTED), **slots)
    return wording.format(**slots)


def dressed(rng: Rng, wording: str, slots: Mapping[str, object]) -> Mapping[str, object]:
    """Returns the slots with word and letter now and then marked as people do: the word cat, "cat", letter a, a's."""
    changed = dict(slots)
    if "w" in slots:
        style = rng.below(20)
        if style < 3:
            changed["w"] = f'"{slots["w"]}"'
        elif style < 6 and "word" not in wording:
            changed["w"] = f"the word {slots['w']}"
    if "l" in slots:
        style = rng.below(20)
        if style < 3:
            changed["l"] = f'"{slots["l"]}"'
        elif style < 5 and ("many {l}" in wording or "the {l}" in wording):
            changed["l"] = f"{slots['l']}'s"
        elif style < 8 and "letter" not in wording and not re.search(r"\b(many|all|every) \{l}", wording):
            changed["l"] = f"letter {slots['l']}"
    return changed


def with_context(item: Item, text: str) -> str:
    """Returns the question with the item's story before it."""
    return f"{item.context} {text}" if item.context else text


def capital(text: str) -> str:
    """Returns the text with its first letter large."""
    return text[0].upper() + text[1:]
