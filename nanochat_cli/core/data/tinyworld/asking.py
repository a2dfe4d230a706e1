"""Turns an item into the words of a question, with the small variations people type."""

from __future__ import annotations

from nanochat_cli.core.data.tinyworld.items import Item, Split
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.wordings import WORDINGS
from nanochat_cli.core.data.tinyworld.words import COUNTED, NAMES

OPENERS = ("Hi! ", "Hello. ", "OK. ", "Please help me. ", "I have a question. ", "Now this: ", "Next: ", "Tell me: ")
CLOSERS = (" Please.", " Thanks.", " Thank you.")


def question(rng: Rng, item: Item, split: Split = "train") -> str:
    """Returns one wording of the item's question (without its context); held wordings are given plainly."""
    trained, held = WORDINGS[item.wording]
    if split == "held":
        return capital(filled(rng, rng.pick(held), item))
    text = capital(filled(rng, rng.pick(trained), item))
    style = rng.below(20)
    if style < 2:
        return rng.pick(OPENERS) + text
    if style == 2:
        return text + rng.pick(CLOSERS) if text[-1] in "?." else text
    if style < 6:
        text = text[0].lower() + text[1:]
        return text.rstrip("?.") if style < 5 else text
    return text.rstrip("?.") if style == 6 else text


def filled(rng: Rng, wording: str, item: Item) -> str:
    """Returns the wording with the item's slots, and with someone (p) and something (s) to count where it asks."""
    if "{s}" in wording:
        return wording.format(p=rng.pick(NAMES), s=rng.pick(COUNTED), **item.slots)
    return wording.format(**item.slots)


def with_context(item: Item, text: str) -> str:
    """Returns the question with the item's story before it."""
    return f"{item.context} {text}" if item.context else text


def capital(text: str) -> str:
    """Returns the text with its first letter large."""
    return text[0].upper() + text[1:]
